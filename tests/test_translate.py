"""`oncebox translate` as a process: killed and started again, it loses nothing and keeps order."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from lensing import Amount, Placed2, Shop, lenses, shop
from oncebox.envelope import read_envelope
from oncebox.testing import drain
from producing import await_true
from test_lens_copies import by_key, records, said

__all__ = ["lenses", "shop"]

APP = """
from oncebox import Service, add, evolve, rename, wrap
evolve("order.placed", 1, 2, wrap("cents", into="amount.minor"),
       add("amount.currency", default="EUR"), rename("cust", "customer"))
shop = Service("shop")
"""
EVENTS, KEYS, KILLS = 450, 7, 3


def start(shop: Shop, folder: Path, words: Any) -> subprocess.Popen[bytes]:
    arguments = [
        "translate", "orders", "orders.v1", "--to", "order.placed=1", "--migrate", "--app", "app",
        "--store", f"sqlite:///{folder}/translate.db", "--log", shop.log,
    ]  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "oncebox", *arguments], cwd=folder, stdout=words, stderr=words
    )


def ids(shop: Shop) -> set[str]:
    return {read_envelope(record).id for record in records(shop, "orders.v1")}


def wait_for(shop: Shop, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until so many different events were copied, or the process is gone."""
    await_true(lambda: len(ids(shop)) >= count or process.poll() is not None, f"{count} copies")
    assert process.poll() is None


def test_killed_and_started_again_it_loses_nothing(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    sent = [Placed2(f"o-{n % KEYS}", Amount(n, "EUR"), "ada") for n in range(EVENTS)]
    with (tmp_path / "words").open("wb") as words:
        code = -1
        for kill in range(KILLS):
            shop.emit(*sent[kill * EVENTS // KILLS : (kill + 1) * EVENTS // KILLS])
            assert drain(shop.shop) == []
            last, process = kill == KILLS - 1, start(shop, tmp_path, words)
            try:
                wait_for(shop, EVENTS if last else len(ids(shop)) + 1, process)
            finally:
                process.send_signal(signal.SIGTERM if last else signal.SIGKILL)
                code = process.wait(30)
        assert code == 0, (tmp_path / "words").read_text()
    for key in (f"o-{n}" for n in range(KEYS)):
        news, olds = by_key(shop, "orders", key), by_key(shop, "orders.v1", key)
        assert list(dict.fromkeys(said(r)["id"] for r in olds)) == [said(r)["id"] for r in news]
        assert all("cents" in said(r)["data"] for r in olds)

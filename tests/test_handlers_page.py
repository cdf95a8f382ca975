"""The page about handlers: its examples run as they stand, on PostgreSQL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import psycopg
import pytest

from oncebox.consumer.abreast import AbreastLoop
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import Settings
from oncebox.errors import ConfigurationError
from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.service.running import consumer_loop, consumer_store, is_concurrent
from oncebox.service.service import Service
from oncebox.stores.adapt import adapt, open_store
from oncebox.tables.migrate import migrate
from oncebox.testing.drain import drain

PAGE = Path(__file__).parents[1] / "docs" / "handlers.md"


def examples(**urls: str) -> dict[str, Any]:
    """What the page's code defines, with other URLs."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL))
    for shown, real in (("postgresql://billing", "store"), ("kafka://localhost", "log")):
        assert shown in code
        code = code.replace(shown, urls[real])
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)
    return names


def test_the_examples_do_what_the_page_says(postgres_url: str, tmp_path: Path) -> None:
    log = f"sqlite:///{tmp_path}/events.db"
    page = examples(store=postgres_url, log=log)
    billing, placed = page["billing"], page["OrderPlaced"]
    with psycopg.connect(postgres_url) as connection:
        drive(migrate(adapt(connection)))
        connection.execute("CREATE TABLE total (order_id text PRIMARY KEY, cents bigint)")
        connection.execute("CREATE TABLE letter (n bigserial, order_id text, receipt text)")
        for number in range(30):
            billing.emit(connection, placed(f"o-{number % 3}", number))
    made = open_log(log)
    made.create("orders", 2)
    made.close()
    assert drain(billing) == []
    with psycopg.connect(postgres_url) as connection:
        totals = connection.execute("SELECT * FROM total ORDER BY 1").fetchall()
        letters = connection.execute("SELECT order_id, receipt FROM letter").fetchall()
    assert totals == [(f"o-{n}", sum(range(n, 30, 3))) for n in range(3)]
    assert len(letters) == len(set(letters)) == 30
    assert all(receipt.startswith(f"sent {order} ") for order, receipt in letters)


def test_what_works_side_by_side(postgres_url: str, tmp_path: Path) -> None:
    log_url = f"sqlite:///{tmp_path}/events.db"
    log = open_log(log_url)
    page = examples(store=postgres_url, log=log_url)
    kinds = {}
    for name, consumer in page["billing"].consumers.items():
        store = consumer_store(page["billing"], consumer)
        loop = drive(
            consumer_loop(
                page["billing"], consumer, store, log, "me", None,
                stopping=lambda: True, sleep=lambda _: None,
            )
        )  # fmt: skip
        kinds[name] = type(loop)
        drive(loop.leave())
    assert kinds == {"billing.totals": ConsumerLoop, "billing.mail": AbreastLoop}
    log.close()


def test_lists_and_single_transactions_exclude_each_other(postgres_url: str) -> None:
    page = examples(store=postgres_url, log="sqlite:///events.db")
    totals = page["billing"].consumer("totals", concurrency=2)
    with pytest.raises(ConfigurationError, match="add_up"):
        is_concurrent(totals, open_store(postgres_url))


def test_on_sqlite_events_are_handled_one_by_one(tmp_path: Path) -> None:
    service = Service("mail", settings=Settings(concurrency=64))
    assert service.consumer().settings.concurrency == 64
    assert not is_concurrent(service.consumer(), open_store(f"sqlite:///{tmp_path}/store.db"))

"""Threads that take turns: one runs while all others wait, and no way of ending keeps the turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from engines.postgres import Postgres
from oncebox.program import Program, call
from oncebox.stores.adapt import open_store
from oncebox.turns import Turn, drive_in_turn

WAIT_S = 20.0


@pytest.fixture
def session(postgres_server: Postgres) -> Iterator[Any]:
    with postgres_server.database() as url:
        opened: Any = open_store(url).open()
        yield opened
        opened.close()


def free(turn: Turn) -> bool:
    """Whether nobody has it."""
    found = []

    def look() -> None:
        turn.take()
        turn.give_up()
        found.append(True)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return found == [True]


def test_others_run_while_a_program_waits_for_the_database(session: Any) -> None:
    turn, began = Turn(), time.monotonic()
    session.take_turns(turn)
    ran: list[str] = []

    def long() -> Program[None]:
        assert turn.mine
        ran.append("asks")
        yield from call(session.run, "select pg_sleep(1)")
        assert turn.mine
        ran.append("is answered")

    def short() -> Program[None]:
        ran.append("another")
        yield from ()

    threads = [threading.Thread(target=drive_in_turn, args=(p(), turn)) for p in (long, short)]
    threads[0].start()
    while not ran and time.monotonic() < began + WAIT_S:
        time.sleep(0.001)
    threads[1].start()
    for thread in threads:
        thread.join(WAIT_S)
    assert ran == ["asks", "another", "is answered"]
    assert free(turn)


def test_a_handler_runs_without_the_turn_and_its_statements_do_not_take_it(session: Any) -> None:
    turn = Turn()
    session.take_turns(turn)

    def handler() -> Any:
        assert not turn.mine
        assert free(turn)
        found = session.handle.execute("select 1").fetchone()
        assert not turn.mine
        return found

    def program() -> Program[Any]:
        found = yield from call(handler)
        assert turn.mine
        return found

    assert drive_in_turn(program(), turn) == (1,)
    assert free(turn)


def test_a_failing_statement_comes_back_with_the_turn(session: Any) -> None:
    turn = Turn()
    session.take_turns(turn)

    def program() -> Program[None]:
        with pytest.raises(psycopg.errors.DivisionByZero):
            yield from call(session.run, "select 1 / 0")
        assert turn.mine
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        drive_in_turn(program(), turn)
    assert free(turn)


def test_an_interrupted_wait_comes_back_with_the_turn(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(BaseException):
        pass

    def steps() -> Iterator[int]:
        yield 1
        raise AssertionError("it is never answered")

    turn: Any = Turn()
    session.take_turns(turn)
    turn.take()
    waiting: Any = turn.waits(steps())
    next(waiting)
    assert not turn.mine
    with pytest.raises(Stopped):
        waiting.throw(Stopped())
    assert turn.mine
    turn.give_up()

    def dies(_: Any, gen: Any) -> None:
        next(gen)
        raise Stopped

    turn.take()
    monkeypatch.setattr(psycopg.Connection, "wait", dies)
    with pytest.raises(Stopped):
        session.handle.wait(steps())
    assert turn.mine
    turn.give_up()
    monkeypatch.undo()
    assert free(turn)

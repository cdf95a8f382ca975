"""Lists as PostgreSQL reads them: what set-based handlers pass is what psycopg alone would write."""

from __future__ import annotations

import uuid
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.adapt import Dumper, PyFormat, Transformer
from psycopg.types.array import ListDumper

from engines.postgres import Postgres
from oncebox.stores.adapt import open_store
from oncebox.stores.arrays import QuickListDumper

TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(2**63), 2**63 - 1)
LISTS = st.one_of(
    st.lists(TEXTS),
    st.lists(st.sampled_from(["", "null", "NULL", '"', "\\", "{}", ",", " ", "a\nb", "ключ"])),
    st.lists(NUMBERS),
    st.lists(st.one_of(st.none(), TEXTS)),
    st.lists(st.one_of(st.none(), NUMBERS)),
    st.lists(st.booleans()),
    st.lists(st.lists(NUMBERS, min_size=1, max_size=1), max_size=3),
)  # fmt: skip


@pytest.fixture
def both(postgres_server: Postgres) -> Any:
    """Our connection, and psycopg's own."""
    with postgres_server.database() as url, psycopg.connect(url, autocommit=True) as plain:
        session: Any = open_store(url).open()
        yield session.handle, plain
        session.close()


def test_lists_arrive_as_they_were_with_the_drivers_types(both: Any) -> None:
    @settings(max_examples=300, deadline=None)
    @given(LISTS)
    def lists_arrive(values: list[Any]) -> None:
        kind = "bigint[]" if any(isinstance(v, int | list) for v in values) else "text[]"
        kind = "boolean[]" if any(isinstance(v, bool) for v in values) else kind
        ours, plain = (Transformer(c).get_dumper(values, PyFormat.AUTO) for c in both)
        assert isinstance(ours, QuickListDumper)
        assert ours.oid == plain.oid
        for connection in both:
            assert connection.execute(f"select %s::{kind}", (values,)).fetchone() == (values,)

    lists_arrive()


def test_the_database_still_finds_the_type_of_a_list_of_texts(both: Any) -> None:
    one = uuid.uuid4()
    for connection in both:
        found = connection.execute("select %s::uuid = any(%s)", (one, [str(one)])).fetchone()
        assert found == (True,)


def test_a_text_with_nul_is_refused_as_ever(both: Any) -> None:
    for connection in both:
        with pytest.raises(psycopg.DataError, match="NUL"):
            connection.execute("select %s::text[]", (["a", "b\0c"],))


def test_values_of_an_application_with_a_dumper_of_its_own_go_through_it(both: Any) -> None:
    class Loud(Dumper):
        oid = 25

        def dump(self, obj: str) -> bytes:
            return obj.upper().encode()

    connection, _ = both
    connection.adapters.register_dumper(str, Loud)
    assert connection.execute("select %s", (["a", "b"],)).fetchone() == (["A", "B"],)


def test_the_quick_way_is_taken(monkeypatch: pytest.MonkeyPatch, both: Any) -> None:
    def slow(*_: Any) -> bytes:
        raise AssertionError("the driver's own way")

    monkeypatch.setattr(ListDumper, "dump", slow)
    connection, _ = both
    for values in (["a", "b c", "ключ, {1}"], [1, -2, 2**40]):
        assert connection.execute("select %s", (values,)).fetchone() is not None
    with pytest.raises(AssertionError, match="own way"):
        connection.execute("select %s", ([1.5],))

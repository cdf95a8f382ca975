"""What tests do as an operator."""

from __future__ import annotations

from typing import Any, cast

from chains import World
from oncebox.desk import Desk
from oncebox.program import drive
from oncebox.session import Session
from oncebox.statements import statements
from oncebox.waiting import Waiting, Where, waiting

ALL = Where()


def desk_of(world: World, session: Any = None) -> Desk:
    return Desk(
        consumer="billing",
        session=cast("Session", session or world.session),
        sql=statements(world.store.dialect),
        trouble=world.store.trouble,
        now_ms=lambda: world.now_ms,
        by="a test",
    )


def wait_list(world: World, where: Where = ALL) -> list[Waiting]:
    return drive(waiting(desk_of(world), where)).found

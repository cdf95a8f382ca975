"""The application: the bank emits in SQL (`tpcb.sql`); the replica follows it in a second database.

`oncebox run bank` relays, `oncebox run replica` consumes; where they are is in `oncebox.toml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oncebox import Context, Service, event


@event("account.moved", stream="accounts", key="aid")
@dataclass(frozen=True)
class AccountMoved:
    """`balance`: after the update."""

    aid: int
    delta: int
    balance: int


@event("teller.moved", stream="tellers", key="tid")
@dataclass(frozen=True)
class TellerMoved:
    """As AccountMoved."""

    tid: int
    delta: int
    balance: int


@event("branch.moved", stream="branches", key="bid")
@dataclass(frozen=True)
class BranchMoved:
    """As AccountMoved."""

    bid: int
    delta: int
    balance: int


bank = Service[Any]("bank")
replica = Service[Any]("replica")

MOVE = """
with moved as (
  insert into balance as b (kind, id, balance) values (%s, %s, %s)
  on conflict (kind, id) do update set balance = b.balance + excluded.balance
  returning kind, id, balance
)
insert into history (kind, id, balance, said, emitted)
select kind, id, balance, %s, %s from moved
"""


@replica.on(AccountMoved)
def move_account(tx: Any, moved: AccountMoved, context: Context[None]) -> None:
    """Add what was moved; do not set what the event says: that would hide what was missed."""
    tx.execute(MOVE, ("account", moved.aid, moved.delta, moved.balance, context.time))


@replica.on(TellerMoved)
def move_teller(tx: Any, moved: TellerMoved, context: Context[None]) -> None:
    """As move_account."""
    tx.execute(MOVE, ("teller", moved.tid, moved.delta, moved.balance, context.time))


@replica.on(BranchMoved)
def move_branch(tx: Any, moved: BranchMoved, context: Context[None]) -> None:
    """As move_account."""
    tx.execute(MOVE, ("branch", moved.bid, moved.delta, moved.balance, context.time))

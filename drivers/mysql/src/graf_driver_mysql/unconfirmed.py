"""What an asynchronous standby may lack: how far it is behind what the active was seen to have. Pure.

Nothing waits for such a standby, so it never has proof of having every acknowledged write. What it can tell is what it
lacked of the active's history when it last asked. After the active's loss that is a lower bound, and how old it is says
how much may have come after it.
"""

from __future__ import annotations

from dataclasses import dataclass

from graf_driver_mysql.history import History
from graf_driver_mysql.observe import Observation


@dataclass(frozen=True, slots=True)
class Seen:
    """What a site's active had, and when it was asked (the loop's clock, seconds)."""

    site: str
    history: History
    at_s: float


def lacking(active: Seen, here: Observation) -> int:
    """Transactions that the active had and that would be missing after a promotion: what is received is applied."""
    mine = here.applied if here.replica is None else here.applied.merged(here.replica.received)
    return active.history.transactions_beyond(mine)


def told(active: Seen | None, here: Observation, now_s: float) -> str:
    """For people: the number, of when it is, and what is not known."""
    if active is None:
        return "unknown: the active was not asked yet"
    return (
        f"at least {lacking(active, here)} transactions, of what {active.site} had {now_s - active.at_s:.1f} s ago; "
        "what it acknowledged since is unknown"
    )


def lag(active: Seen | None, here: Observation, now_s: float, fresh_s: float) -> int | None:
    """Transactions behind the active; None where it was not asked lately."""
    if active is None or now_s - active.at_s > fresh_s:
        return None
    return active.history.transactions_beyond(here.applied)

"""What an asynchronous standby may lack: how far it is behind what the active was seen to have. Pure.

Nothing waits for such a standby, so it never has proof of having every acknowledged write. What it can tell is what it
lacked of the active's history when it last asked. After the active's loss that is a lower bound of transactions.

In *time* there is an upper bound: everything that the active had at some moment is here, so only what was written
since may be missing. It grows for as long as the active is silent, and is what ``rpoSeconds`` limits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from graf_driver_mysql.history import History
from graf_driver_mysql.observe import Observation

MOST_AHEAD = 600


@dataclass(frozen=True, slots=True)
class Seen:
    """What a site's active had, and when it was asked (the loop's clock, seconds)."""

    site: str
    history: History
    at_s: float


class Freshness:
    """Invariant: everything that the active had at ``whole_s`` is here, received or applied."""

    def __init__(self) -> None:
        self.last: Seen | None = None
        self.whole_s: float | None = None
        self._ahead: deque[Seen] = deque()

    def asked(self, answer: Seen) -> None:
        """The active told what it has; the time is of before it was asked."""
        self.last = answer
        if len(self._ahead) < MOST_AHEAD:  # a later one only makes the bound better
            self._ahead.append(answer)

    def look(self, here: Observation) -> None:
        """What is here now may cover more of what the active had."""
        mine = _received(here)
        while self._ahead and mine.covers(self._ahead[0].history):
            self.whole_s = self._ahead.popleft().at_s

    def forget(self) -> None:
        """What was received may be gone from here."""
        self.whole_s = None
        self._ahead.clear()

    def age_s(self, now_s: float) -> float | None:
        """How long ago everything that the active had was here: what may be missing is younger. None: unknown."""
        return None if self.whole_s is None else now_s - self.whole_s


def beyond_rpo(age_s: float | None, rpo_s: float | None) -> str:
    """Why more may be missing than is allowed, "" when not, or when nothing is declared."""
    if rpo_s is None:
        return ""
    if age_s is None:
        return f"since when writes may be missing here is not known, and at most rpoSeconds ({rpo_s:g} s) may be"
    return f"writes of the last {age_s:.1f} s may be missing here, rpoSeconds is {rpo_s:g}" if age_s > rpo_s else ""


def _received(here: Observation) -> History:
    return here.applied if here.replica is None else here.applied.merged(here.replica.received)


def lacking(active: Seen, here: Observation) -> int:
    """Transactions that the active had and that would be missing after a promotion: what is received is applied."""
    return active.history.transactions_beyond(_received(here))


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

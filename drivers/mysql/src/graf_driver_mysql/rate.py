"""How fast a standby applies, and how long its promotion would take now. Pure; time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

from graf_driver_mysql.history import History
from graf_driver_mysql.values import Observation

WINDOW_S = 5.0  # the rate is of the last window that was full
BASE_S = 0.05  # a promotion with nothing left to apply (measured: 6-38 ms)


@dataclass(frozen=True, slots=True)
class _Mark:
    at_s: float
    applied: History


class ApplyRate:
    """Transactions per second over the last window; unknown until there was one in which something was applied."""

    def __init__(self) -> None:
        self.per_second: float | None = None
        self._mark: _Mark | None = None

    def see(self, seen: Observation, now_s: float) -> None:
        """After each observation. A server that follows nobody applies nothing, and its old rate means nothing."""
        if seen.replica is None:
            self.per_second = self._mark = None
            return
        mark = self._mark
        if mark is None:
            self._mark = _Mark(now_s, seen.applied)
        elif now_s - mark.at_s >= WINDOW_S:
            done = seen.applied.transactions_beyond(mark.applied)
            if done:  # an idle window says nothing about how fast it could be
                self.per_second = done / (now_s - mark.at_s)
            self._mark = _Mark(now_s, seen.applied)

    def promotion_s(self, waiting: int) -> float | None:
        """What a promotion would take with so many transactions received and not applied; None when unknown.

        The rate of a standby that keeps pace is the active's rate of writes, so this is an upper bound.
        """
        if waiting < 0:
            return None
        if waiting == 0:
            return BASE_S
        return None if self.per_second is None else BASE_S + waiting / self.per_second

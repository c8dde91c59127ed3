"""What a scenario file expects, checked on what was seen of a run. Values in, values out."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from graf.api.timing import MILLISECOND_NS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from graf.scenario.expect import Expect


@dataclass(frozen=True, slots=True)
class SeenMove:
    """A move of the group between sites, in the words of a file."""

    type: str
    origin: str
    target: str

    def __str__(self) -> str:
        return f"{self.type} {self.origin}->{self.target}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was seen of a run.

    Attributes:
        stopped: Why the steps, or the end that is waited for, were not reached; empty when they were.
        ended: Whether that was the end and not a step.
        violation: The invariant that did not hold; empty when all did.
        lost: Writes that a client was told are safe and that the site which serves in the end does not have.
        dual_active: Acknowledgements by a site that had been replaced.
        dual_served: Times at which two sites answered reads.
        outage_ms: Longest time without any acknowledgement.
        reasons: Codes that were told since the first step.
    """

    stopped: str
    ended: bool
    violation: str
    moves: tuple[SeenMove, ...]
    lost: tuple[int, ...]
    dual_active: int
    dual_served: int
    outage_ms: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was expected, and what was seen."""

    what: str
    passed: bool
    detail: str


def judge(expect: Expect, seen: Evidence, profile: str) -> tuple[Check, ...]:
    """Every expectation of a file, and that the invariants hold in any case."""
    return tuple(_checks(expect, seen, profile))


def _checks(expect: Expect, seen: Evidence, profile: str) -> Iterator[Check]:
    yield Check("invariants I1-I11", not seen.violation, seen.violation or "all hold")
    steps = seen.stopped if not seen.ended else ""
    yield Check("steps", not steps, steps or "each was done in time")
    lost = f"{len(seen.lost)} lost" + (f", the first is number {seen.lost[0]}" if seen.lost else "")
    yield Check("lost writes", len(seen.lost) <= expect.lost_writes, lost)
    dual = f"{seen.dual_active} acknowledgements by a site that had been replaced"
    yield Check("dual active", seen.dual_active <= expect.dual_active, dual)
    if expect.dual_served is not None:
        served = f"{seen.dual_served} times two sites answered reads"
        yield Check("dual served", seen.dual_served <= expect.dual_served, served)
    yield _moves(expect, seen)
    for code in expect.holds_because:
        told = ", ".join(seen.reasons) or "nothing"
        yield Check(f"reason {code}", code in seen.reasons, "told" if code in seen.reasons else f"told were: {told}")
    limit_ms = {str(name): limit for name, limit in expect.max_outage_ms.items()}.get(profile)
    if limit_ms is not None:
        detail = f"{seen.outage_ms:.0f} ms without an acknowledgement, {limit_ms} ms allowed"
        yield Check("outage", seen.outage_ms <= limit_ms, detail)
    end = seen.stopped if seen.ended else ("the steps did not come to an end" if seen.stopped else "")
    yield Check("end", not end, end or f"{expect.finally_.active_at} is active")


def _moves(expect: Expect, seen: Evidence) -> Check:
    shown = ", ".join(map(str, seen.moves)) or "none"
    if expect.moves is None:
        most = expect.max_moves or 0
        return Check("moves", len(seen.moves) <= most, f"{shown}; expected no more than {most}")
    wanted = ", ".join(f"{'|'.join(move.type)} {move.from_}->{move.to}" for move in expect.moves) or "none"
    right = len(seen.moves) == len(expect.moves) and all(
        found.type in move.type and (found.origin, found.target) == (move.from_, move.to)
        for found, move in zip(seen.moves, expect.moves, strict=True)
    )
    return Check("moves", right, shown if right else f"{shown}; expected {wanted}")


def longest_gap_ms(times_ns: Iterable[int], begin_ns: int, end_ns: int) -> float:
    """Longest time between two acknowledgements that touches the window, in milliseconds.

    The users' outage begins with the last acknowledgement before the fault, and one that is not over counts to the end.
    """
    times = sorted(times_ns)
    before = max((at for at in times if at <= begin_ns), default=begin_ns)
    points = [before, *(at for at in times if begin_ns < at < end_ns), end_ns]
    return max(later - earlier for earlier, later in pairwise(points)) / MILLISECOND_NS

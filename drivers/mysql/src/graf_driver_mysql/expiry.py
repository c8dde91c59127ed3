"""Which files of the binary log may go, and for whom the others are kept. Pure.

A file may go when every site of the group has what is in it, or can get it otherwise, and this site's own recovery does
not read it. The rule goes by what a site has *applied*: what it only received is gone with its relay log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graf_driver_mysql.history import History

STAY = 2  # files with a transaction that always stay: recovery of a TRUNCATE reads the newest one (truncated.py)


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of this site's binary log."""

    name: str
    size: int
    before: History | None  # everything that was logged before it was begun; None: the file does not say
    ended_s: float  # Unix time at which it was last written


@dataclass(frozen=True, slots=True)
class Need:
    """What another site has, and so what it needs of this log."""

    site: str
    has: History | None  # what is applied there; None: not known
    present: bool  # it follows, is in the set or is getting the data: it is never left behind
    since: str = ""  # it is getting the data: whatever that is of, this file and what comes after it is enough


@dataclass(frozen=True, slots=True)
class Limits:
    """The parameters; 0 is none."""

    keep_s: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Invariant: ``first`` is at most the first file that a present site needs, and never the newest file."""

    first: int  # the first file that stays: 0 where nothing goes
    needs: dict[str, int]  # from which file on each site needs the log; all of them: nothing here helps it any more
    left: tuple[str, ...]  # sites that are away and need what goes now
    behind: tuple[str, ...]  # sites that lack what is gone already
    kept: tuple[str, ...]  # sites that are present and keep the log above its limit


def plan(
    files: Sequence[LogFile],
    gone: History,
    logged: History,
    needs: Sequence[Need],
    now_s: float,
    limits: Limits,
) -> Plan:
    """The rule.

    Args:
        files: the oldest first.
        gone: what this site has and none of its files has.
        logged: what is in its log.
        needs: of every other site of the group.
        now_s: Unix time.
        limits: from the parameters.
    """
    count = len(files)
    first_needed = {need.site: _first_needed(files, gone, need) for need in needs}
    by_present = min((first_needed[need.site] for need in needs if need.present), default=count)
    by_all = min(first_needed.values(), default=count)
    by_age = _older(files, now_s - limits.keep_s) if limits.keep_s else 0
    by_size = _too_many(files, limits.most_bytes) if limits.most_bytes else 0
    own = _own(files, logged)
    # Above the limit of size, who is away does not hold up anything; below it, everybody does.
    first = max(0, min(own, max(min(by_all, by_age), min(by_present, by_size))))
    return Plan(
        first,
        first_needed,
        left=tuple(sorted(need.site for need in needs if first_needed[need.site] < first)),
        behind=tuple(sorted(need.site for need in needs if first_needed[need.site] == count)),
        kept=tuple(sorted(need.site for need in needs if need.present and first_needed[need.site] < min(by_size, own))),
    )


def _first_needed(files: Sequence[LogFile], gone: History, need: Need) -> int:
    """The newest file before which everything is at that site."""
    if need.since:
        return next((number for number, file in enumerate(files) if file.name == need.since), 0)
    if need.has is None:
        return 0
    if not need.has.covers(gone):
        return len(files)
    enough = (number for number, file in enumerate(files) if file.before is not None and need.has.covers(file.before))
    return max(enough, default=0)


def _own(files: Sequence[LogFile], logged: History) -> int:
    """The first file that this site keeps for itself: starts that came to nothing leave files without a transaction."""
    left = STAY
    after: History | None = logged
    for number in range(len(files) - 1, -1, -1):
        before = files[number].before
        if before is None or after is None or not before.covers(after):
            left -= 1
        if left == 0:
            return number
        after = before
    return 0


def _older(files: Sequence[LogFile], than_s: float) -> int:
    """How many of the oldest ones were last written before that."""
    return next((number for number, file in enumerate(files) if file.ended_s >= than_s), len(files))


def _too_many(files: Sequence[LogFile], most_bytes: int) -> int:
    """How many of the oldest ones are too much."""
    total = 0
    for number in range(len(files) - 1, -1, -1):
        total += files[number].size
        if total > most_bytes:
            return number + 1
    return 0

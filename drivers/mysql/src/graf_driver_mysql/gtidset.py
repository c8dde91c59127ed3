"""GTID sets of MySQL as values: pure algebra, no I/O.

MySQL names a transaction by the server that wrote it (a UUID, and a tag since 8.3) and a number; a history is, for
each of them, a list of intervals. Unlike MariaDB's, a history may have gaps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from graf_driver_mysql.history import History

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}", re.IGNORECASE)
_INTERVAL = re.compile(r"([1-9][0-9]*)(?:-([1-9][0-9]*))?")
_OWNER = re.compile(r"#[0-9]+")
# Owned by transactions of two servers, the second name follows the first one's owner without a comma (met).
_OWNER_AND_NEXT = re.compile(rf"#[0-9]+?(?={_UUID.pattern}:)")
Interval = tuple[int, int]


def _joined(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    found: list[Interval] = []
    for low, high in sorted(intervals):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], high))
        else:
            found.append((low, high))
    return tuple(found)


def _without(intervals: Iterable[Interval], held: Iterable[Interval]) -> tuple[Interval, ...]:
    left = list(intervals)
    for low, high in held:
        cut: list[Interval] = []
        for first, last in left:
            cut.extend(
                part for part in ((first, min(last, low - 1)), (max(first, high + 1), last)) if part[0] <= part[1]
            )
        left = [(first, last) for first, last in cut if first <= last]
    return _joined(left)


@dataclass(frozen=True, slots=True)
class GtidSet(History):
    """Invariant: the intervals of each source are sorted, apart from each other, and not empty."""

    sources: Mapping[str, tuple[Interval, ...]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str) -> GtidSet:
        """Reads ``gtid_executed``, ``Retrieved_Gtid_Set`` or ``gtid_owned``; raises ValueError that names the text."""
        found: dict[str, list[Interval]] = {}
        for part in _OWNER.sub("", _OWNER_AND_NEXT.sub(",", "".join(text.split()))).split(","):
            if not part:
                continue
            uuid, *rest = part.split(":")
            if not _UUID.fullmatch(uuid) or not rest:
                raise ValueError(f"not a GTID set: {part!r} (expected uuid:first-last, e.g. 3e11fa47-...:1-5)")
            source = uuid.lower()
            for word in rest:
                interval = _INTERVAL.fullmatch(word)
                if interval is not None:
                    low = int(interval[1])
                    found.setdefault(source, []).append((low, int(interval[2] or low)))
                elif _TAG.fullmatch(word):
                    source = f"{uuid.lower()}:{word.lower()}"
                else:
                    raise ValueError(f"not a GTID set: {part!r} ({word!r} is no interval and no tag)")
        return cls(MappingProxyType({source: _joined(intervals) for source, intervals in sorted(found.items())}))

    def __str__(self) -> str:
        return ",".join(f"{source}:{':'.join(map(_shown, held))}" for source, held in sorted(self.sources.items()))

    def __bool__(self) -> bool:
        return bool(self.sources)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GtidSet) and dict(self.sources) == dict(other.sources)

    def __hash__(self) -> int:
        return hash(str(self))

    def minus(self, other: History) -> GtidSet:
        """What is here and not in ``other``."""
        theirs = self.same(other).sources
        left = {source: _without(held, theirs.get(source, ())) for source, held in self.sources.items()}
        return GtidSet(MappingProxyType({source: held for source, held in left.items() if held}))

    def beyond(self, other: History) -> tuple[str, ...]:
        """What is here and not in ``other``, as ranges, e.g. ``3e11fa47-...:6-9``."""
        left = self.minus(other)
        return tuple(f"{source}:{_shown(one)}" for source, held in sorted(left.sources.items()) for one in held)

    def transactions_beyond(self, other: History) -> int:
        """How many transactions are here and not in ``other``."""
        return sum(high - low + 1 for held in self.minus(other).sources.values() for low, high in held)

    def merged(self, other: History) -> GtidSet:
        """Both together."""
        theirs = self.same(other).sources
        names = sorted({*self.sources, *theirs})
        both = {name: _joined((*self.sources.get(name, ()), *theirs.get(name, ()))) for name in names}
        return GtidSet(MappingProxyType(both))


def _shown(interval: Interval) -> str:
    low, high = interval
    return str(low) if low == high else f"{low}-{high}"

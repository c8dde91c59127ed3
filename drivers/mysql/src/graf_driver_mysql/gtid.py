"""GTID positions of MariaDB as values: pure algebra, no I/O. MySQL's are in ``gtidset.py``.

MariaDB's position is, for each replication domain, the last transaction: ``domain-server-sequence``. GRAF gives
each site a domain of its own and switches ``gtid_strict_mode`` on, so that inside one domain the sequence only
rises and a position stands for everything before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from graf_driver_mysql.history import History


@dataclass(frozen=True, slots=True, order=True)
class Gtid:
    """One transaction: replication domain, server that wrote it, its number there."""

    domain: int
    server: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.domain}-{self.server}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> Gtid:
        """Reads ``0-1-42``; raises ValueError that names the text otherwise."""
        parts = text.strip().split("-")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
            raise ValueError(f"not a GTID: {text!r} (expected domain-server-sequence, e.g. 20-20-1534)")
        domain, server, sequence = (int(part) for part in parts)
        return cls(domain, server, sequence)


@dataclass(frozen=True, slots=True)
class Position(History):
    """The last transaction of each domain. Invariant: a key is the domain of its value."""

    last: Mapping[int, Gtid] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def parse(cls, text: str) -> Position:
        """Reads ``gtid_binlog_pos``, ``gtid_binlog_state`` or ``Gtid_IO_Pos``; of one domain the highest counts."""
        last: dict[int, Gtid] = {}
        for part in text.replace("\n", "").split(","):
            if not part.strip():
                continue
            gtid = Gtid.parse(part)
            held = last.get(gtid.domain)
            if held is None or gtid.sequence > held.sequence:
                last[gtid.domain] = gtid
        return cls(MappingProxyType(last))

    def __str__(self) -> str:
        return ",".join(str(gtid) for gtid in self)

    def __iter__(self) -> Iterator[Gtid]:
        return iter(sorted(self.last.values()))

    def __bool__(self) -> bool:
        return bool(self.last)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Position) and dict(self.last) == dict(other.last)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def merged(self, other: History) -> Position:
        """Both together: of each domain the later transaction."""
        return Position.parse(",".join(part for part in (str(self), str(other)) if part))

    def beyond(self, other: History) -> tuple[str, ...]:
        """What is here and not in ``other``, as ranges, e.g. ``20-20-104..107``.

        The same sequence number from two servers is a fork: both carry a transaction the other has not.
        """
        found = []
        theirs = self.same(other).last
        for gtid in self:
            held = theirs.get(gtid.domain)
            start = 1 if held is None else held.sequence + 1
            if held is not None and held.sequence == gtid.sequence and held.server != gtid.server:
                start = gtid.sequence
            if gtid.sequence >= start:
                tail = "" if gtid.sequence == start else f"..{gtid.sequence}"
                found.append(f"{gtid.domain}-{gtid.server}-{start}{tail}")
        return tuple(found)

    def domains_beyond(self, other: Position) -> frozenset[int]:
        """The domains in which something is here and not in ``other``."""
        return frozenset(gtid.domain for gtid in self if not other.covers(Position({gtid.domain: gtid})))

    def transactions_beyond(self, other: History) -> int:
        """How many transactions are here and not in ``other``."""
        total = 0
        theirs = self.same(other).last
        for gtid in self:
            held = theirs.get(gtid.domain)
            total += max(0, gtid.sequence - (0 if held is None else held.sequence))
        return total

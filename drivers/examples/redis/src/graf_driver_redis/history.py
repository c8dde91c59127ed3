"""What two replication histories are to each other. Pure.

A history in Redis is a random id and an offset in bytes. A promoted replica gets a new id and remembers the old one
with the offset up to which it had it (`master_replid2`, `second_repl_offset`: of the first byte that it had not).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graf_driver_sdk.types import Verdict

_POSITION = re.compile(r"([0-9a-f]{40}):([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class Position:
    """A point in a history; written `<id>:<offset>`."""

    history: str
    offset: int

    def __str__(self) -> str:
        return f"{self.history}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """None when the text is no position."""
        found = _POSITION.fullmatch(text)
        return cls(found[1], int(found[2])) if found else None


@dataclass(frozen=True, slots=True)
class Histories:
    """What a server knows: where it is, and which history it had before, up to where."""

    now: Position
    before: Position | None
    empty: bool

    def has(self, wanted: Position) -> bool:
        """Whether everything up to `wanted` is here."""
        if wanted.history == self.now.history:
            return wanted.offset <= self.now.offset
        return self.before is not None and wanted.history == self.before.history and wanted.offset <= self.before.offset


def histories(replication: Mapping[str, Any], keys: int) -> Histories:
    """Reads `INFO replication`."""
    is_replica = replication["role"] == "slave"
    offset = int(replication["slave_repl_offset" if is_replica else "master_repl_offset"])
    second = int(replication.get("second_repl_offset", -1))
    before = None if second <= 0 else Position(str(replication["master_replid2"]), second - 1)
    return Histories(Position(str(replication["master_replid"]), offset), before, keys == 0)


def verdict(local: Histories, active: Histories, may_have_more: bool) -> Verdict:
    """This site's data against the active's.

    Args:
        local: here.
        active: at the active.
        may_have_more: this server ended while it was active, and its replication history with it: what it acknowledged
            last cannot be compared any more.
    """
    if local.empty and not may_have_more:
        return Verdict.EMPTY
    if may_have_more:
        return Verdict.DIVERGED
    if local.now == active.now:
        return Verdict.CLEAN
    return Verdict.BEHIND if active.has(local.now) else Verdict.DIVERGED

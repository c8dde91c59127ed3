"""What a repository holds, read from the tags of its snapshots; and which generation counts. Pure.

Two kinds of snapshots: a `generation` has a tree and its manifest, a `mark` is empty. Both say, in their tags, which
generation the site that wrote them served in which epoch, and up to when nothing is missing in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from graf_driver_pv.manifest import is_ancestor
from graf_driver_pv.position import Position

GENERATION: Final = "generation"
MARK: Final = "mark"
_OURS: Final = "graf-pv"


@dataclass(frozen=True, slots=True)
class Entry:
    """One snapshot of this component.

    Attributes:
        snapshot: the repository's name for it; empty while it is to be made.
        kind: `generation` or `mark`.
        site: that wrote it.
        epoch: of the role in which it was written.
        position: the generation; a mark's need not be here.
        lineage: of that generation.
        begun_wall_ms: when its making began.
        until_wall_ms: every change before this time, on the clock of the site that wrote it, is in that generation.
        digest: of the generation's manifest, and so of its content: a repository may have that of another life of the
            group, in which the same name was given.
        written: when the snapshot was made, as the repository writes times: they sort as text.
    """

    snapshot: str
    kind: str
    site: str
    epoch: int
    position: Position
    lineage: Mapping[int, int]
    begun_wall_ms: int
    until_wall_ms: int
    digest: str
    written: str = ""

    def tags(self, component: str) -> list[str]:
        """As tags; none has a comma, which would part it."""
        lineage = ".".join(f"{epoch}:{number}" for epoch, number in sorted(self.lineage.items()))
        return [
            _OURS,
            f"component={component}",
            f"kind={self.kind}",
            f"site={self.site}",
            f"epoch={self.epoch}",
            f"generation={self.position}",
            f"lineage={lineage}",
            f"begun={self.begun_wall_ms}",
            f"until={self.until_wall_ms}",
            f"manifest={self.digest}",
        ]

    def has(self, position: Position) -> bool:
        """Whether everything of a generation went into the one of this entry."""
        return is_ancestor(position, self.position, self.lineage)


def wanted_tags(component: str) -> str:
    """What every snapshot of a component has, as restic's filter."""
    return f"{_OURS},component={component}"


def read(listing: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Entries of `restic snapshots --json`. A snapshot that cannot be understood is nobody's generation."""
    entries = []
    for raw in listing:
        try:
            tags = dict(tag.split("=", 1) for tag in raw["tags"] if "=" in tag)
            if tags["kind"] not in (GENERATION, MARK):
                continue
            lineage = (pair.split(":") for pair in tags["lineage"].split(".") if pair)
            entries.append(
                Entry(
                    str(raw["id"]),
                    tags["kind"],
                    tags["site"],
                    int(tags["epoch"]),
                    Position.parse(tags["generation"]),
                    {int(epoch): int(number) for epoch, number in lineage},
                    int(tags["begun"]),
                    int(tags["until"]),
                    tags["manifest"],
                    str(raw["time"]),
                )
            )
        except (KeyError, ValueError, TypeError, AttributeError):
            continue
    return entries


def head_of(entries: Iterable[Entry]) -> Entry | None:
    """What the site of the highest epoch said last. Whatever a deposed site writes later has a lower epoch."""
    return max(entries, key=lambda entry: (entry.epoch, entry.position, entry.until_wall_ms), default=None)


def digest_of(manifest: bytes) -> str:
    """Of a manifest's file."""
    return hashlib.sha256(manifest).hexdigest()


def generation_of(entries: Iterable[Entry], position: Position, digest: str) -> Entry | None:
    """The snapshot that has a generation, the last one written: any will do."""
    found = [e for e in entries if e.kind == GENERATION and e.position == position and e.digest == digest]
    return max(found, key=lambda entry: entry.written, default=None)


def newest_generation(entries: Sequence[Entry], head: Entry, distrusted: Iterable[str] = ()) -> Entry | None:
    """The newest generation here that went into what the head serves, but for snapshots that proved unsound."""
    bad = set(distrusted)
    good = [
        entry
        for entry in entries
        if entry.kind == GENERATION
        and entry.snapshot not in bad
        and head.has(entry.position)
        and (entry.position != head.position or entry.digest == head.digest)
    ]
    return max(good, key=lambda entry: (entry.position, entry.written), default=None)


def until_of(entries: Iterable[Entry], position: Position) -> int:
    """Up to when nothing is missing in a generation, on the wall clock of its site; 0 when nothing says it."""
    return max((entry.until_wall_ms for entry in entries if entry.position == position), default=0)


def forgettable(entries: Sequence[Entry], epoch: int, keep: int) -> list[str]:
    """Snapshots that the active site of an epoch may forget; none while the repository knows a higher epoch.

    Never forgotten: the head, the newest few generations that went into it, and whatever did not go into it: that may
    be the only copy of what a deposed site wrote.
    """
    head = head_of(entries)
    if head is None or head.epoch != epoch:
        return []
    doomed = [entry.snapshot for entry in entries if entry.kind == MARK and entry is not head]
    kept: set[Position] = set()
    ours = [entry for entry in entries if entry.kind == GENERATION and head.has(entry.position)]
    for entry in sorted(ours, key=lambda e: (e.position, e.written), reverse=True):
        if entry is head:
            kept.add(entry.position)
        elif entry.position in kept or len(kept) >= keep:
            doomed.append(entry.snapshot)
        else:
            kept.add(entry.position)
    return doomed


def divergent(entries: Iterable[Entry], head: Entry) -> list[Position]:
    """Generations in the repository that did not go into the head, the newest first."""
    found = {entry.position for entry in entries if entry.kind == GENERATION and not head.has(entry.position)}
    return sorted(found, reverse=True)


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock in the repository."""

    host: str
    pid: int
    exclusive: bool
    age_s: float


def who_holds(locks: Iterable[Lock]) -> str:
    """For people."""
    told = [
        f"{'exclusively ' if lock.exclusive else ''}by process {lock.pid} of {lock.host} for {lock.age_s:.0f} s"
        for lock in locks
    ]
    return "; ".join(told)


def all_dead(locks: Sequence[Lock], here: str, former: Iterable[str], is_alive: Mapping[int, bool]) -> bool:
    """Whether every lock is left by a process of this site's driver that has ended.

    Args:
        locks: every lock that is there: restic takes away all of them or those that it calls stale.
        here: name of this host.
        former: names that this driver's host had before (a Pod has a new one each time).
        is_alive: by process id here.
    """
    known = set(former) - {here}
    return bool(locks) and all(
        lock.host in known or (lock.host == here and not is_alive.get(lock.pid, True)) for lock in locks
    )

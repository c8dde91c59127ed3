"""The component itself: a list of writes, a role, and a gate that shuts when its lease ends."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Final

from graf_driver_sdk.types import Peer, Role, Verdict

from graf_driver_fake.parameters import Parameters, parse

_FILE: Final = "writes.json"


class Component:
    """One component at this site.

    Invariants: it starts without a role; a write is accepted only while `accepting`; the list only grows, except by
    `rebuild`, which archives it first.
    """

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.role = Role.FENCED
        self.quiesced = False
        self.lease_deadline_ns: int | None = None  # None: no gate
        self.synchronous_set: frozenset[str] = frozenset()
        self.active: Peer | None = None
        self.promoting_until_ns = 0
        self.memory: list[str] = []

    @property
    def writes(self) -> list[str]:
        """What is here, from the disk when there is one: it outlives the driver."""
        if self.parameters.data_dir is None:
            return self.memory
        return read_writes(self.parameters.data_dir) or []

    @property
    def accepting(self) -> bool:
        """Whether a write would be accepted now."""
        if self.role is not Role.ACTIVE or self.quiesced:
            return False
        return self.lease_deadline_ns is None or time.monotonic_ns() < self.lease_deadline_ns

    def write(self, identity: str) -> bool:
        """A client's write; false when it was not accepted."""
        if not self.accepting:
            return False
        self._store([*self.writes, identity])
        return True

    def serve_clients(self) -> None:
        """Answers clients: each leaves a file `inbox/VALUE`, and finds `VALUE.accepted` or `VALUE.refused`."""
        if self.parameters.data_dir is None:
            return
        for path in sorted((self.parameters.data_dir / "inbox").glob("*")):
            if not path.suffix:
                path.rename(path.with_name(f"{path.name}.{'accepted' if self.write(path.name) else 'refused'}"))

    def follow(self) -> bool:
        """Copies what the active has and this site lacks; false when there is no active, a gap or other history."""
        theirs = self._active_writes()
        if theirs is None or self.verdict(theirs) is Verdict.DIVERGED:
            return False
        if theirs != self.writes:
            self._store(theirs)
        return True

    def verdict(self, theirs: list[str] | None) -> Verdict:
        """This site's list against the active's."""
        ours = self.writes
        if theirs is None:
            return Verdict.UNKNOWN
        if ours == theirs:
            return Verdict.CLEAN
        if not ours:
            return Verdict.EMPTY
        return Verdict.BEHIND if theirs[: len(ours)] == ours else Verdict.DIVERGED

    def rebuild(self, theirs: list[str]) -> Path | None:
        """Archives the own list and takes theirs; gives the archive's path when there is a disk."""
        archive = None
        if self.parameters.data_dir is not None and self.writes:
            archive = self.parameters.data_dir / f"archive-{time.time_ns()}.json"
            _store(archive, self.writes)
        self._store(theirs)
        return archive

    def _active_writes(self) -> list[str] | None:
        return None if self.active is None else peer_writes(self.active)

    def _store(self, writes: list[str]) -> None:
        if self.parameters.data_dir is None:
            self.memory = list(writes)
        else:
            _store(self.parameters.data_dir / _FILE, writes)


def peer_writes(peer: Peer) -> list[str] | None:
    """The list of another site, when its parameters say where; None when it cannot be read."""
    parameters, _ = parse(peer.parameters)
    if parameters is None or parameters.data_dir is None:
        return None
    return read_writes(parameters.data_dir)


def read_writes(directory: Path) -> list[str] | None:
    """The list on the disk: empty when the directory has none yet, None when there is no directory."""
    if not directory.is_dir():
        return None
    try:
        return [str(identity) for identity in json.loads((directory / _FILE).read_text())]
    except FileNotFoundError:
        return []


def _store(path: Path, writes: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    temporary.write_text(json.dumps(writes))
    temporary.replace(path)

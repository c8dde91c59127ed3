"""Where the manager's threads meet: the last known world, and a bell that wakes the one reconcile.

Invariant: every method holds the lock for a few dictionary operations only, so that no thread waits for another
one's I/O. Nothing here is the only copy of anything: objects come from the API server, reports and records from
the sites, commits from Git.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from graf.api.recorded import Recorded
from graf.core.planning import newer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from graf.shell.proto import manager_pb2 as pb
    from graf_orchestrator.ports import Document

SILENT_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class SiteLink:
    """What is known of a site's stream. Times: `*_wall_s` for people, `heard_s` on the monotonic clock."""

    connected: bool = False
    generation: int = 0  # counts connections, so that a new one gets everything again
    since_wall_s: float = 0.0
    incarnation: str = ""
    version: str = ""
    report: pb.SiteReport | None = None
    heard_s: float = 0.0
    heard_wall_s: float = 0.0

    def fresh(self, now_s: float) -> bool:
        """Whether its last report still says how things are."""
        return self.connected and self.report is not None and now_s - self.heard_s <= SILENT_AFTER_S


def report_of(link: SiteLink, group: str) -> pb.GroupReport | None:
    """What the site said last about a group."""
    if link.report is None:
        return None
    return next((item for item in link.report.groups if item.group == group), None)


@dataclass(slots=True)
class State:
    """The last known world."""

    clock: Any = time.monotonic
    wall_clock: Any = time.time
    bell: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _objects: dict[tuple[str, str], Document] = field(default_factory=dict)
    _links: dict[str, SiteLink] = field(default_factory=dict)
    _records: deque[tuple[str, pb.Record]] = field(default_factory=deque)
    _updates: deque[tuple[str, pb.OperationUpdate]] = field(default_factory=deque)
    _committed: dict[str, str] = field(default_factory=dict)
    _git_recorded: dict[str, Recorded] = field(default_factory=dict)
    _git_operations: frozenset[str] = frozenset()
    _git_ready: bool = False

    # Objects of the API server -------------------------------------------------------------------------------

    def put_object(self, document: Document) -> None:
        """An object was seen; an older version of it never replaces a newer one."""
        key = (document["kind"], document["metadata"]["name"])
        with self._lock:
            if _version(document) < _version(self._objects.get(key)):
                return
            self._objects[key] = document
        self.bell.set()

    def drop_object(self, kind: str, name: str) -> None:
        """An object was deleted."""
        with self._lock:
            self._objects.pop((kind, name), None)
        self.bell.set()

    def replace_objects(self, kind: str, documents: Iterable[Document]) -> None:
        """All objects of a kind, as listed."""
        listed = {(kind, document["metadata"]["name"]): document for document in documents}
        with self._lock:
            for key in [key for key in self._objects if key[0] == kind and key not in listed]:
                del self._objects[key]
            for key, document in listed.items():
                if _version(document) >= _version(self._objects.get(key)):
                    self._objects[key] = document

    def objects(self, kind: str) -> dict[str, Document]:
        """Objects of a kind, by name. They are shared: never change one."""
        with self._lock:
            return {name: document for (of, name), document in sorted(self._objects.items()) if of == kind}

    # Streams of the sites ------------------------------------------------------------------------------------

    def connected(self, site: str, generation: int) -> None:
        """A site's controller dialled in."""
        with self._lock:
            self._links[site] = SiteLink(connected=True, generation=generation, since_wall_s=self.wall_clock())
        self.bell.set()

    def disconnected(self, site: str, generation: int) -> None:
        """A stream ended; nothing changes when a newer one of the same site is up."""
        with self._lock:
            link = self._links.get(site)
            if link is None or link.generation != generation:
                return
            self._links[site] = replace(link, connected=False, since_wall_s=self.wall_clock())
        self.bell.set()

    def hello(self, site: str, incarnation: str, version: str) -> None:
        """The controller said which process it is."""
        with self._lock:
            link = self._links.get(site, SiteLink())
            self._links[site] = replace(link, incarnation=incarnation, version=version)

    def report(self, site: str, report: pb.SiteReport) -> None:
        """The site's periodic report."""
        with self._lock:
            link = self._links.get(site, SiteLink())
            self._links[site] = replace(link, report=report, heard_s=self.clock(), heard_wall_s=self.wall_clock())
        self.bell.set()

    def links(self) -> dict[str, SiteLink]:
        """What is known of each site's stream."""
        with self._lock:
            return dict(self._links)

    # Records and progress ------------------------------------------------------------------------------------

    def put_record(self, site: str, record: pb.Record) -> None:
        """A site sent a record."""
        with self._lock:
            self._records.append((site, record))
        self.bell.set()

    def take_records(self) -> list[tuple[str, pb.Record]]:
        """Records since the last call, in the order of arrival."""
        with self._lock:
            taken = list(self._records)
            self._records.clear()
            return taken

    def put_update(self, site: str, update: pb.OperationUpdate) -> None:
        """A site told how far an operation is."""
        with self._lock:
            self._updates.append((site, update))
        self.bell.set()

    def take_updates(self) -> list[tuple[str, pb.OperationUpdate]]:
        """Progress since the last call."""
        with self._lock:
            taken = list(self._updates)
            self._updates.clear()
            return taken

    # Git -----------------------------------------------------------------------------------------------------

    def committed(self, commits: Mapping[str, str]) -> None:
        """Records that are in Git at the remote: id -> commit."""
        with self._lock:
            self._committed.update(commits)
        self.bell.set()

    def git_history(self, recorded: Mapping[str, Recorded], operations: frozenset[str]) -> None:
        """What the repository's history says was decided and done."""
        with self._lock:
            for group, item in recorded.items():
                self._git_recorded[group] = newer(self._git_recorded.get(group, Recorded()), item)
            self._git_operations = self._git_operations | operations
            self._git_ready = True
        self.bell.set()

    def git_view(self) -> tuple[dict[str, str], dict[str, Recorded], frozenset[str], bool]:
        """Committed records, what Git recorded, operations in its history, and whether it was read at all."""
        with self._lock:
            return dict(self._committed), dict(self._git_recorded), self._git_operations, self._git_ready


def _version(document: Document | None) -> int:
    """Order of an object's versions at one API server (Kubernetes 1.35 makes resourceVersion comparable)."""
    text = ((document or {}).get("metadata") or {}).get("resourceVersion", "")
    return int(text) if str(text).isdigit() else 0

"""The active's part: watches what is chosen and offers it as numbered generations.

A generation is made only from complete lists. What is no longer in them becomes a tombstone only when the API server,
asked for that very object, says that it does not exist.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from graf_driver_objects import model
from graf_driver_objects.applying import chosen
from graf_driver_objects.cluster import Cluster, ClusterError
from graf_driver_objects.exchange import Answer, Question
from graf_driver_objects.ledger import MAX_TOMBSTONES, LedgerError, Store
from graf_driver_objects.model import Generation, Manifest, Position, Ref
from graf_driver_objects.parameters import Parameters, Selection

_DEBOUNCE_S: Final = 0.1
_RETRY_S: Final = 1.0
_CONNECTED_S: Final = 15.0
_ALIVE_EVERY_S: Final = 2.0
_FRESH_S: Final = 3.0
_FRESH_AGAIN_S: Final = 0.05
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Seen:
    """What a follower told of itself; times of the monotonic clock."""

    site: str
    asked_at: float = 0.0
    applied: Position | None = None
    behind_since: float = 0.0


@dataclass(slots=True)
class _View:
    """Of one selection: its objects (None: never listed whole) and since when it is not watched (0: it is)."""

    objects: dict[Ref, Manifest] | None = None
    broken_since: float = 0.0
    problem: str = "not yet listed"


class Source:
    """Reads while the site is active, in threads that change nothing but this object and the ledger."""

    def __init__(
        self,
        site: str,
        epoch: int,
        parameters: Parameters,
        cluster: Cluster,
        store: Store,
        notify: Callable[[], None],
    ) -> None:
        self.epoch = epoch
        self.parameters = parameters
        self.followers: dict[str, Seen] = {}  # by identity
        self.generation: Generation | None = None
        self.problem = ""
        self.frozen = False
        self.made = threading.Event()  # the first generation
        self._site = site
        self._cluster = cluster
        self._store = store
        self._notify = notify
        started = time.monotonic()
        self._views = {selection: _View(broken_since=started) for selection in parameters.selections}
        self._heard_at = started  # of the API server
        self._silent_since = 0.0
        self._silence = ""
        self._made_at = started
        self._encoded: bytes = b""
        self._gone: set[Ref] = set()  # chosen no more, and there or not to be told when last asked: no tombstone
        self._stop = threading.Event()
        self._dirty = threading.Event()
        self._changed = threading.Condition()
        self._building = threading.Lock()

    def start(self) -> None:
        """One thread for each selection, one that makes generations, one that asks for signs of life."""
        for selection in self._views:
            threading.Thread(target=self._follow, args=(selection,), name="objects-watch", daemon=True).start()
        threading.Thread(target=self._build_on_change, name="objects-build", daemon=True).start()
        threading.Thread(target=self._listen, name="objects-alive", daemon=True).start()

    def stop(self) -> None:
        """Offers nothing more, from now on; the threads only read, and end by themselves."""
        self._stop.set()
        self._dirty.set()
        with self._building, self._changed:
            self._changed.notify_all()

    def admit(self, peers: Mapping[str, str]) -> None:
        """Sets who may ask: identity -> site."""
        self.followers = {identity: self.followers.get(identity, Seen(site)) for identity, site in peers.items()}

    @property
    def stale_s(self) -> float:
        """How long ago everything chosen was last known; 0 while all is watched, of a server that answers."""
        broken = [since for since in (self._silent_since, *(v.broken_since for v in self._views.values())) if since]
        return time.monotonic() - min(broken) if broken else 0.0

    @property
    def trouble(self) -> str:
        """What keeps it from seeing or offering everything, for people."""
        problems = dict.fromkeys(view.problem for view in self._views.values() if view.broken_since)
        return "; ".join(filter(None, [self.problem, self._silence, *problems]))

    def settle(self) -> Position | None:
        """Lists everything anew, makes the last generation of this epoch, and offers no other one.

        Returns:
            Its position; None when it could not be made (see `trouble`).
        """
        with self._building:
            if not self.frozen:
                for selection, view in self._views.items():
                    try:
                        view.objects, _ = self._cluster.listing(selection)
                    except ClusterError as error:
                        view.problem = str(error)
                        view.broken_since = view.broken_since or time.monotonic()
                        return None
                if not self._build(anew=True):
                    return None
                self.frozen = True
            return self.generation.position if self.generation else None

    def thaw(self) -> None:
        """Offers what was changed since, too."""
        self.frozen = False
        self._dirty.set()

    def answer(self, question: Question) -> Answer:
        """Of a standby's question. In the connection's thread."""
        seen = self.followers.get(question.identity)
        if seen is None:
            return Answer(403, f"the certificate's name {question.identity!r} is not of a peer in this group")
        if question.epoch > self.epoch:
            return Answer(409, f"epoch {self.epoch} of this site is over: you have seen epoch {question.epoch}")
        if question.fresh and (why := self._refresh()):
            return Answer(503, f"what this site has now cannot be told: {why}")
        self._hear(seen, question)
        ends = time.monotonic() + question.wait_s
        with self._changed:
            while not self._stop.is_set() and self._is_known(question):
                if not self._changed.wait(max(0.0, ends - time.monotonic())) and time.monotonic() >= ends:
                    break
            generation, encoded, made_at = self.generation, self._encoded, self._made_at
        if self._stop.is_set():
            return Answer(409, "this site is not the active any more")
        if generation is None:
            return Answer(503, f"no generation yet: {self.trouble or 'the first list is not complete'}")
        position = str(generation.position)
        age_s = time.monotonic() - made_at
        if position == question.known:
            return Answer(304, "", position, age_s, self.stale_s)
        return Answer(200, "", position, age_s, self.stale_s, encoded)

    def _refresh(self) -> str:
        """Makes a generation of what the lists show now, when the watches have come as far; else why it cannot.

        A generation of the lists alone would be taken back by a watch that is a moment late.
        """
        ends = time.monotonic() + _FRESH_S
        while not self._stop.is_set():
            if self._silence:
                return self._silence
            try:
                listed = {selection: self._cluster.listing(selection)[0] for selection in self._views}
            except ClusterError as error:
                return str(error)
            with self._building:
                if self.frozen or self._stop.is_set():
                    break  # the last generation of this epoch is all there is
                if all(_versions(self._views[one].objects) == _versions(found) for one, found in listed.items()):
                    return "" if self._build(anew=True) else self.trouble or "no generation can be made"
            if time.monotonic() >= ends:
                return self.trouble or "its objects change faster than they are seen"
            self._stop.wait(_FRESH_AGAIN_S)
        return ""

    def _is_known(self, question: Question) -> bool:
        return self.generation is None or str(self.generation.position) == question.known

    def _hear(self, seen: Seen, question: Question) -> None:
        seen.asked_at = time.monotonic()
        applied = Position.parse(question.applied)
        generation = self.generation
        if generation is None:
            return
        if applied == generation.position:
            seen.behind_since = 0.0
            if seen.applied != applied:
                base = {ref: model.content_of(manifest) for ref, manifest in generation.objects.items()}
                try:
                    self._store.change(base=base)
                except LedgerError as error:
                    self.problem = str(error)
                    return
        elif not seen.behind_since:
            seen.behind_since = time.monotonic()
        if seen.applied != applied:
            seen.applied = applied
            self._notify()

    def connected(self, seen: Seen) -> bool:
        """Whether a follower asked lately."""
        return bool(seen.asked_at) and time.monotonic() - seen.asked_at < _CONNECTED_S

    def _listen(self) -> None:
        """Whether the API server answers, at least every few seconds. Until stopped."""
        while not self._stop.wait(_ALIVE_EVERY_S):
            before = bool(self._silence)
            try:
                self._cluster.answers()
                self._heard_at, self._silent_since, self._silence = time.monotonic(), 0.0, ""
            except ClusterError as error:
                self._silent_since, self._silence = self._heard_at, str(error)
            if before != bool(self._silence):
                self._notify()

    def _follow(self, selection: Selection) -> None:
        """List, then watch; list again when the watch's version has expired. Until stopped."""
        view = self._views[selection]
        version = ""
        while not self._stop.is_set():
            try:
                if not version:
                    objects, version = self._cluster.listing(selection)
                    self._saw(view, objects)
                view.broken_since, view.problem = 0.0, ""
                for kind, item in self._cluster.watch(selection, version):
                    if self._stop.is_set():
                        return
                    version = item["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        item.update(apiVersion=selection.api_version, kind=selection.kind)
                        self._saw(view, _after(view.objects or {}, kind, item))
            except ClusterError as error:
                if error.reason == "Expired":
                    version = ""
                    continue
                if not error.unreachable:
                    version = ""
                view.broken_since = view.broken_since or time.monotonic()
                view.problem = str(error)
                self._notify()
                self._stop.wait(_RETRY_S)

    def _saw(self, view: _View, objects: dict[Ref, Manifest]) -> None:
        view.objects = objects
        self._dirty.set()

    def _build_on_change(self) -> None:
        while not self._stop.is_set():
            self._dirty.wait()
            if self.made.is_set():
                self._stop.wait(_DEBOUNCE_S)
            self._dirty.clear()
            with self._building:
                if self._stop.is_set() or self.frozen:
                    continue
                try:
                    built = self._build()
                except Exception as error:
                    self.problem = f"making a generation failed ({type(error).__name__})"
                    _log.exception("making a generation failed")
                    built = False
            if not built and self.problem:
                self._stop.wait(_RETRY_S)
                self._dirty.set()

    def _build(self, anew: bool = False) -> bool:
        """Makes a generation when there is something new; false when that cannot be told or made durable.

        Args:
            anew: ask also after what is chosen no more: it may have been deleted since, which no watch tells.
        """
        if any(view.objects is None for view in self._views.values()):
            return False
        found = {ref: item for view in self._views.values() for ref, item in (view.objects or {}).items()}
        objects = {ref: model.normalise(item) for ref, item in found.items() if chosen(item)}
        before = self.problem
        try:
            ledger = self._store.ledger
            self._gone -= set(objects)  # chosen again: its end counts again
            shared = set(ledger.base) | set(self.generation.objects if self.generation else ()) | self._gone
            vanished = shared - set(objects) - set(ledger.tombstones)
            deleted = self._deleted(vanished if anew else vanished - self._gone)
            if len(deleted) > self.parameters.max_deletions:
                self.problem = (
                    f"{len(deleted)} objects vanished at once, more than maxDeletions "
                    f"{self.parameters.max_deletions}: no generation is made; check the cluster, then raise it"
                )
                return False
            kept = [ref for ref in ledger.tombstones if ref not in objects]
            tombstones = (*kept, *sorted(deleted))[-MAX_TOMBSTONES:]
            digest = model.digest_of(objects, tombstones)
            position = ledger.position
            if (position.epoch, position.digest) != (self.epoch, digest):
                position = Position(self.epoch, position.number + 1, digest)
                self._store.change(position=position, tombstones=tombstones, floor=max(ledger.floor, self.epoch))
        except (ClusterError, LedgerError) as error:
            self.problem = str(error)
            return False
        self.problem = ""
        if self.generation is None or self.generation.position != position:
            self._offer(Generation(self._site, self.epoch, position.number, objects, frozenset(tombstones)))
        elif before:
            self._notify()
        return True

    def _deleted(self, vanished: set[Ref]) -> list[Ref]:
        """Of what is no longer chosen, what does not exist any more."""
        deleted = []
        for ref in sorted(vanished):
            try:
                live = self._cluster.get(ref)
            except ClusterError as error:
                if error.unreachable:
                    raise
                self._gone.add(ref)  # its kind is not served, or not allowed to be read: that proves nothing
                continue
            if live is None:
                deleted.append(ref)
                self._gone.discard(ref)
            else:
                self._gone.add(ref)
        return deleted

    def _offer(self, generation: Generation) -> None:
        encoded = generation.encode()
        with self._changed:
            self.generation, self._encoded, self._made_at = generation, encoded, time.monotonic()
            self._changed.notify_all()
        self.made.set()
        with contextlib.suppress(RuntimeError):
            self._notify()


def _versions(objects: Mapping[Ref, Manifest] | None) -> dict[Ref, str] | None:
    if objects is None:
        return None
    return {ref: str(item["metadata"]["resourceVersion"]) for ref, item in objects.items()}


def _after(objects: dict[Ref, Manifest], kind: str, item: Manifest) -> dict[Ref, Manifest]:
    changed = dict(objects)
    if kind == "DELETED":
        changed.pop(Ref.of(item), None)
    else:
        changed[Ref.of(item)] = item
    return changed

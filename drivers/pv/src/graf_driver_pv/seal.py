"""Making a generation of the live copy. Blocking: call it in a thread."""

from __future__ import annotations

import bisect
import contextlib
import errno
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from graf_driver_pv import durable
from graf_driver_pv.events import Changes
from graf_driver_pv.manifest import Entry, Manifest, apply_root, changed_in, observe, parents, root_of
from graf_driver_pv.position import Position
from graf_driver_pv.store import Store

_CHUNK = 1 << 20
PASSES = 3
# Gone since it was looked at, or a link, a socket or a pipe without a reader now.
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})


@dataclass
class _Draft:
    """The generation that is being made: its tree, its entries, and what is being synced."""

    source: str
    tree: str
    entries: dict[str, Entry]
    syncs: durable.Syncs
    flush: bool  # what is written through a mapping makes a file newer only when what was written before is on disk
    folders: set[str] = field(default_factory=set)
    order: list[str] = field(default_factory=list)  # the paths of `entries` as they were when this pass began, sorted
    added: set[str] = field(default_factory=set)  # since then
    torn: bool = False
    linked: bool = False  # a file that was copied has another name, of which nothing is heard

    def take(self, path: str) -> None:
        """Brings one path to what the live copy has there now."""
        parent = os.path.dirname(path)
        if parent and self.entries.get(parent, _NO_FOLDER).kind != "d":
            self.take(parent)
            if self.entries.get(parent, _NO_FOLDER).kind != "d":
                self.entries.pop(path, None)  # gone with its folder, also where a file has that name now
                return
        seen, before = observe(os.path.join(self.source, path)), self.entries.get(path)
        if seen is None or before is None or seen.kind != "d" or before.kind != "d":
            self._drop(path)
        if seen is None:
            return
        target = os.path.join(self.tree, path)
        if seen.kind == "d":
            if before is None or before.kind != "d":
                os.mkdir(target)
            os.chown(target, seen.uid, seen.gid)
            os.chmod(target, seen.mode)
            self.folders.add(target)
        elif seen.kind == "l":
            os.symlink(seen.content, target)
            os.chown(target, seen.uid, seen.gid, follow_symlinks=False)
            os.utime(target, ns=(seen.mtime_ns, seen.mtime_ns), follow_symlinks=False)
        else:
            copied = self._copy(os.path.join(self.source, path), target)
            if copied is None:
                return
            seen = copied
            self.syncs.begin(target)
        self.folders.add(os.path.dirname(target))
        self.entries[path] = seen
        self.added.add(path)

    def _drop(self, path: str) -> None:
        before = self.entries.pop(path, None)
        target = os.path.join(self.tree, path)
        if before is not None and before.kind == "d":
            for below in self._below(path):
                self.entries.pop(below, None)
            shutil.rmtree(target, ignore_errors=True)
            self.syncs.forget_below(target)
            self.folders = {f for f in self.folders if f != target and not f.startswith(f"{target}/")}
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)
            self.syncs.forget(target)
        if before is not None:
            self.folders.add(os.path.dirname(target))

    def begin_pass(self) -> None:
        """Looking through all paths for each folder that is gone would take minutes where many are."""
        self.order, self.added = sorted(self.entries), set()
        self.torn = self.linked = False

    def _below(self, folder: str) -> list[str]:
        begin = bisect.bisect_left(self.order, f"{folder}/")
        end = bisect.bisect_left(self.order, f"{folder}0", begin)  # "0" comes after "/"
        return self.order[begin:end] + [path for path in self.added if path.startswith(f"{folder}/")]

    def _copy(self, source: str, target: str) -> Entry | None:
        """Copies and hashes in one pass; None when it vanished."""
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _VANISHED:
                return None
            raise  # a file that cannot be read is there: left out, it would be deleted at the standby
        digest = hashlib.sha256()
        with os.fdopen(descriptor, "rb") as reader, open(target, "xb") as writer:
            if self.flush:
                os.fsync(reader.fileno())
            before = os.fstat(reader.fileno())
            if not stat.S_ISREG(before.st_mode):
                os.unlink(target)
                return None
            self.linked |= before.st_nlink > 1
            size = 0
            while chunk := reader.read(_CHUNK):
                digest.update(chunk)
                writer.write(chunk)
                size += len(chunk)
            after = os.fstat(reader.fileno())
            self.torn |= (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
            os.fchown(writer.fileno(), before.st_uid, before.st_gid)
            # After the owner: giving a file to somebody takes its set-user-ID bit.
            os.fchmod(writer.fileno(), before.st_mode & 0o7777)
            writer.flush()
            # The time from before: what is written from now on shows as newer.
            os.utime(writer.fileno(), ns=(before.st_mtime_ns, before.st_mtime_ns))
        mode = before.st_mode & 0o7777
        return Entry("f", mode, before.st_uid, before.st_gid, size, before.st_mtime_ns, digest.hexdigest())


_NO_FOLDER = Entry("", 0, 0, 0, 0, 0, "")


def seal(
    store: Store,
    epoch: int,
    changes: Changes,
    changed_again: Callable[[], Changes] | None,
    put_back: Callable[[Changes], None],
    *,
    still: bool = False,
) -> Manifest | None:
    """Makes a generation of what changed, complete and durable.

    Args:
        store: where.
        epoch: of this site's role.
        changes: what changed since the newest generation; taken from the watcher.
        changed_again: what changed while this worked; None: found by comparing the tree.
        put_back: takes changes that are not in the generation.
        still: the application is known to write nothing (frozen, quiesced).

    Returns:
        The new generation, under the name of the one that the live copy was made of when it is exactly that one again;
        None when nothing had changed since the newest.
    """
    begun_wall_ms = time.time_ns() // 1_000_000
    base = store.newest()
    source = os.fspath(store.layout.tree)
    known = base.entries if base is not None else {}
    paths = changed_in(source, known) if changes.everything else changes.paths | _below(known, changes.folders)
    if base is not None and not paths:
        return None
    ancestor = base or store.base()
    position = Position(epoch, ancestor.position.number + 1 if ancestor else 1)
    lineage = ancestor.next_lineage(epoch) if ancestor else {}
    with contextlib.closing(durable.Syncs()) as syncs:
        # The first copy is of everything, and seldom of what is mapped: it is not made slow for that.
        flush = changes.everything and base is not None
        draft = _Draft(source, os.fspath(store.begin(base)), dict(known), syncs, flush)
        consistency = _fill(draft, paths, changed_again, put_back, still)
        root = root_of(source)
        if base is not None and dict(known) == draft.entries and root == base.root:
            return None
        apply_root(draft.tree, root)
        syncs.finish(draft.folders | {draft.tree})
    manifest = Manifest(position, lineage, consistency, begun_wall_ms, draft.entries, root)
    if base is None and ancestor is not None and dict(ancestor.entries) == draft.entries and root == ancestor.root:
        manifest = ancestor  # a name says what is in it: who has it lacks nothing
    store.commit(manifest, manifest.encode(base))
    return manifest


def _below(entries: Mapping[str, Entry], folders: AbstractSet[str]) -> set[str]:
    """What is known below the folders: when another folder has the name of one, nobody says what went with it."""
    return {path for path in entries if not folders.isdisjoint(parents(path))} if folders else set()


def _fill(
    draft: _Draft,
    paths: set[str],
    changed_again: Callable[[], Changes] | None,
    put_back: Callable[[Changes], None],
    still: bool,
) -> str:
    """Takes what changed, until nothing changes meanwhile or for the last time; gives the consistency."""
    for _ in range(PASSES):
        draft.begin_pass()
        for path in sorted(paths):
            draft.take(path)
        if draft.linked:
            for path in sorted(changed_in(draft.source, draft.entries)):
                draft.take(path)
        again = _found_again(draft, changed_again, still)
        if not again and not draft.torn:
            return "point-in-time"
        if again.everything:
            paths = changed_in(draft.source, draft.entries)
        else:
            paths = again.paths | _below(draft.entries, again.folders)
    put_back(again)
    return "moving"


def _found_again(draft: _Draft, changed_again: Callable[[], Changes] | None, still: bool) -> Changes:
    if still:
        return Changes()
    if changed_again is not None:
        return changed_again()
    found = changed_in(draft.source, draft.entries)
    return Changes(paths=found, since_ns=time.monotonic_ns() if found else 0)

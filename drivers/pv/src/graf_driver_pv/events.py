"""Which files change, told by the kernel (inotify): no tree is scanned to find them.

The kernel's queue can overflow; then everything may have changed, and that is what is said. Some changes it does not
tell: see `seal.py` for another name of the same file, and `active.py` for what is written through a mapping.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from inotify_simple import INotify, flags

from graf_driver_pv.manifest import parents, walk
from graf_driver_pv.problems import shortened

_MASK = (
    flags.CREATE | flags.MODIFY | flags.ATTRIB | flags.CLOSE_WRITE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
)
_ONLY = flags.ONLYDIR | flags.DONT_FOLLOW
_NAMES = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO


@dataclass(slots=True)
class Changes:
    """What changed since it was last asked for.

    Attributes:
        paths: relative to the tree; of a folder that vanished only the folder itself.
        folders: whose name is another folder's now, or nobody's: whatever was known below may be gone.
        everything: the tree must be compared as a whole.
        since_ns: when the first of them was seen, CLOCK_MONOTONIC; 0 for none.
    """

    paths: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)
    everything: bool = False
    since_ns: int = 0

    def __bool__(self) -> bool:
        return self.everything or bool(self.paths)

    def add(self, other: Changes) -> None:
        """Takes both together."""
        self.paths |= other.paths
        self.folders |= other.folders
        self.everything |= other.everything
        since = [at for at in (self.since_ns, other.since_ns) if at]
        self.since_ns = min(since, default=0)


class Watcher:
    """Watches a tree from a thread of its own. At first everything counts as changed."""

    def __init__(self, root: Path, on_change: Callable[[], None]) -> None:
        self._root = os.fspath(root)
        # Beside the tree, not in it: events come in order, so what is seen after this one's was done after it.
        self._mark = os.fspath(root.with_name(".settle"))
        self._settling: list[threading.Event] = []
        self._on_change = on_change
        self._lock = threading.Lock()
        self._changes = Changes(everything=True, since_ns=time.monotonic_ns())
        self._folders: dict[int, str] = {}
        self._stop = threading.Event()
        self.heard_ns = 0  # when something was heard last, CLOCK_MONOTONIC
        self.overflows = 0
        self.problem = "not watched yet"
        self._inotify: INotify | None = None
        self._beside = -1
        self._watching = threading.Lock()  # of `_folders`
        self._thread = threading.Thread(target=self._run, name="pv-events", daemon=True)
        # Before anybody can look at the tree: what is written after the look must be heard.
        self.mend()

    def mend(self) -> None:
        """Watches everything anew, where something was in the way; `problem` says whether it still is. Blocking."""
        with self._watching:
            if self._inotify is None:
                try:
                    inotify = INotify()
                except OSError as error:
                    self.problem = (
                        f"what changes cannot be watched: {error.strerror}; raise fs.inotify.max_user_instances "
                        f"(or the limit of open files). Until then the whole tree is compared"
                    )
                    return
                try:
                    self._beside = inotify.add_watch(os.path.dirname(self._mark), flags.CLOSE_WRITE | _ONLY)
                except OSError as error:
                    inotify.close()
                    self.problem = _not_watched(os.path.dirname(self._mark), error)
                    return
                self._inotify = inotify
                self._thread.start()
            try:
                self.problem = self._watch("")
            except OSError as error:
                self.problem = _not_watched(error.filename or self._root, error)

    def take(self) -> Changes:
        """What changed, and forgets it."""
        with self._lock:
            taken, self._changes = self._changes, Changes()
        return taken

    def give_back(self, changes: Changes) -> None:
        """Changes that were taken and not dealt with."""
        with self._lock:
            self._changes.add(changes)

    @property
    def since_ns(self) -> int:
        """When the oldest change was seen that nobody has taken; 0 for none."""
        with self._lock:
            return self._changes.since_ns

    def unheard(self, paths: set[str]) -> set[str]:
        """Which of the paths are in no change that was heard and not taken."""
        with self._lock:
            heard, folders = set(self._changes.paths), set(self._changes.folders)
            everything = self._changes.everything
        return set() if everything else {p for p in paths - heard if folders.isdisjoint(parents(p))}

    def settle(self) -> None:
        """Blocks until every change made before this call has been read from the kernel."""
        if self._inotify is None:
            return
        asked = threading.Event()
        with self._lock:
            self._settling.append(asked)
        try:
            with open(self._mark, "wb"):
                pass
        except OSError:
            return
        asked.wait(10)

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._inotify is not None:
            self._thread.join()
            self._inotify.close()

    def _run(self) -> None:
        inotify = self._inotify
        assert inotify is not None
        while not self._stop.is_set():
            events = inotify.read(timeout=200)
            if not events:
                continue
            now_ns = time.monotonic_ns()
            seen = Changes()
            with self._lock:
                asked = list(self._settling)
            marked = False
            for event in events:
                if event.wd == self._beside and not event.mask & flags.Q_OVERFLOW:
                    marked = True
                else:
                    self._hear_whatever(event.wd, event.mask, event.name, seen)
            if seen:
                seen.since_ns = self.heard_ns = now_ns
                with self._lock:
                    self._changes.add(seen)
                self._on_change()
            if marked or seen.everything:
                self._settled(asked)

    def _hear_whatever(self, watch: int, mask: int, name: str, seen: Changes) -> None:
        """What cannot be looked at must not end the thread: nothing would be heard any more, and nobody told."""
        with self._watching:
            try:
                problem = self._hear(watch, mask, name, seen)
            except OSError as error:
                problem, seen.everything = _not_watched(error.filename or self._root, error), True
            self.problem = problem or self.problem

    def _hear(self, watch: int, mask: int, name: str, seen: Changes) -> str:
        if mask & flags.Q_OVERFLOW:
            self.overflows += 1
            seen.everything = True
            return self._watch("")
        folder = self._folders.get(watch)
        if mask & flags.IGNORED:
            self._folders.pop(watch, None)
            return ""
        if folder is None or not name:
            if folder is not None and mask & flags.ATTRIB and folder:
                seen.paths.add(folder)
            return ""
        path = f"{folder}/{name}" if folder else name
        seen.paths.add(path)
        if not mask & flags.ISDIR or not mask & _NAMES:
            return ""
        seen.folders.add(path)
        if mask & flags.MOVED_FROM:
            self._forget(path)
        # Also what was moved away: when two have changed places, the other one is there by now.
        # Watched first, looked into second: what comes into it meanwhile is seen twice, never not at all.
        problem = self._watch(path)
        seen.paths.update(walk(self._root, path))
        return problem

    def _settled(self, asked: list[threading.Event]) -> None:
        """Tells those that asked before the events of this batch were looked at."""
        with self._lock:
            self._settling = [one for one in self._settling if one not in asked]
        for one in asked:
            one.set()

    def _watch(self, below: str) -> str:
        """Watches a folder and all below it; why one cannot be, empty for nothing."""
        assert self._inotify is not None
        problem = ""
        for folder in self._subfolders(below):
            try:
                number = self._inotify.add_watch(os.path.join(self._root, folder), _MASK | _ONLY)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                problem = _not_watched(folder or self._root, error)
                continue
            self._folders[number] = folder
        return problem

    def _subfolders(self, below: str) -> list[str]:
        found, waiting = [], [below]
        while waiting:
            folder = waiting.pop()
            found.append(folder)
            try:
                with os.scandir(os.path.join(self._root, folder)) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(f"{folder}/{entry.name}" if folder else entry.name)
            except (FileNotFoundError, NotADirectoryError):
                continue
        return found

    def _forget(self, path: str) -> None:
        assert self._inotify is not None
        for number, folder in list(self._folders.items()):
            if folder == path or folder.startswith(f"{path}/"):
                self._folders.pop(number)
                with contextlib.suppress(OSError):
                    self._inotify.rm_watch(number)


def _not_watched(path: str, error: OSError) -> str:
    remedy = "raise fs.inotify.max_user_watches" if error.errno == errno.ENOSPC else "see to it"
    return f"{shortened(path)} cannot be watched: {error.strerror}; {remedy}. Until then the whole tree is compared"

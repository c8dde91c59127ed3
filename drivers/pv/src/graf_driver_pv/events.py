"""Which files change, told by the kernel (inotify): no tree is scanned to find them.

The kernel's queue can overflow; then everything may have changed, and that is what is said.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from inotify_simple import INotify, flags

from graf_driver_pv.manifest import walk

_MASK = (
    flags.CREATE | flags.MODIFY | flags.ATTRIB | flags.CLOSE_WRITE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
)
_ONLY = flags.ONLYDIR | flags.DONT_FOLLOW


@dataclass(slots=True)
class Changes:
    """What changed since it was last asked for.

    Attributes:
        paths: relative to the tree; of a folder that vanished only the folder itself.
        everything: the tree must be compared as a whole.
        since_ns: when the first of them was seen, CLOCK_MONOTONIC; 0 for none.
    """

    paths: set[str] = field(default_factory=set)
    everything: bool = False
    since_ns: int = 0

    def __bool__(self) -> bool:
        return self.everything or bool(self.paths)

    def add(self, other: Changes) -> None:
        """Takes both together."""
        self.paths |= other.paths
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
        self.problem = ""
        self._inotify = INotify()
        self._beside = self._inotify.add_watch(os.path.dirname(self._mark), flags.CLOSE_WRITE | _ONLY)
        # Before anybody can look at the tree: what is written after the look must be heard.
        self._watch("")
        self._thread = threading.Thread(target=self._run, name="pv-events", daemon=True)
        self._thread.start()

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

    def settle(self) -> None:
        """Blocks until every change made before this call has been read from the kernel."""
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
        self._thread.join()
        self._inotify.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            events = self._inotify.read(timeout=200)
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
                    self._hear(event.wd, event.mask, event.name, seen)
            if seen:
                seen.since_ns = self.heard_ns = now_ns
                with self._lock:
                    self._changes.add(seen)
                self._on_change()
            if marked or seen.everything:
                self._settled(asked)

    def _hear(self, watch: int, mask: int, name: str, seen: Changes) -> None:
        if mask & flags.Q_OVERFLOW:
            self.overflows += 1
            seen.everything = True
            self._watch("")
            return
        folder = self._folders.get(watch)
        if mask & flags.IGNORED:
            self._folders.pop(watch, None)
            return
        if folder is None or not name:
            if folder is not None and mask & flags.ATTRIB and folder:
                seen.paths.add(folder)
            return
        path = f"{folder}/{name}" if folder else name
        seen.paths.add(path)
        if mask & flags.ISDIR and mask & flags.MOVED_FROM:
            self._forget(path)
        if mask & flags.ISDIR and mask & (flags.CREATE | flags.MOVED_TO):
            # Watched first, looked into second: what comes into it meanwhile is seen twice, never not at all.
            self._watch(path)
            seen.paths.update(walk(self._root, path))

    def _settled(self, asked: list[threading.Event]) -> None:
        """Tells those that asked before the events of this batch were looked at."""
        with self._lock:
            self._settling = [one for one in self._settling if one not in asked]
        for one in asked:
            one.set()

    def _watch(self, below: str) -> None:
        for folder in self._subfolders(below):
            try:
                number = self._inotify.add_watch(os.path.join(self._root, folder), _MASK | _ONLY)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                self.problem = (
                    f"{folder or self._root} cannot be watched: {error.strerror}; raise fs.inotify.max_user_watches. "
                    f"Until then the whole tree is compared"
                )
                continue
            self._folders[number] = folder

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
        for number, folder in list(self._folders.items()):
            if folder == path or folder.startswith(f"{path}/"):
                self._folders.pop(number)
                with contextlib.suppress(OSError):
                    self._inotify.rm_watch(number)

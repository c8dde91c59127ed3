"""Files that survive a power cut: every rename here is followed by a sync of the folder that holds the name."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_AT_ONCE = 8


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: str | Path) -> None:
    """Makes a file's content durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Syncs:
    """Makes files durable while others are still written. Several at once: the disk then writes many in one go."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pv-sync")
        self._begun: dict[str, Future[None]] = {}

    def begin(self, path: str, *, again: bool = True) -> None:
        """Begins with a file that is written to its end; not `again`: unless it was begun with already."""
        if again or path not in self._begun:
            self._begun[path] = self._threads.submit(sync_file, path)

    def forget(self, path: str) -> None:
        """A file that is no longer there."""
        self._begun.pop(path, None)

    def forget_below(self, path: str) -> None:
        """A folder that is no longer there."""
        for below in [one for one in self._begun if one.startswith(f"{path}/")]:
            del self._begun[below]

    def finish(self, folders: Iterable[str]) -> None:
        """Waits for the contents; only then the names are made durable.

        Raises:
            OSError: something is not durable.
        """
        for begun in self._begun.values():
            begun.result()
        for _ in self._threads.map(sync_folder, map(Path, folders)):
            pass

    def close(self) -> None:
        """Ends the threads."""
        self._threads.shutdown(cancel_futures=True)


def replace_file(path: Path, content: bytes) -> None:
    """Writes a file so that there is the old content or the new, never a part."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def move(source: Path, target: Path) -> None:
    """Renames durably; the target's folder is made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def discard(path: Path, trash: Path) -> None:
    """Takes something away at once; `empty` deletes it later."""
    if not os.path.lexists(path):
        return
    trash.mkdir(parents=True, exist_ok=True)
    path.rename(trash / uuid.uuid4().hex)
    sync_folder(path.parent)


def empty(trash: Path) -> None:
    """Deletes what was discarded. Errors are for the next time: nothing depends on it."""
    with contextlib.suppress(OSError):
        for entry in list(trash.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

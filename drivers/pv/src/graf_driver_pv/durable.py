"""Files that survive a power cut: every rename here is followed by a sync of the folder that holds the name."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
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


def sync_all(files: Iterable[str], folders: Iterable[str]) -> None:
    """Contents first, then the names. Several at once: the disk then writes many of them in one go."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pv-sync") as threads:
        for _ in threads.map(sync_file, files):
            pass
        for _ in threads.map(sync_folder, map(Path, folders)):
            pass


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

"""Small files that are replaced durably, also when the disk is full: a site whose disk is full must still be fenced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_kept(path: Path, content: bytes, sync: Callable[[int], None] = os.fsync) -> None:
    """Replaces a file so that there is the old content or the new, never a part; only the first time needs room.

    The new content is written where the one before the last was, in a file that is kept for that. Returns when it
    would survive a power cut.

    Raises:
        OSError: it could not be written; the old content is there.
    """
    spare, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    _write(spare, content, sync)
    old.unlink(missing_ok=True)
    is_there = path.exists()
    if is_there:
        os.link(path, old)
    spare.replace(path)
    if is_there:
        old.replace(spare)
    _sync_folder(path.parent, sync)
    if not is_there:
        keep_room(path)


def keep_room(path: Path) -> None:
    """Sees to the file that `replace_kept` writes into next. A full disk is no error: there may be room until then.

    Called by whoever has read the file: the version before did not keep one, and a crash may have left it by its other
    name.
    """
    spare, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    try:
        # Never what is also the file itself: it would be written in place.
        if not spare.exists() and old.exists() and not old.samefile(path):
            old.replace(spare)
        if not spare.exists() or not spare.stat().st_size:
            _write(spare, b"room for the next one\n", _not_needed)
    except OSError:
        return


def _write(path: Path, content: bytes, sync: Callable[[int], None]) -> None:
    # In place, and cut off only then: what an empty file gives back may be somebody else's before it is written again.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.truncate()
        file.flush()
        sync(file.fileno())


def _sync_folder(folder: Path, sync: Callable[[int], None]) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def _not_needed(_: int) -> None:
    """Nothing depends on it after a power cut."""

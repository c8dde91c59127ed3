"""Small changes come over the connection that told of them: starting rsync takes longer than sending them whole.

Whatever has a larger file, or is more in all, comes by rsync, which sends only what differs in a file and goes on in
the middle of one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from graf_driver_pv.manifest import Entry

FILE_BYTES: Final = 256 << 10
_ALL_BYTES: Final = 32 << 20
_ALL_PATHS: Final = 10_000
# A request is one line, and a line of asyncio's is 64 KiB at most; a byte of a path is up to 6 characters of JSON.
_REQUEST_BYTES: Final = 8 << 10
_REQUEST_PATHS: Final = 512


def is_small(entries: Mapping[str, Entry], paths: Iterable[str]) -> bool:
    """Whether what is at the paths comes without rsync."""
    count = total = 0
    for path in paths:
        size = entries[path].size
        count, total = count + 1, total + size
        if size > FILE_BYTES or total > _ALL_BYTES or count > _ALL_PATHS:
            return False
    return True


def requests(paths: Iterable[str]) -> Iterator[list[str]]:
    """The paths in the same order, in portions that can be asked for at once."""
    portion: list[str] = []
    length = 0
    for path in paths:
        length += len(os.fsencode(path)) + 1
        if portion and (length > _REQUEST_BYTES or len(portion) >= _REQUEST_PATHS):
            yield portion
            portion, length = [], len(os.fsencode(path)) + 1
        portion.append(path)
    if portion:
        yield portion


def read(tree: str, entries: Mapping[str, Entry], path: str) -> bytes | None:
    """A file of a generation; None for what is none, or is not small.

    Only what the manifest knows as a file is opened: none of its parents is a link then.
    """
    entry = entries.get(path)
    if entry is None or entry.kind != "f" or entry.size > FILE_BYTES:
        return None
    try:
        descriptor = os.open(os.path.join(tree, path), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(FILE_BYTES + 1)


def lay(tree: str, path: str, entry: Entry, content: bytes = b"") -> None:
    """Puts a folder, a link or a whole file where it belongs. What has another kind is out of the way already."""
    target = os.path.join(tree, path)
    if entry.kind == "d":
        with contextlib.suppress(FileExistsError):
            os.mkdir(target)
        os.chown(target, entry.uid, entry.gid)
        os.chmod(target, entry.mode)
        return
    with contextlib.suppress(FileNotFoundError):
        os.unlink(target)
    if entry.kind == "l":
        os.symlink(entry.content, target)
        os.chown(target, entry.uid, entry.gid, follow_symlinks=False)
        os.utime(target, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
        return
    with open(target, "xb", buffering=0) as file:
        view = memoryview(content)
        while view:
            view = view[file.write(view) :]
        os.fchown(file.fileno(), entry.uid, entry.gid)
        os.fchmod(file.fileno(), entry.mode)
        # Last: until then the file does not look as the manifest says, so a half one is found by its time.
        os.utime(file.fileno(), ns=(entry.mtime_ns, entry.mtime_ns))

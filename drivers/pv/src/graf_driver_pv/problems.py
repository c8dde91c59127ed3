"""What went wrong on a disk, for people: where, why, and what to do. Pure."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Final

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_LONGEST: Final = 200
_REMEDIES: Final[Mapping[int, str]] = {
    errno.ENOSPC: "enlarge the volume, lower `keep`, or delete old archives",
    errno.EDQUOT: "raise the quota, lower `keep`, or delete old archives",
    errno.ENAMETOOLONG: "the driver reaches 4095 bytes of path, its own folders with it: move this up, or delete it",
    errno.EXDEV: "nothing is copied while it is there: unmount it, or give it a component of its own",
    errno.EMFILE: "raise the driver's limit of open files",
    errno.EIO: "look at the disk",
    errno.EROFS: "look at the disk: it was mounted read-only, or became so after an error",
}


def shortened(path: str) -> str:
    """A path that can be told: its beginning and its end, where it is long; without what is no text."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]}...{text[-half:]}"


def told(error: OSError, where: str | os.PathLike[str]) -> str:
    """An error of the operating system; `where` is told when it is a disk's and names no path."""
    if error.filename is None and error.errno not in _REMEDIES:
        return str(error)
    path = shortened(os.fsdecode(error.filename or where))
    remedy = _REMEDIES.get(error.errno or 0, "")
    return f"{path}: {error.strerror or error}" + (f"; {remedy}" if remedy else "")

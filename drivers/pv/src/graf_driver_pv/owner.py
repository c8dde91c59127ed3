"""Whose volume it is, written into the volume itself.

A folder is named in each site's parameters, and a name that was copied from one group to another one would let two
groups shut, replace and copy over the same data. Drivers of two classes know nothing of each other; the volume does.
Blocking: call it in a thread.
"""

from __future__ import annotations

import errno
from pathlib import Path

from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.types import ComponentKey

from graf_driver_pv.durable import replace_file, sync_folder

NOT_MINE = "not-mine"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def name_of(key: ComponentKey) -> str:
    """As it is written: not the site, whose disk it is anyway."""
    return f"{key.group}/{key.component}"


def owner_of(path: Path) -> str:
    """Whose volume it is; "" where nobody has written it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def take(path: Path, key: ComponentKey) -> None:
    """Writes the owner where there is none.

    Raises:
        PreconditionError: It is another component's; nothing was touched.
    """
    found, own = owner_of(path), name_of(key)
    if found == own:
        return
    if found:
        raise PreconditionError(
            f"{path.parent} is the volume of {found}: give {own} another directory. If it is to be its own from "
            f"now on, end the other group first, then delete {path}",
            reason=NOT_MINE,
        )
    try:
        replace_file(path, f"{own}\n".encode())
        sync_folder(path.parent)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        # A full disk must be shut all the same; it is written at the next start.

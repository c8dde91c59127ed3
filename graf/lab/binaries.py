"""Where the cluster programs come from; the first source that has them wins.

1. The folder named by `GRAF_CONTROL_PLANE_DIR`.
2. The versioned cache, `~/.cache/graf/bin/<fingerprint>`.
3. The official releases, checked against their published checksums.
4. A build from the pinned Go modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from graf.lab import build, releases
from graf.lab.errors import LabError
from graf.lab.state import one_builder
from graf.lab.topology import cache_root

Tell = Callable[[str], None]


def missing_in(directory: Path) -> set[str]:
    """Programs that a folder does not have (or not as executables)."""
    return {name for name in build.PROGRAMS if not os.access(directory / name, os.X_OK)}


def cache_dir() -> Path:
    """The versioned cache directory; another pin or flag gives another one."""
    return cache_root() / "bin" / build.fingerprint()


def override_dir() -> Path | None:
    """The folder named by GRAF_CONTROL_PLANE_DIR, checked.

    Raises:
        LabError: It is named but lacks programs.
    """
    named = os.environ.get("GRAF_CONTROL_PLANE_DIR")
    if not named:
        return None
    directory = Path(named).expanduser().resolve()
    if missing := missing_in(directory):
        raise LabError(
            f"GRAF_CONTROL_PLANE_DIR={named} lacks programs: {', '.join(sorted(missing))}",
            "a folder that is named is used as it is, never mixed with another source",
            "add them, or unset the variable",
        )
    return directory


def located() -> Path:
    """The folder with the programs, when they are there already.

    Raises:
        LabError: They are not.
    """
    directory = override_dir() or cache_dir()
    if missing := missing_in(directory):
        raise LabError(
            f"cluster programs are missing: {', '.join(sorted(missing))}",
            f"{directory} does not have them",
            "graf lab up",
        )
    return directory


def ensure(tell: Tell) -> Path:
    """Find the programs, or get them.

    Args:
        tell: Told what is being done, for a progress display.

    Returns:
        The folder that has all of them.

    Raises:
        LabError: No source has them.
    """
    if (named := override_dir()) is not None:
        return named
    target = cache_dir()
    if not missing_in(target):
        return target
    with one_builder(target):
        releases.download(target, tell, missing_in(target))
        if missing := missing_in(target):
            build.build(target, tell, missing)
    return target

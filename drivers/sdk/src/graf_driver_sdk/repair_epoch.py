"""`python -m graf_driver_sdk.repair_epoch DIRECTORY GROUP COMPONENT EPOCH`: for people, after a corrupt epoch file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from graf_driver_sdk.epoch import EpochGuard


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the epoch that the group has now. A lower one than the truth would let a deposed site act: look it up."""
    parser = argparse.ArgumentParser(prog="python -m graf_driver_sdk.repair_epoch", description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("group")
    parser.add_argument("component")
    parser.add_argument("epoch", type=int)
    arguments = parser.parse_args(argv)
    guard = EpochGuard(arguments.directory)
    if arguments.epoch < 1:
        parser.error(f"epoch {arguments.epoch} is none: `graf status` shows the group's epoch, a number from 1")
    if not guard.path(arguments.group, arguments.component).exists():
        parser.error(
            f"{guard.path(arguments.group, arguments.component)} does not exist, so there is nothing to repair; "
            f"check the names of directory, group and component"
        )
    guard.repair(arguments.group, arguments.component, arguments.epoch)
    sys.stderr.write(f"{guard.path(arguments.group, arguments.component)} holds epoch {arguments.epoch} now\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""What the machine remembers of a lab: enough to find and end all of it, also after a crash of the command.

`lab.json` is written before anything is made, so whatever exists in the kernel under the lab's names has a record.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from graf.lab.errors import LabError
from graf.lab.topology import MAX_INDEX, Topology, check_name, state_root


@dataclass(frozen=True)
class LabState:
    """The record of one lab.

    Attributes:
        topology: Name and index.
        boot_id: The kernel's boot id when the lab was made; another one means the machine restarted since.
    """

    topology: Topology
    boot_id: str

    @property
    def path(self) -> Path:
        return self.topology.state_dir / "lab.json"

    @property
    def survived_boot(self) -> bool:
        """The machine has not restarted since the lab was made."""
        return self.boot_id == current_boot_id()

    @staticmethod
    def read(name: str) -> LabState | None:
        """Read a lab's record; None when there is none.

        Raises:
            LabError: The record is there but cannot be understood.
        """
        check_name(name)
        path = state_root() / name / "lab.json"
        try:
            data = json.loads(path.read_text())
            return LabState(Topology(str(data["name"]), int(data["index"])), str(data["boot_id"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise LabError(
                f"the record of lab {name!r} cannot be read",
                f"{path}: {problem}",
                f"graf lab down --name {name} --force",
            ) from problem

    def write(self) -> None:
        """Store the record durably, replacing an older one at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        data = {"name": self.topology.name, "index": self.topology.index, "boot_id": self.boot_id}
        write_atomically(self.path, json.dumps(data, indent=1) + "\n")


def current_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def write_if_changed(path: Path, text: str, mode: int = 0o644) -> bool:
    """Write a file only when its content is another one: running daemons watch theirs. Returns whether it was."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == text:
            return False
    write_atomically(path, text, mode)
    return True


def all_labs() -> list[LabState]:
    """Every lab of this machine that has a readable record."""
    found = []
    root = state_root()
    for path in sorted(root.glob("*/lab.json")) if root.is_dir() else []:
        with contextlib.suppress(LabError):
            state = LabState.read(path.parent.name)
            if state is not None:
                found.append(state)
    return found


def choose_index(name: str, used: dict[int, str], taken_subnets: set[int], wanted: int | None) -> int:
    """Choose the index of a new lab.

    Args:
        name: Name of the new lab.
        used: Index to name of the other labs.
        taken_subnets: Indexes whose subnet this machine already uses for something else.
        wanted: An index asked for, or None for the lowest free one.

    Raises:
        LabError: The wanted index is in use, or none is free.
    """
    if wanted is not None:
        if wanted in used:
            raise LabError(
                f"index {wanted} is in use by lab {used[wanted]!r}",
                f"both would have the subnet 198.18.{wanted}.0/24",
                "leave --index out, or end the other: graf lab down --name " + used[wanted],
            )
        if wanted in taken_subnets:
            raise LabError(
                f"the subnet 198.18.{wanted}.0/24 of lab {name!r} is taken",
                "an interface or route of this machine, not made by a lab, has it",
                "leave --index out, or look at: ip route; ip address",
            )
        return wanted
    for index in range(MAX_INDEX + 1):
        if index not in used and index not in taken_subnets:
            return index
    raise LabError(
        f"no subnet is left for lab {name!r}",
        f"198.18.0.0/24 to 198.18.{MAX_INDEX}.0/24 are all in use",
        "end a lab: graf lab down --name NAME",
    )


@contextlib.contextmanager
def exclusive(name: str) -> Iterator[None]:
    """Hold the lab for one command at a time.

    Raises:
        LabError: Another command is changing this lab.
    """
    check_name(name)
    root = state_root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            raise LabError(
                f"another command is changing lab {name!r} right now",
                "two at once would undo each other's work",
                "wait for it to end and try again",
            ) from problem
        yield


@contextlib.contextmanager
def one_builder(directory: Path) -> Iterator[None]:
    """Let one process at a time build into a cache folder; the others wait and then find the work done."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield

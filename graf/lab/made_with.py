"""What a lab was made with beyond the plain example: noted once beside its record, and so for its whole life."""

from __future__ import annotations

import enum

from graf.lab.errors import LabError
from graf.lab.state import write_atomically
from graf.lab.topology import Topology


class Extra(enum.Enum):
    """One such thing: the name of its note, of its option and of a lab for it; and why it cannot come later."""

    VOLUME = "volume", "which components its group has is for the whole life of a lab"
    WORKLOAD = "workload", "which components its group has is for the whole life of a lab"
    SCOPE = "scope", "a server's data is made for one scope, for the whole life of a lab"
    GROUPS = "groups", "which groups its repository begins with is for the whole life of a lab"

    def __init__(self, word: str, lasts: str) -> None:
        self.word = word
        self.lasts = lasts


def remember(topology: Topology, extra: Extra) -> None:
    """Notes in the lab's state that it was made with this."""
    write_atomically(topology.state_dir / extra.word, "")


def has(topology: Topology, extra: Extra) -> bool:
    """Whether this lab was made with it."""
    return (topology.state_dir / extra.word).exists()


def require(topology: Topology, extra: Extra) -> None:
    """A lab that is up keeps what it was made with.

    Raises:
        LabError: It was made without this.
    """
    if not has(topology, extra):
        raise LabError(
            f"lab {topology.name!r} was made without --{extra.word}",
            extra.lasts,
            f"graf lab down --name {topology.name}, or another lab: graf lab up --name {extra.word} --{extra.word}",
        )

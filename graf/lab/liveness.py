"""Which processes are really alive.

A process that has ended stays in the process table until its parent asks for its exit status. The containers of a
killed location become children of process 1, and process 1 of a container or of a small machine may reap them late or
never. Such a zombie has no memory, no files and no namespaces; it runs nothing and cannot be killed again. Everything
in the lab that asks "does it still run?" asks here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_ENDED = frozenset("ZXx")


@dataclass(frozen=True)
class Stat:
    """What the kernel says of a process in /proc/PID/stat.

    Attributes:
        pid: Its number.
        name: Name of its program, cut off by the kernel at 15 characters.
        state: One letter: R, S, D, T, t, I; Z and X have ended.
        group: Its process group.
        threads: Its threads, an ended leader included.
        started: When it started, in clock ticks since boot; tells it from a later process of the same number.
    """

    pid: int
    name: str
    state: str
    group: int
    threads: int
    started: int

    @property
    def alive(self) -> bool:
        """It can still run something. A leader that has ended counts while other threads of it go on."""
        return self.state not in _ENDED or self.threads > 1

    def __str__(self) -> str:
        return f"{self.pid} {self.name} (state {self.state})"


def parse(text: str) -> Stat:
    """Read a line of /proc/PID/stat; the name is in parentheses and may hold anything.

    Raises:
        ValueError: It is no such line.
    """
    head, _, tail = text.rpartition(")")
    pid, _, name = head.partition(" (")
    fields = tail.split()
    if len(fields) < 20:
        raise ValueError(f"no line of /proc/PID/stat: {text[:100]!r}")
    return Stat(int(pid), name, fields[0], int(fields[2]), int(fields[17]), int(fields[19]))


def stat_of(pid: int) -> Stat | None:
    """What the kernel says of a process; None when there is none of this number."""
    try:
        return parse((_PROC / str(pid) / "stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_alive(pid: int) -> bool:
    """Whether a process of this number can still run something."""
    stat = stat_of(pid)
    return stat is not None and stat.alive


def stats_of(pids: Iterable[int]) -> list[Stat]:
    """What the kernel says of those of the processes that are alive."""
    found = (stat_of(pid) for pid in pids)
    return [stat for stat in found if stat is not None and stat.alive]


def still_alive(known: Iterable[Stat]) -> list[Stat]:
    """Those of the processes that have not ended; a number that was used again for another one counts as ended."""
    then = {stat.pid: stat.started for stat in known}
    return [stat for stat in stats_of(then) if stat.started == then[stat.pid]]


def members(group: int) -> list[Stat]:
    """The living processes of a process group."""
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [stat for stat in stats_of(pids) if stat.group == group]

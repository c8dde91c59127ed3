"""A program whose start is cancelled leaves no process and no pipe behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from graf_driver_sdk.processes import kill, start

# It has started a child before anybody hears of it; both hold the pipes.
PROGRAM = 'sleep 1000 & echo "$$ $!" > "$0.new"; mv "$0.new" "$0"; wait'


def poll(what: str, seen: Callable[[], bool]) -> None:
    """Blocks the event loop on purpose: its turns are what is tried."""
    ends = time.monotonic() + 20
    while not seen():
        assert time.monotonic() < ends, f"waited 20 s for {what}"
        time.sleep(0.005)


def children() -> set[str]:
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def pipes() -> int:
    """How many ends of pipes this process has open."""
    return sum(
        str(path.readlink()).startswith("pipe:") for path in Path("/proc/self/fd").iterdir() if path.is_symlink()
    )


def dead(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def started(told: Path) -> list[str]:
    """The process and its child."""
    poll("the program to have a child of its own", told.exists)
    return told.read_text().split()


async def cancelled_after(turns: int, told: Path) -> bool | None:
    """Cancels a start after that many turns of the loop; whether a process was there, None when it was started."""
    before = children()
    pipe = asyncio.subprocess.PIPE
    work = asyncio.ensure_future(
        start("sh", "-c", PROGRAM, str(told), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    )
    for _ in range(turns):
        await asyncio.sleep(0)
    forked = bool(children() - before)
    pids = started(told) if forked else []
    if work.done():
        await kill(work.result())
    else:
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    over = work.cancelled()
    for pid in pids:
        poll(f"the end of {pid}", lambda: dead(pid))  # noqa: B023 - called before the next
    return forked if over else None


async def test_a_start_that_is_cancelled_at_any_turn_of_the_loop_leaves_nothing(tmp_path: Path) -> None:
    before = await asyncio.to_thread(pipes)
    seen: list[bool | None] = []
    while None not in seen:  # until it is done sooner
        assert len(seen) < 100, "a start takes more than a hundred turns of the loop"
        seen.append(await cancelled_after(len(seen), tmp_path / f"pids-{len(seen)}"))
    assert seen.count(True) >= 2, f"no cancellation met a process that had just been forked: {seen}"
    for _ in range(5):
        await asyncio.sleep(0)  # transports close their pipes in a turn of their own
    assert await asyncio.to_thread(pipes) <= before


async def test_a_program_that_cannot_be_started_says_so() -> None:
    with pytest.raises(FileNotFoundError):
        await start("/nowhere/program")

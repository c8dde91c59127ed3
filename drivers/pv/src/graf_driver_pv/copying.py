"""What both ways of copying share: a copier ends with the driver, and what it brings is laid down and synced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from graf_driver_sdk.processes import start

from graf_driver_pv import durable
from graf_driver_pv.manifest import Entry
from graf_driver_pv.small import lay

# A copier may be several processes; none of them may go on writing, or keep the lock, when the driver
# is killed. Standard input is a pipe that only the driver holds open: at its end the whole process group is killed.
# SIGTERM and SIGINT are for the copier, which ends in order; the shell waits for it, and the watcher watches on. The
# shell is its parent and collects it: in a container nobody else would.
WITH_THE_DRIVER: Final = """
trap : TERM INT
exec 3<&0 </dev/null
(trap '' TERM INT; read -r _ <&3; kill -KILL 0) & watch=$!
"$@" 3<&-
code=$?
kill -KILL "$watch" 2>/dev/null
wait "$watch" 2>/dev/null
exit "$code"
"""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done for a generation.

    Attributes:
        incoming: where it is put together.
        lock: on `incoming`, to be closed.
        wanted: paths that must be copied.
        emptied: folders out of which something was taken away.
        fresh: `incoming` was begun anew; else an earlier try left what is there.
        syncs: to be closed.
    """

    incoming: Path
    lock: int
    wanted: set[str]
    emptied: set[str]
    fresh: bool
    syncs: durable.Syncs = field(default_factory=durable.Syncs)

    @property
    def tree(self) -> str:
        """The generation's tree."""
        return os.fspath(self.incoming / "tree")


class PullError(RuntimeError):
    """A generation could not be received; what came of it is kept for the next try."""


class UnsoundError(PullError):
    """A generation came, and is not what its manifest says."""


async def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    locks: Iterable[int] = (),
    folder: Path | None = None,
    ask_to_end: signal.Signals = signal.SIGTERM,
) -> tuple[int, bytes, bytes]:
    """Runs a copier to its end; it ends when this is cancelled, or the driver is killed.

    Args:
        command: program and arguments.
        environment: all of it.
        locks: descriptors that it holds until it has ended.
        folder: where it works.
        ask_to_end: upon which it ends in order.

    Returns:
        Its exit status, standard output and standard error.
    """
    process = await start(
        *("sh", "-c", WITH_THE_DRIVER, "copy", *command),
        end=partial(_end, ask_to_end=ask_to_end),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
        pass_fds=tuple(locks),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said, told = await asyncio.gather(process.stdout.read(), process.stderr.read())
        code = await process.wait()
    finally:
        if process.returncode is None:
            await _end(process, ask_to_end)
    return code, said, told


async def _end(process: asyncio.subprocess.Process, ask_to_end: signal.Signals) -> None:
    """Asks a copier to end, which keeps what it has then; kills it, and what it started, when it does not."""
    for number, patience_s in ((ask_to_end, 2.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(process.wait()), patience_s)
        if process.returncode is not None:
            return


def lay_all(
    tree: str, entries: Mapping[str, Entry], contents: Iterable[tuple[str, bytes]], syncs: durable.Syncs
) -> None:
    """Lays what has come, in the order given: folders come before what is in them. Blocking."""
    for path, content in contents:
        lay(tree, path, entries[path], content)
        if entries[path].kind == "f":
            syncs.begin(os.path.join(tree, path))


def clear_way(path: Path, wanted: Entry | None) -> None:
    """Removes what must not be written into: it is shared with an older generation, or of another kind."""
    try:
        seen = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(seen.st_mode):
        if wanted is None or wanted.kind != "d":
            shutil.rmtree(path)
    elif wanted is None or wanted.kind != "f" or not stat.S_ISREG(seen.st_mode) or seen.st_nlink > 1:
        path.unlink()

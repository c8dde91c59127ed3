"""The driver as a process: its socket, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from graf_driver_sdk.client import DriverCallError, DriverClient
from graf_driver_sdk.listen import AddressError, claim, socket_path
from graf_driver_sdk.testing import eventually, spec
from graf_driver_sdk.types import EnsureRole, Role

PROGRAM = Path(__file__).with_name("scripted_process.py")
SPEC = spec()


class Process:
    """A driver's process and what it said."""

    def __init__(self, process: asyncio.subprocess.Process, directory: Path) -> None:
        self.process = process
        self.socket = directory / "run" / "driver.sock"
        self.closed = directory / "closed"

    async def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, list[dict[str, object]]]:
        """Its exit status and its log, after a signal."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> tuple[int, list[dict[str, object]]]:
        async with asyncio.timeout(20):
            _, log = await self.process.communicate()
        lines: list[dict[str, object]] = [json.loads(line) for line in log.decode().splitlines()]
        return self.process.returncode or 0, lines

    async def serving(self) -> None:
        async def answers() -> bool:
            async with DriverClient(str(self.socket)) as client:
                try:
                    return bool((await client.info()).name)
                except DriverCallError:
                    return False

        await eventually(f"a driver answers on {self.socket}", answers, 20.0)


@contextlib.asynccontextmanager
async def process(directory: Path, *arguments: str, closed: str = "closed") -> AsyncIterator[Process]:
    environment = {
        **os.environ,
        "GRAF_DRIVER_SOCKET": str(directory / "run" / "driver.sock"),
        "GRAF_DRIVER_STATE_DIR": str(directory / "state"),
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        str(PROGRAM),
        str(directory / closed),
        *arguments,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    one = Process(started, directory)
    try:
        yield one
    finally:
        if started.returncode is None:
            started.kill()
            await started.communicate()


async def test_sigterm_ends_it_gracefully_and_closes_the_driver(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        await one.serving()
        assert stat.S_IMODE(one.socket.parent.stat().st_mode) == 0o700
        code, log = await one.end()
    assert code == 0, log
    assert one.closed.read_text() == "closed"
    assert [line["event"] for line in log if line["logger"] == "graf_driver_sdk.serve"] == ["serving", "stopping"]


async def test_sigterm_ends_it_while_somebody_watches(tmp_path: Path) -> None:
    async with process(tmp_path) as one:
        await one.serving()
        async with DriverClient(str(one.socket)) as client:
            updates = client.watch(SPEC)
            await anext(updates)
            code, log = await one.end()
            assert code == 0, log
            assert isinstance(await anext(updates), DriverCallError)
            await updates.aclose()


async def test_a_killed_driver_leaves_a_socket_that_the_next_one_replaces_and_the_epoch_is_still_there(
    tmp_path: Path,
) -> None:
    async with process(tmp_path) as first:
        await first.serving()
        async with DriverClient(str(first.socket)) as client:
            await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 7))
        await first.end(signal.SIGKILL)
        assert first.socket.is_socket()
    async with process(tmp_path) as second:
        await second.serving()
        async with DriverClient(str(second.socket)) as client:
            with pytest.raises(DriverCallError, match=r"epoch 6 .*has seen epoch 7"):
                await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 6))


async def test_a_second_driver_on_the_same_socket_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with process(tmp_path) as first:
        await first.serving()
        async with process(tmp_path, closed="other") as second:
            code, log = await second.ended()
        assert code == 2
        assert "belongs to another running driver" in str(log[-1]["cause"])
        await first.serving()


@pytest.mark.parametrize(
    ("closed", "said", "trace"),
    [("cannot-start", "netlink is not permitted", False), ("crashes-at-start", "start", True)],
)
async def test_a_driver_that_cannot_start_says_why_and_ends(
    tmp_path: Path, closed: str, said: str, trace: bool
) -> None:
    async with process(tmp_path, closed=closed) as one:
        code, log = await one.ended()
    assert code == 2
    assert (log[-1]["event"], "exception" in log[-1]) == ("cannot start", trace)
    assert said in str(log[-1]["cause"])


async def test_an_endpoint_on_the_command_line_wins(tmp_path: Path) -> None:
    async with process(tmp_path, "--endpoint", f"unix:{tmp_path}/other.sock") as one:
        one.socket = tmp_path / "other.sock"
        await one.serving()
        assert not (tmp_path / "run").exists()


def test_a_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(AddressError, match="another process listens"):
            claim(str(path))
    assert path.is_socket()


def test_a_stale_socket_is_removed_and_the_path_claimed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    held = claim(f"unix:{path}")
    try:
        assert held.address == f"unix:{path}"
        assert not path.exists()
        with pytest.raises(AddressError, match="belongs to another running driver"):
            claim(str(path))
    finally:
        held.release()
    claim(str(path)).release()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(AddressError, match="is no socket"):
        claim(str(path))
    assert path.read_text() == "data"


def test_a_path_beyond_the_kernels_limit_is_refused_with_the_limit() -> None:
    with pytest.raises(AddressError, match="107 bytes"):
        claim("/tmp/" + "x" * 120)


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("/run/a.sock", "/run/a.sock"),
        ("unix:/run/a.sock", "/run/a.sock"),
        ("unix:///run/a.sock", "/run/a.sock"),
        ("127.0.0.1:5", None),
    ],
)
def test_every_spelling_of_an_endpoint_is_understood(endpoint: str, path: str | None) -> None:
    assert socket_path(endpoint) == (None if path is None else Path(path))

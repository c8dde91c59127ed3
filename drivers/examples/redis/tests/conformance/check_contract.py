"""The conformance kit, against processes of this driver with real Redis servers, seen by real clients."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from graf_driver_sanity import Config, Report, run
from graf_driver_sanity.config import Budget, Invalid, Side
from redis.backoff import ConstantBackoff
from redis.retry import Retry

PASSWORD = "s3cret-of-both"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def hooks(folder: Path, ports: dict[str, int]) -> dict[str, Callable[[str, str], str | None]]:
    """A client: writes come by TCP and are kept under a key each; what is there is read beside the driver."""

    def write(site: str, value: str) -> None:
        with redis.Redis(port=ports[site], password=PASSWORD, socket_timeout=5) as client:
            client.set(f"value:{value}", value)

    def read(site: str, _: str) -> str:
        path = str(folder / site / "redis.sock")
        with redis.Redis(unix_socket_path=path, password=PASSWORD, socket_timeout=5, decode_responses=True) as client:
            keys: Any = client.keys("value:*")
            return " ".join(key.removeprefix("value:") for key in keys)

    def kill(site: str, _: str) -> None:
        path = str(folder / site / "redis.sock")
        with redis.Redis(unix_socket_path=path, password=PASSWORD, socket_timeout=5) as client:
            server: Any = client.info("server")
        os.kill(int(server["process_id"]), signal.SIGKILL)

    def archived(_: str, archive: str) -> str:
        """A server of its own, on a copy, tells what is in the archive."""
        with tempfile.TemporaryDirectory(prefix="gra-") as place:
            shutil.copy(archive, Path(place, "dump.rdb"))
            own = [*("--dir", place), *("--port", "0"), *("--unixsocket", f"{place}/s"), *("--save", "")]
            server = subprocess.Popen(["redis-server", *own], stdout=subprocess.DEVNULL)
            try:
                retry = Retry(ConstantBackoff(0.05), 200)
                errors: list[type[Exception]] = [redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError]
                with redis.Redis(
                    unix_socket_path=f"{place}/s", decode_responses=True, retry=retry, retry_on_error=errors
                ) as client:
                    keys: Any = client.keys("value:*")
                    return " ".join(key.removeprefix("value:") for key in keys)
            finally:
                server.kill()
                server.wait()

    return {"write": write, "read": read, "break": kill, "archived": archived}


def told(report: Report) -> None:
    """Writes the report, with the seconds of each check, where GRAF_SANITY_OUT says."""
    out = Path(os.environ.get("GRAF_SANITY_OUT", "out/sanity"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "redis.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")


@pytest.mark.timeout(900)
async def test_the_driver_keeps_the_contract() -> None:
    with tempfile.TemporaryDirectory(prefix="gr-") as directory:
        folder = Path(directory)
        (folder / "password").write_text(f"{PASSWORD}\n")
        ports = {"east": free_port(), "west": free_port()}

        def side(name: str) -> Side:
            parameters = {
                "address": "127.0.0.1", "port": ports[name], "dataDir": str(folder / name),
                "passwordFile": str(folder / "password"),
            }  # fmt: skip
            return Side(name, command=(sys.executable, "-m", "graf_driver_redis.main"), parameters=parameters)

        nowhere = {**side("west").parameters, "port": free_port()}
        report = await run(
            Config(
                name="redis",
                site=side("east"),
                peer=side("west"),
                unreachable_peer=nowhere,
                invalid=(
                    Invalid("address", {"address": "east"}),
                    Invalid("port", {"port": 0}),
                    Invalid("dataDir", {"dataDir": "here"}),
                    Invalid("passwordFile", remove=("passwordFile",)),
                    Invalid("colour", {"colour": "red"}),
                ),
                secrets=(PASSWORD,),
                hooks=hooks(folder, ports),
                skip={
                    "epoch-per-component": "one server is one component",
                    "role-ten-times-standby": "Redis itself moves the position every second: a sign of life counts",
                },
                budget=Budget(start_s=60, transition_s=60, call_s=20, status_s=20),
            )
        )
    told(report)
    assert report.failures == []
    assert len(report.passed) >= 210
    # What Redis cannot do, and nothing else: another reason is a gap in this test.
    reasons = {skip.reason for skip in report.skipped} - {"there is no hook: configure hooks.wipe"}
    assert [reason for reason in reasons if not reason.startswith(("the driver ", "configuration: "))] == []

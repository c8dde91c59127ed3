"""A driver's process, for tests: `python scripted_process.py [FILE]` writes to FILE when it was closed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from graf_driver_sdk.driver import Driver
from graf_driver_sdk.errors import DriverError
from graf_driver_sdk.serve import serve
from graf_driver_sdk.types import EnsureRole, FieldProblem, Health, Info, Peer, Progress, Role, Spec, Status


class ProcessDriver(Driver):
    def __init__(self, closed: Path) -> None:
        super().__init__()
        self.closed = closed

    def info(self) -> Info:
        return Info("process.graf.dev", "1.0")

    async def start(self) -> None:
        if self.closed.name == "cannot-start":
            raise DriverError("netlink is not permitted; run as root")
        if self.closed.name == "crashes-at-start":
            raise KeyError("start")

    async def close(self) -> None:
        self.closed.write_text("closed")

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        return []

    async def ensure_role(self, request: EnsureRole) -> Progress:
        return Progress.done()

    async def status(self, spec: Spec) -> Status:
        return Status(Role.FENCED, Health.HEALTHY)


if __name__ == "__main__":
    raise SystemExit(serve(lambda: ProcessDriver(Path(sys.argv[1])), sys.argv[2:]))

"""A driver at a site of the tests' world, called as the SDK would call it. Not used by the driver itself."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from graf_driver_sdk.types import ComponentKey, EnsureRole, Progress, RenewLease, Role, Spec, Status

from graf_driver_network.driver import NetworkDriver
from graf_driver_network.testing import SiteLoop, World, wait_until

PATIENCE_S = 20.0


class Speaker:
    """A driver at a site with one component."""

    def __init__(self, world: World, name: str, parameters: dict[str, Any]) -> None:
        self.loop = SiteLoop(world, name)
        self.driver = NetworkDriver(self.loop.run_dir)
        self.spec = Spec(ComponentKey("vcu-db", "route", name), parameters)
        self.loop.do(self.driver.start())

    def ensure(self, role: Role, epoch: int, lease_ms: int = 60_000) -> Progress:
        """One call."""
        deadline = time.monotonic_ns() + lease_ms * 1_000_000 if role is Role.ACTIVE else 0
        return self.loop.do(self.driver.ensure_role(EnsureRole(self.spec, role, epoch, lease_deadline_ns=deadline)), 30)

    def ensured(self, role: Role, epoch: int, lease_ms: int = 60_000) -> str:
        """Begins and continues until it is completed; gives the last message."""
        said: list[Progress] = []

        def completed() -> bool:
            said.append(self.ensure(role, epoch, lease_ms))
            return said[-1].completed

        try:
            wait_until(f"{self.spec.key} is {role.name}", completed, PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; last answer: {said[-1].message}") from error
        return said[-1].message

    def renew(self, epoch: int, lease_ms: int) -> bool:
        """One renewal."""
        deadline = time.monotonic_ns() + lease_ms * 1_000_000
        return self.loop.do(self.driver.renew_lease(RenewLease(self.spec, epoch, deadline)))

    def status(self) -> Status:
        """Observed now."""
        return self.loop.do(self.driver.status(self.spec))

    def close(self) -> None:
        """The driver ends; the kernel keeps what it has."""
        self.loop.do(self.driver.close())
        self.loop.close()


@contextlib.contextmanager
def speaker(world: World, name: str, parameters: dict[str, Any]) -> Iterator[Speaker]:
    """A driver that is closed at the end."""
    found = Speaker(world, name, parameters)
    try:
        yield found
    finally:
        found.close()

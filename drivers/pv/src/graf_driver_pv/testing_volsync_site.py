"""A site of mode ``volsync`` for tests: the driver in this process, its namespace, and the stand-in for controllers."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from graf_driver_sdk.types import (
    ComponentKey,
    EnsureRole,
    Peer,
    PositionReached,
    Resynced,
    ResyncStrategy,
    Role,
    Spec,
    Status,
)

from graf_driver_pv.entry import Entry
from graf_driver_pv.testing_volsync import Api, parameters
from graf_driver_pv.testing_volsync_controller import StandIn
from graf_driver_pv.volsync_cluster import CLAIM, Kind


class Site:
    """A site's driver, in this process, with its own namespace."""

    def __init__(self, api: Api, folder: Path, **more: Any) -> None:
        self.name = f"site-{uuid.uuid4().hex[:8]}"
        self.api, self.folder = api, folder / self.name
        self.spec = Spec(ComponentKey("vcu", "files", self.name), parameters(api, self.name, **more))
        self.world = StandIn(api)
        api.add_site(self.name)
        self.restart()

    def restart(self) -> None:
        """A driver that knows what is on its disk."""
        self.driver = Entry()
        self.driver.state_dir = self.folder

    async def once(self, role: Role, epoch: int, active: Site | None = None) -> str:
        """One call; empty when it is completed."""
        peers = (active.peer,) if active is not None else ()
        progress = await self.driver.ensure_role(EnsureRole(self.spec, role, epoch, peers))
        return "" if progress.completed else progress.message

    async def ensure(self, role: Role, epoch: int, active: Site | None = None) -> None:
        """Calls until it is completed, as the controller does."""

        async def done() -> bool:
            return not await self.once(role, epoch, active)

        await self.stepping(f"{self.name} to be {role.name}", done)

    async def stepping(self, what: str, seen: Callable[[], Awaitable[bool]]) -> None:
        """Lets the controllers step until something is so."""
        for _ in range(60):
            if await seen():
                return
            self.world.step()
        raise AssertionError(f"waited in vain for {what}")

    async def quiesce(self, epoch: int) -> str:
        """Calls Quiesce until it is completed; the position."""
        position = ""

        async def done() -> bool:
            nonlocal position
            answer = await self.driver.quiesce(self.spec, epoch)
            position = answer.position
            return answer.progress.completed

        await self.stepping("the last copy", done)
        return position

    async def resync(self, active: Site, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Calls Resync until it is completed."""
        answer: Resynced | None = None

        async def done() -> bool:
            nonlocal answer
            answer = await self.driver.resync(self.spec, active.peer, strategy, epoch)
            return answer.progress.completed

        await self.stepping("the resync", done)
        assert answer is not None
        return answer

    async def status(self) -> Status:
        """Observed now."""
        return await self.driver.status(self.spec)

    async def reached(self, position: str) -> PositionReached:
        """Whether a position is here already."""
        return await self.driver.await_position(self.spec, position, 0)

    @property
    def peer(self) -> Peer:
        """This site, active, as another one sees it."""
        return Peer(self.name, Role.ACTIVE, self.spec.parameters)

    def object(self, kind: Kind) -> dict[str, Any]:
        """An object that must be there."""
        found = self.api.get(kind, self.name)
        assert found is not None
        return found

    def write(self, value: str) -> None:
        """An application's write."""
        self.world.write(self.name, value)

    def read(self) -> set[str]:
        """What an application finds."""
        return self.world.read(self.name)

    def lose_claim(self) -> None:
        """Somebody deletes the PVC."""
        self.world.end(self.name, CLAIM)

    async def copies(self, to: Site, count: int = 1) -> None:
        """That many whole copies, and the other site's driver has seen each."""
        for _ in range(count):
            before = to.world.sites[to.name].images.copy()
            self.world.until(f"a copy at {to.name}", lambda old=before: len(to.world.sites[to.name].images) > len(old))  # type: ignore[misc]
            await to.status()


async def followed(pair: tuple[Site, Site]) -> tuple[Site, Site]:
    """East is active in epoch 1, west has two copies of it."""
    east, west = pair
    west.lose_claim()
    await east.ensure(Role.ACTIVE, 1)
    east.write("first")
    await west.ensure(Role.STANDBY, 1, east)
    await east.copies(west, 2)
    return east, west


async def move(giver: Site, taker: Site, epoch: int) -> None:
    """A planned move."""
    position = await giver.quiesce(epoch - 1)
    reached = await taker.reached(position)
    assert reached.reached, reached
    await giver.ensure(Role.FENCED, epoch)
    await taker.ensure(Role.ACTIVE, epoch)
    await giver.ensure(Role.STANDBY, epoch, taker)

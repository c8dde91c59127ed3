"""One database as a component: which side acts for which role, and who watches it meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from graf_driver_sdk import logs
from graf_driver_sdk.errors import InvalidParametersError, PreconditionError
from graf_driver_sdk.types import EnsureRole, Peer, Progress, Role

from graf_driver_mysql import unconfirmed
from graf_driver_mysql.active import Active
from graf_driver_mysql.backend import Backend, Mode
from graf_driver_mysql.guard import Guard
from graf_driver_mysql.observe import positions
from graf_driver_mysql.parameters import (
    Endpoint,
    Parameters,
    peer_endpoint,
    peer_server_id,
    standby_problems,
)
from graf_driver_mysql.record import DataRole
from graf_driver_mysql.recovery import Start, choose
from graf_driver_mysql.seed import Seed
from graf_driver_mysql.sql import SqlError
from graf_driver_mysql.standby import Standby

log = logging.getLogger("graf.driver.mysql")

START_WAIT_S = 1.0  # how long one call waits for a server that starts
NOT_TWO = "the active waits for one acknowledgement, whoever gives it: more than two sites in a set cannot be kept"
NOT_ASYNC = "mode is async: no commit waits for another site"
NOT_SEVERAL = "severalStandbys is not set: an acknowledgement would count whoever gave it"


class Component:
    """Invariant: a call that completes FENCED or INVALIDATED leaves a server that is dead or read-only."""

    def __init__(self, site: str, parameters: Parameters, changed: Callable[[], None]) -> None:
        self.site = site
        self.parameters = parameters
        self.backend = Backend(site, parameters, changed)
        self.active = Active(self.backend)
        self.standby = Standby(self.backend)
        self.guard = Guard(self.backend)
        self.seed = Seed(self.backend)
        self.wanted = Role.UNSPECIFIED
        self.peers: tuple[Peer, ...] = ()
        self._starting: asyncio.Task[None] | None = None

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Gives the server its role; see the SDK."""
        if self.parameters.several_standbys:
            ids = {peer.site: peer_server_id(peer.site, peer.parameters) for peer in request.peers}
            self.active.server_ids = ids
        elif (
            len(request.peers) > 1
            and not self.parameters.asynchronous
            and (request.role is Role.STANDBY or len(request.synchronous_set) > 1)
        ):
            # Not a precondition, which a resync might mend: people have to.
            peers = {peer.site: peer.parameters for peer in request.peers}
            raise InvalidParametersError(standby_problems(self.parameters, peers), "acknowledging")
        self.wanted = request.role
        self.peers = request.peers
        if request.role is not Role.STANDBY:
            await self.seed.abandon()
        if request.role is Role.ACTIVE:
            return await self._ensure_active(request)
        if request.role is Role.STANDBY:
            return await self._ensure_standby(request)
        return await self._ensure_fenced(request.active_peer)

    async def close(self) -> None:
        """Ends the server: it does not outlive its driver."""
        if self._starting is not None:
            self._starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._starting
        await self.seed.abandon()
        await self.backend.kill()

    async def running(self, active: Endpoint | None) -> bool:
        """Starts the server if the recovery rule allows; whether it runs now. Never longer than START_WAIT_S."""
        if self.seed.swapping:
            return False
        if self.backend.mode is Mode.DOWN:
            self._begin_start(active)
        if self._starting is not None:
            await asyncio.wait({self._starting}, timeout=START_WAIT_S)
            if self._starting.done():
                task, self._starting = self._starting, None
                task.result()  # raises what went wrong
        return self.backend.mode not in (Mode.DOWN, Mode.STARTING)

    async def seen_active(self, peer: Endpoint | None) -> bool:
        """Whether the server at the peer was seen just now to accept writes: it is promoted, not only to be so."""
        if peer is None:
            return False
        try:
            session = await self.backend.remote_session(peer)
        except SqlError:
            return False
        try:
            read_only, _, _ = await positions(session)
        except SqlError:
            return False
        finally:
            session.close()
        return not read_only

    async def _ensure_active(self, request: EnsureRole) -> Progress:
        wanted = tuple(sorted(request.synchronous_set)) or (self.site,)
        if self.site not in wanted:
            raise PreconditionError(f"the synchronous set {', '.join(wanted)} lacks this site ({self.site})")
        if len(wanted) > 1 and self.parameters.asynchronous:
            raise PreconditionError(f"{NOT_ASYNC}; asked for {', '.join(wanted)}")
        if len(wanted) - 1 > self.backend.engine.most_acknowledging:
            raise PreconditionError(f"{NOT_TWO}; asked for {', '.join(wanted)}")
        if len(wanted) - 1 > 1 and not self.parameters.several_standbys:
            raise PreconditionError(f"{NOT_SEVERAL}; asked for {', '.join(wanted)}")
        if self._starting is not None:
            await asyncio.wait({self._starting})  # a start without the role; bounded by the server's own time-out
            self._starting = None
        if self.backend.mode is Mode.DOWN:
            # With everything that is here: a local restart, or a return after which nobody else took over.
            await self._refuse_unproven(request)
            # A task of its own: the caller's change of mind must not begin the start anew each time.
            self._starting = asyncio.create_task(self.backend.start(truncate=False))
            self._starting.add_done_callback(_retrieved)
            await asyncio.wait({self._starting})
            task, self._starting = self._starting, None
            task.result()
        if self.backend.mode is Mode.ACTIVE:
            return await self.active.keep_to(request.epoch, wanted)
        if self.backend.mode is Mode.QUIESCED and (await self.backend.record()).epoch == request.epoch:
            return await self.active.keep_to(request.epoch, wanted)  # stays quiesced: only Unquiesce opens it
        await self._refuse_unproven(request)
        lacking = await self._lacking()
        if self.backend.mode is Mode.STANDBY and not await self.standby.finish():
            return Progress.pending("what was received is still being applied", 1)
        await self.active.promote(request.epoch, wanted)
        if lacking:
            self.active.lacking = f"promoted in epoch {request.epoch} without {lacking}"
            logs.event(log, "promoted asynchronously", logging.WARNING, site=self.site, without=lacking)
        return Progress.done()

    async def _lacking(self) -> str:
        """What an asynchronous standby goes without when it is promoted now, "" elsewhere."""
        if not self.parameters.asynchronous or self.backend.mode is not Mode.STANDBY:
            return ""
        seen = await self.backend.look()
        if seen is None or seen.replica is None:
            return ""
        return unconfirmed.told(self.standby.freshness.last, seen, asyncio.get_running_loop().time())

    async def _refuse_unproven(self, request: EnsureRole) -> None:
        """A site that may lack acknowledged writes is not promoted."""
        role = (await self.backend.record()).role
        if role in (DataRole.STANDBY, DataRole.TRUNCATED, DataRole.REBUILDING) and not self.standby.caught_up:
            raise PreconditionError(
                f"{self.site} may lack acknowledged writes and is not promoted: {self.standby.reason}; "
                "let it follow the active, or activate the site that has the data"
            )
        if role is DataRole.NONE:
            await self._refuse_empty_beside_data(request.peers)

    async def _refuse_empty_beside_data(self, peers: Sequence[Peer]) -> None:
        """An empty site is promoted only where nobody reachable has data: a lost disk must not win."""
        for peer in peers:
            try:
                session = await self.backend.remote_session(peer_endpoint(peer.site, peer.parameters), timeout_s=0.5)
            except SqlError:
                continue
            try:
                _, _, theirs = await positions(session)
            except SqlError:
                continue
            finally:
                session.close()
            if theirs:
                raise PreconditionError(
                    f"{self.site} is empty and {peer.site} has data ({theirs}): it is not promoted; "
                    f"activate {peer.site}, or let {self.site} follow it"
                )

    async def _ensure_standby(self, request: EnsureRole) -> Progress:
        if self.backend.mode is Mode.ACTIVE:
            await self.backend.kill()
        peer = request.active_peer
        active = None if peer is None else peer_endpoint(peer.site, peer.parameters)
        if not await self.running(active):
            return Progress.pending(self.backend.message or "the server is starting", 50)
        if active is None:
            return Progress.pending("no site is known to be active: there is nobody to follow", 200)
        if copying := await self.seed.pending(active):
            return Progress.pending(copying, 100)
        if await self.standby.follow(active):
            return Progress.done()
        return Progress.pending(await self.standby.not_received(active), 100)

    async def _ensure_fenced(self, active: Peer | None) -> Progress:
        if self.backend.mode is Mode.ACTIVE:
            # Not SET GLOBAL read_only: it would wait behind commits that hang for a standby (measured).
            await self.backend.kill()
        elif self.backend.mode is Mode.STANDBY:
            try:
                await self.standby.hold()
            except SqlError as error:
                logs.event(log, "fenced by kill", logging.WARNING, site=self.site, cause=str(error))
                await self.backend.kill()
        elif self.backend.mode is Mode.QUIESCED:
            # Handed over in order: it is read-only with nothing in flight. It must not wait for acknowledgements of
            # its own any more, or what it applies from the new active would stall.
            try:
                await self.backend.control.run(self.backend.engine.acknowledge(False))
                self.active.in_force = ()
                self.backend.mode = Mode.IDLE
                self.backend.changed()
            except SqlError as error:
                logs.event(log, "fenced by kill", logging.WARNING, site=self.site, cause=str(error))
                await self.backend.kill()
        if self.backend.mode is Mode.DOWN:
            self._begin_start(None if active is None else peer_endpoint(active.site, active.parameters))
        return Progress.done(self.backend.message)

    def _begin_start(self, active: Endpoint | None) -> None:
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._start_by_rule(active))
            self._starting.add_done_callback(_retrieved)

    async def _start_by_rule(self, active: Endpoint | None) -> None:
        record = await self.backend.record()
        choice = choose(record, wanted_active=False, other_active_seen=False)
        if choice is Start.WAIT:
            seen = await self.seen_active(active)
            choice = choose(record, wanted_active=False, other_active_seen=seen)
        if choice is Start.WAIT:
            self.backend.message = (
                "down, with its data complete: its unacknowledged tail is cut off only after the active site "
                f"was seen to be promoted ({'none is known' if active is None else active.site + ' is not yet'})"
            )
            self.backend.changed()
            return
        await self.backend.start(truncate=choice is Start.TRUNCATE)


def _retrieved(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logs.event(log, "start failed", logging.ERROR, cause=str(task.exception()))

"""The harness: what a check has in its hands. Calls over the wire, roles to reach, drivers to kill."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import grpc
from google.protobuf import struct_pb2, text_format
from graf_driver_sdk.calls import EPOCH_KEY, REASON_KEY
from graf_driver_sdk.client import CHANNEL_OPTIONS
from graf_driver_sdk.tls import ClientTls, TlsFiles
from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.v1 import driver_pb2_grpc

from graf_driver_sanity.config import Config, Side
from graf_driver_sanity.launch import Launcher, Process
from graf_driver_sanity.registry import CannotCheck, Violation

_CODES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED,
    grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED,
}  # fmt: skip
ROLES: Final[dict[str, int]] = {
    "ACTIVE": pb.ROLE_ACTIVE, "STANDBY": pb.ROLE_STANDBY, "FENCED": pb.ROLE_FENCED, "INVALIDATED": pb.ROLE_INVALIDATED,
}  # fmt: skip


class Refused(Exception):  # noqa: N818
    """A call that was answered with an error."""

    def __init__(self, call: str, error: grpc.aio.AioRpcError) -> None:
        self.call, self.code, self.message = call, error.code(), error.details() or ""
        metadata: dict[str, Any] = dict(error.trailing_metadata() or ())
        self.reason = str(metadata.get(REASON_KEY, ""))
        self.highest = str(metadata.get(EPOCH_KEY, ""))
        super().__init__(f"{call} was answered with {self.code.name}: {self.message}")


def struct(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """Parameters as a message."""
    message = struct_pb2.Struct()
    message.update(dict(values))
    return message


def role_name(number: int) -> str:
    """For people."""
    return next((name for name, role in ROLES.items() if role == number), f"role {number}")


class End:
    """One site's driver: its process, if the kit started it, and a channel to it."""

    def __init__(self, side: Side, config: Config) -> None:
        self.side, self.config = side, config
        self.launcher: Launcher | None = side.launcher
        if self.launcher is None and side.command:
            self.launcher = Process(side.command, side.environment, side.endpoint, side.directory)
        self.endpoint = side.endpoint or (self.launcher.endpoint if self.launcher else "")
        self.said: list[str] = []  # every text that the driver answered with, for the search for secrets
        self.biggest: tuple[int, str] = (0, "")  # bytes of the largest answer, and the call
        self._channel: grpc.aio.Channel | None = None

    async def open(self) -> None:
        """Starts the driver when it is the kit's to start, and waits until it answers."""
        if self.launcher is not None and not self.launcher.alive():
            await self.launcher.start()
        await self.connect()
        ends = time.monotonic() + self.config.budget.start_s
        while True:
            try:
                await self.call("GetInfo", pb.GetInfoRequest(), 2.0)
                return
            except Refused as refused:
                dead = self.launcher is not None and not self.launcher.alive()
                if dead or time.monotonic() > ends:
                    log = self.launcher.log()[-600:] if self.launcher else ""
                    how = "it ended" if dead else f"no answer within {self.config.budget.start_s:g} s"
                    what = "does not start" if self.launcher else "does not answer"
                    raise Violation(f"the driver at {self.endpoint} {what}: {how} ({refused}) {log}".strip()) from None
            await asyncio.sleep(0.05)

    async def connect(self) -> None:
        """A new connection."""
        if self._channel is not None:
            await self._channel.close()
        if (tls := self.side.tls) is None:
            self._channel = grpc.aio.insecure_channel(self.endpoint, options=CHANNEL_OPTIONS)
        else:
            client = ClientTls(TlsFiles.load(tls.directory), tls.server_name)
            self._channel = client.open(self.endpoint, CHANNEL_OPTIONS)
        self.identity: Any = driver_pb2_grpc.IdentityStub(self._channel)
        self.component: Any = driver_pb2_grpc.ComponentStub(self._channel)

    async def call(self, name: str, request: Any, timeout_s: float | None = None) -> Any:
        """One RPC. Raises `Refused` for every error."""
        try:
            answer = await self.begin(name, request, timeout_s)
        except grpc.aio.AioRpcError as error:
            refused = Refused(name, error)
            self.said.append(refused.message)
            self.said.append(repr(error.trailing_metadata()))
            if refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Violation(f"{name}: the answer is too large for gRPC: {refused.message}") from None
            if refused.code not in _CODES:
                raise Violation(f"{refused}: the table of errors has no {refused.code.name}") from None
            raise refused from None
        self.hear(name, answer)
        return answer

    def hear(self, name: str, answer: Any) -> None:
        """Keeps what was said, and how much it was."""
        self.said.append(text_format.MessageToString(answer, as_utf8=True))
        self.biggest = max(self.biggest, (answer.ByteSize(), name))

    def begin(self, name: str, request: Any, timeout_s: float | None = None) -> Any:
        """An RPC in flight, to be awaited or cancelled."""
        stub = self.identity if name in ("GetInfo", "Probe") else self.component
        return getattr(stub, name)(request, timeout=timeout_s or self.config.budget.call_s)

    async def begun(self, name: str, request: Any, timeout_s: float, wait_s: float = 0.0) -> Any:
        """An RPC that has arrived at the driver, in flight or answered.

        What is sent on one connection later arrives later; a sleep alone (`wait_s`) tells nothing on a busy machine.
        """
        handle = self.begin(name, request, timeout_s)
        await asyncio.sleep(wait_s)
        await self.call("GetInfo", pb.GetInfoRequest())
        return handle

    def watch(self, spec: pb.ComponentSpec) -> Watch:
        """A stream of statuses."""
        return Watch(self.component.WatchStatus(pb.WatchStatusRequest(spec=spec)), self)

    async def close(self) -> None:
        """Ends the connection and what the kit started."""
        if self._channel is not None:
            await self._channel.close()
        if self.launcher is not None:
            try:
                await self.launcher.stop()
            finally:
                self.launcher.cleanup()


class Watch:
    """A stream of statuses; what it tells is kept as what calls tell."""

    def __init__(self, stream: Any, end: End) -> None:
        self._stream, self._end = stream, end

    async def read(self) -> Any:
        """The next status, or the end of the stream."""
        message = await self._stream.read()
        if message is not grpc.aio.EOF:
            self._end.hear("WatchStatus", message)
        return message

    def cancel(self) -> None:
        """Ends it."""
        self._stream.cancel()


class Harness:
    """Drives the site under test, and its peer when there is one."""

    def __init__(self, config: Config) -> None:
        self.config, self.budget = config, config.budget
        self.site = End(config.site, config)
        self.peer = End(config.peer, config) if config.peer else None
        self.epoch = 0
        self.version = ""
        self.capabilities: frozenset[Capability] = frozenset()
        self._peer_active = False
        self._holder: End | None = None  # who was ACTIVE last, and so has every acknowledged write
        self._written = 0

    async def open(self) -> None:
        """Starts what must be started."""
        await self.site.open()
        if self.peer is not None:
            await self.peer.open()
        info = await self.site.call("GetInfo", pb.GetInfoRequest())
        self.version = str(info.vendor_version)
        known = {int(capability) for capability in Capability if capability}
        self.capabilities = frozenset(Capability(number) for number in info.capabilities if number in known)
        await self._read_epoch()

    async def recover(self) -> None:
        """Before each check: drivers live, and the epoch is above all that were seen."""
        for end in self.ends:
            if end.launcher is not None and not end.launcher.alive():
                await end.open()
        await self._read_epoch()

    async def close(self) -> None:
        """Fences both sites, and ends what was started: whatever one site's end meets, the other one is ended too."""
        async with contextlib.AsyncExitStack() as stack:
            for end in reversed(self.ends):
                stack.push_async_callback(self._close, end)

    async def _close(self, end: End) -> None:
        try:
            if end.launcher is None or end.launcher.alive():
                await self.ensure("FENCED", end=end, epoch=self.next_epoch())
        except (Refused, Violation, CannotCheck):
            pass
        finally:
            await end.close()

    @property
    def ends(self) -> tuple[End, ...]:
        """Both drivers, or the one."""
        return (self.site,) if self.peer is None else (self.site, self.peer)

    @property
    def gated(self) -> bool:
        """Whether leases are needed."""
        return Capability.GATE in self.capabilities

    # --- values

    def spec(self, end: End | None = None, **change: Any) -> pb.ComponentSpec:
        """The component at a site; `change` replaces parameters."""
        side = (end or self.site).side
        parameters = {**side.parameters, **change}
        return pb.ComponentSpec(
            group=self.config.group, component=self.config.component, site=side.name, parameters=struct(parameters)
        )

    def peer_message(self, end: End, role: str = "") -> pb.Peer:
        """A site as the other one is told of it."""
        return pb.Peer(site=end.side.name, role=ROLES.get(role, 0), parameters=struct(end.side.parameters))  # type: ignore[arg-type]

    def next_epoch(self) -> int:
        """Higher than every one before."""
        self.epoch += 1
        return self.epoch

    def deadline(self, seconds: float | None = None) -> int:
        """End of a lease from now, on CLOCK_MONOTONIC."""
        return time.monotonic_ns() + int((self.budget.lease_s if seconds is None else seconds) * 1e9)

    def request(
        self, role: str, epoch: int, end: End | None = None, lease_s: float | None = None,
        synchronous: tuple[str, ...] = (), active: End | None = None,
    ) -> pb.EnsureRoleRequest:  # fmt: skip
        """A request for a role, complete."""
        end = end or self.site
        others = [one for one in self.ends if one is not end]
        peers = [self.peer_message(one, "ACTIVE" if one is active else "") for one in others]
        if end is self.site:
            peers += [pb.Peer(site=one.name, parameters=struct(one.parameters)) for one in self.config.peers]
        request = pb.EnsureRoleRequest(spec=self.spec(end), role=ROLES[role], epoch=epoch, peers=peers)  # type: ignore[arg-type]
        if role == "ACTIVE":
            if Capability.SYNCHRONOUS in self.capabilities:
                request.synchronous_set.extend(synchronous or (end.side.name,))
            if self.gated:
                request.lease_deadline_ns = self.deadline(lease_s)
        return request

    # --- doing

    async def finish(self, name: str, make: Callable[[], Any], end: End | None = None, timeout_s: float = 0) -> Any:
        """Calls until completed, as the controller does; ABORTED waits. `make` gives the request for each call."""
        end = end or self.site
        ends = time.monotonic() + (timeout_s or self.budget.transition_s)
        last = ""
        while time.monotonic() < ends:
            request = make()
            try:
                answer = await end.call(name, request, self.budget.call_s)
            except Refused as refused:
                again = refused.code in (grpc.StatusCode.ABORTED, grpc.StatusCode.DEADLINE_EXCEEDED)
                if not again and not _was_late(request, refused):
                    raise
                last = str(refused)
                await asyncio.sleep(0.05)
                continue
            if answer.progress.completed:
                return answer
            last = answer.progress.message
            if answer.progress.retry_after_ms == 0 or not last:
                raise Violation(f"{name} is not completed, with retry_after_ms 0 or no message: {answer.progress}")
            await asyncio.sleep(min(answer.progress.retry_after_ms / 1000, 1.0))
        raise Violation(f"{name} at {end.side.name} was not completed in time; the last answer: {last}")

    async def ensure(
        self, role: str, end: End | None = None, epoch: int | None = None, active: End | None = None,
        lease_s: float | None = None, synchronous: tuple[str, ...] = (),
    ) -> pb.EnsureRoleRequest:  # fmt: skip
        """Gives a site a role, in a new epoch unless one is given; the last request."""
        epoch = epoch if epoch is not None else self.next_epoch()
        request = self.request(role, epoch, end, lease_s, synchronous, active)

        def make() -> pb.EnsureRoleRequest:
            if request.lease_deadline_ns:
                request.lease_deadline_ns = self.deadline(lease_s)
            return request

        await self.finish("EnsureRole", make, end)
        if end is self.peer and end is not None:
            self._peer_active = role == "ACTIVE"
        if role == "ACTIVE":
            self._holder = end or self.site
        return request

    async def reach(self, role: str) -> int:
        """Brings the site under test into a role from wherever it is; QUIESCED too. The epoch."""
        if role == "STANDBY" and self.peer is not None:
            await self.follow()
            return self.epoch
        if self.peer is not None and role in ("ACTIVE", "QUIESCED") and self._holder is self.peer:
            await self.hand_over(self.peer, self.site)
        elif self.peer is not None and self._peer_active:
            await self.ensure("FENCED", self.peer)
        if role == "STANDBY":
            await self.standby_alone()
            return self.epoch
        await self.ensure("ACTIVE" if role == "QUIESCED" else role)
        if role == "QUIESCED":
            await self.quiesce()
        return self.epoch

    async def standby_alone(self) -> None:
        """STANDBY without an active: not every driver can complete it."""
        answer = await self.site.call("EnsureRole", self.request("STANDBY", self.next_epoch()))
        if not answer.progress.completed:
            raise CannotCheck("STANDBY needs an active peer here: configure `peer` with a command or an endpoint")

    async def hand_over(self, giver: End, taker: End) -> None:
        """A planned move. A site that may lack acknowledged writes rightly refuses to be promoted in another way."""
        if Capability.SYNCHRONOUS in self.capabilities:
            await self._in_step(giver, taker)
        epoch = self.next_epoch()
        await self.ensure("FENCED", giver, epoch)
        await self.ensure("ACTIVE", taker, epoch)

    async def follow(self) -> None:
        """The peer is ACTIVE, the site under test follows it, with the peer's data."""
        assert self.peer is not None
        if self._holder is self.site:
            await self.hand_over(self.site, self.peer)
        await self._in_step(self.peer, self.site)

    async def lead(self) -> None:
        """The site under test is ACTIVE, the peer follows it."""
        assert self.peer is not None
        await self.reach("ACTIVE")
        await self._in_step(self.site, self.peer)

    async def _in_step(self, active: End, other: End) -> None:
        """One is ACTIVE, the other follows it; with SYNCHRONOUS in its set, and promotable."""
        epoch = self.next_epoch()
        await self.ensure("FENCED", other, epoch)
        await self.ensure("ACTIVE", active, epoch)
        await self._follow(other, active, epoch)
        if Capability.SYNCHRONOUS in self.capabilities:
            await self.ensure("ACTIVE", active, epoch, synchronous=(active.side.name, other.side.name))
            await self.eventually("a standby of the synchronous set is promotable", lambda: self.promotable(other))

    async def promotable(self, end: End | None = None) -> bool:
        """Whether a site says that it may be promoted."""
        return bool((await self.status(end)).promotable)

    async def _follow(self, end: End, active: End, epoch: int) -> None:
        try:
            await self.ensure("STANDBY", end, epoch, active)
        except Refused as refused:
            if refused.code is not grpc.StatusCode.FAILED_PRECONDITION or Capability.RESYNC not in self.capabilities:
                raise
            await self.resync(end, active, epoch)
            await self.ensure("STANDBY", end, epoch, active)

    async def resync(
        self, end: End, active: End, epoch: int, strategy: pb.ResyncStrategy.ValueType = pb.RESYNC_STRATEGY_UNSPECIFIED
    ) -> Any:
        """Resync until completed; the last answer."""
        request = pb.ResyncRequest(
            spec=self.spec(end),
            active=self.peer_message(active, "ACTIVE"),
            strategy=strategy,
            epoch=epoch,
        )
        return await self.finish("Resync", lambda: request, end)

    async def quiesce(self) -> str:
        """Quiesce until completed; the position."""
        answer = await self.finish("Quiesce", lambda: pb.QuiesceRequest(spec=self.spec(), epoch=self.epoch))
        return str(answer.position)

    async def assess(self, end: End | None = None, active: End | None = None) -> Any:
        """The verdict of a site against the other."""
        end, active = end or self.site, active or self.peer
        assert active is not None
        request = pb.AssessRequest(spec=self.spec(end), active=self.peer_message(active, "ACTIVE"))
        return await end.call("Assess", request, self.budget.transition_s)

    async def status(self, end: End | None = None) -> Any:
        """GetStatus within its deadline."""
        end = end or self.site
        return await end.call("GetStatus", pb.GetStatusRequest(spec=self.spec(end)), self.budget.status_s)

    async def renew(self, epoch: int | None = None, deadline_ns: int | None = None) -> bool:
        """RenewLease; whether the gate is open."""
        request = pb.RenewLeaseRequest(
            spec=self.spec(),
            epoch=self.epoch if epoch is None else epoch,
            lease_deadline_ns=self.deadline() if deadline_ns is None else deadline_ns,
        )
        return bool((await self.site.call("RenewLease", request)).open)

    async def refusal(self, name: str, request: Any, *codes: grpc.StatusCode) -> Refused:
        """The call must be refused with one of the codes, and a message.

        Raises:
            Violation: it was answered, or refused otherwise.
        """
        wanted = " or ".join(code.name for code in codes)
        try:
            answer = await self.site.call(name, request)
        except Refused as refused:
            if refused.code not in codes:
                raise Violation(f"{refused}; wanted {wanted}") from None
            if not refused.message or "Traceback" in refused.message:
                raise Violation(f"{name} was refused with the message {refused.message!r}") from None
            return refused
        raise Violation(f"{name} was answered with {str(answer).strip() or 'OK'!r}; wanted {wanted}")

    async def eventually(
        self, what: str, look: Callable[[], Awaitable[bool]], timeout_s: float = 0, pause_s: float = 0.02
    ) -> None:
        """Polls until true; a violation says what was waited for."""
        ends = time.monotonic() + (timeout_s or self.budget.transition_s)
        while not await look():
            if time.monotonic() > ends:
                raise Violation(f"waited in vain for: {what}")
            await asyncio.sleep(pause_s)

    async def restart(self, kill: bool = True, end: End | None = None) -> None:
        """Ends the driver, with or without a warning, and starts it again."""
        end = end or self.site
        assert end.launcher is not None
        await (end.launcher.kill() if kill else end.launcher.stop())
        await end.open()

    # --- the author's hooks

    def new_value(self) -> str:
        """A value that no check wrote before."""
        self._written += 1
        return f"sanity-{os.getpid()}-{time.monotonic_ns()}-{self._written}"

    async def hook(self, name: str, value: str = "", end: End | None = None) -> str:
        """Runs a hook; what it found. An error of it is a refusal by the component."""
        hook = self.config.hooks[name]
        side = (end or self.site).side
        if callable(hook):
            try:
                result = hook(side.name, value)
                return str((await result if inspect.isawaitable(result) else result) or "")
            except Exception as error:
                raise HookError(f"hook {name} failed: {type(error).__name__}: {error}") from error
        environment = {
            **os.environ, **side.environment, "GRAF_SANITY_SITE": side.name, "GRAF_SANITY_VALUE": value,
        }  # fmt: skip
        try:
            process = await asyncio.create_subprocess_exec(
                *hook, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
        except OSError as error:
            raise HookError(f"hook {name} cannot be started: {' '.join(hook)}: {error.strerror}") from error
        try:
            async with asyncio.timeout(self.budget.transition_s + 30):
                output, _ = await process.communicate()
        except TimeoutError:
            raise HookError(f"hook {name} did not end within {self.budget.transition_s + 30:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
        text = output.decode(errors="replace").strip()
        if process.returncode:
            raise HookError(f"hook {name} ended with status {process.returncode}: {text[-300:]}")
        return text

    async def write(self, end: End | None = None) -> str:
        """A client's write that is accepted; its value."""
        value = self.new_value()
        try:
            await self.hook("write", value, end)
        except Exception as error:
            raise Violation(f"the active did not accept a client's write: {error}") from error
        return value

    async def has(self, value: str, end: End | None = None) -> bool:
        """Whether a value can be read at a site."""
        return value in (await self.hook("read", "", end)).split()

    async def _read_epoch(self) -> None:
        for end in self.ends:
            self.epoch = max(self.epoch, (await self.status(end)).epoch)


def _was_late(request: Any, refused: Refused) -> bool:
    """Whether the lease had ended on the way, on a machine that stood still: the caller gives another one."""
    deadline_ns = getattr(request, "lease_deadline_ns", 0)
    late = 0 < deadline_ns <= time.monotonic_ns()
    return late and refused.code is grpc.StatusCode.FAILED_PRECONDITION and refused.reason in ("", "lease-over")


class HookError(Exception):
    """A hook's command failed."""

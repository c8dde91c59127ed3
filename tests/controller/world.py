# ruff: noqa: N802 - names given by gRPC
"""Two sites and witnesses on loopback: real controllers, real streams with TLS, drivers held in memory.

The drivers speak the real contract over unix sockets; only what they control is simulated: a data component per site
whose followers acknowledge, and a gate.
"""

from __future__ import annotations

import asyncio
import datetime
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.v1 import driver_pb2_grpc

from graf.api.timing import MILLISECOND_NS, Timing
from graf.api.values import Stage, VoterList
from graf.controller.dialing import Dialer
from graf.controller.endpoints import Endpoints
from graf.controller.groups import Assignment, ComponentWiring
from graf.controller.keeper import Keeper
from graf.controller.records import Records
from graf.controller.witness import WitnessDesk
from graf.core.view import ComponentConfig, GroupConfig
from graf.shell.links import Links
from graf.shell.promises import PromiseStore
from graf.shell.voting import Voting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from graf.core.voter import Promise

GROUP = "vcu-db"
RPO_S = 5.0
TIMING = Timing(100 * MILLISECOND_NS, 700 * MILLISECOND_NS)
FIRST = VoterList(1, ("east", "west", "witness"))


class Authority:
    """A certificate authority for tests."""

    def __init__(self, name: str = "test") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self._name, self._key.public_key(), None)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, dns: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=dns is None, path_length=None), critical=True)
        )
        if dns is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, directory: Path, dns: str) -> Path:
        """Writes ca.crt, tls.crt and tls.key for one process."""
        directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns)])
        certificate = self._sign(name, key.public_key(), dns)
        pem = serialization.Encoding.PEM
        (directory / "ca.crt").write_bytes(self.certificate.public_bytes(pem))
        (directory / "tls.crt").write_bytes(certificate.public_bytes(pem))
        (directory / "tls.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return directory


@dataclass
class Backend:
    """What a driver in memory controls.

    Attributes:
        world: The same component elsewhere, by site: who follows whom is looked up there.
        opened_again: How often it was made Active while it was quiesced.
        rests_after: Until then it is not at rest, by the machine's monotonic clock in seconds.
        speaks_as_standby: It says that it is promotable only while it follows a site that is Active, as a copy does.
        refusal: Why it refuses to be Active, whatever it tells of its data.
        says: What it adds to its word about its data.
        lag_s: How far a standby says that it is behind; above its RPO, 5 s, it is not promotable.
    """

    site: str
    kind: str
    world: dict[str, Backend]
    role: int = pb.ROLE_UNSPECIFIED
    epoch: int = 0
    alive: bool = True
    lag_s: float = 0.0
    quiesced: bool = False
    synchronous_set: tuple[str, ...] = ()
    open_until_ns: int = 0
    follows: str = ""
    caught_up: bool = False
    history: list[tuple[int, int]] = field(default_factory=list)
    stale_refused: int = 0
    hang: bool = False
    refusal: str = ""
    says: str = ""
    rests_after: float = 0.0
    opened_again: int = 0
    speaks_as_standby: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def accepting(self) -> bool:
        if self.kind == "gate":
            return time.monotonic_ns() < self.open_until_ns
        return self.alive and self.role == pb.ROLE_ACTIVE and not self.quiesced

    @property
    def promotable(self) -> bool:
        active = self.role == pb.ROLE_ACTIVE
        known = self.caught_up and (self.alive or active) and self.lag_s <= RPO_S
        if not self.speaks_as_standby:
            return known
        other = self.world.get(self.follows)
        return known and self.role == pb.ROLE_STANDBY and other is not None and other.role == pb.ROLE_ACTIVE

    def followers(self) -> list[pb.Follower]:
        return [
            pb.Follower(site=b.site, connected=True, acknowledging=True)
            for b in self.world.values()
            if b is not self and b.alive and b.role == pb.ROLE_STANDBY and b.follows == self.site
        ]

    def notify(self) -> None:
        for backend in self.world.values():
            backend.changed.set()

    def kill(self) -> None:
        """The server dies; its driver sees it at once."""
        self.alive = False
        self.notify()


class MemoryDriver(driver_pb2_grpc.ComponentServicer, driver_pb2_grpc.IdentityServicer):
    """Speaks the contract for one backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    async def GetInfo(self, request: pb.GetInfoRequest, context: object) -> pb.GetInfoResponse:  # type: ignore[override]
        return pb.GetInfoResponse(name=f"{self.backend.kind}.test", vendor_version="1")

    async def _guard(self, epoch: int, context: grpc.aio.ServicerContext) -> None:  # type: ignore[type-arg]
        if self.backend.hang:
            await asyncio.sleep(60)
        if epoch < self.backend.epoch:
            self.backend.stale_refused += 1
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"epoch {epoch} < {self.backend.epoch}")
        self.backend.epoch = epoch

    async def EnsureRole(
        self, request: pb.EnsureRoleRequest, context: grpc.aio.ServicerContext
    ) -> pb.EnsureRoleResponse:  # type: ignore[override,type-arg]
        backend = self.backend
        await self._guard(request.epoch, context)
        if backend.refusal and request.role == pb.ROLE_ACTIVE:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, backend.refusal)
        if backend.role != request.role:
            backend.history.append((request.epoch, request.role))
        if backend.quiesced and request.role == pb.ROLE_ACTIVE:
            backend.opened_again += 1
        backend.role = request.role
        backend.alive = True
        backend.quiesced = False
        backend.synchronous_set = tuple(request.synchronous_set)
        if backend.kind == "gate":
            backend.open_until_ns = request.lease_deadline_ns if request.role == pb.ROLE_ACTIVE else 0
        backend.follows = next((p.site for p in request.peers if p.role == pb.ROLE_ACTIVE), "")
        backend.caught_up = request.role in (pb.ROLE_ACTIVE, pb.ROLE_STANDBY)
        backend.notify()
        return pb.EnsureRoleResponse(progress=pb.Progress(completed=True))

    async def RenewLease(
        self, request: pb.RenewLeaseRequest, context: grpc.aio.ServicerContext
    ) -> pb.RenewLeaseResponse:  # type: ignore[override,type-arg]
        await self._guard(request.epoch, context)
        if not self.backend.accepting:
            return pb.RenewLeaseResponse(open=False)
        self.backend.open_until_ns = request.lease_deadline_ns
        return pb.RenewLeaseResponse(open=True)

    async def Quiesce(self, request: pb.QuiesceRequest, context: grpc.aio.ServicerContext) -> pb.QuiesceResponse:  # type: ignore[override,type-arg]
        await self._guard(request.epoch, context)
        self.backend.quiesced = True
        self.backend.notify()
        if time.monotonic() < self.backend.rests_after:
            return pb.QuiesceResponse(progress=pb.Progress(retry_after_ms=50, message="the last copy"))
        return pb.QuiesceResponse(progress=pb.Progress(completed=True), position="p")

    async def Unquiesce(self, request: pb.UnquiesceRequest, context: grpc.aio.ServicerContext) -> pb.UnquiesceResponse:  # type: ignore[override,type-arg]
        await self._guard(request.epoch, context)
        self.backend.quiesced = False
        self.backend.notify()
        return pb.UnquiesceResponse(progress=pb.Progress(completed=True))

    async def AwaitPosition(self, request: pb.AwaitPositionRequest, context: object) -> pb.AwaitPositionResponse:  # type: ignore[override]
        return pb.AwaitPositionResponse(reached=self.backend.caught_up, message="not caught up")

    async def Assess(self, request: pb.AssessRequest, context: object) -> pb.AssessResponse:  # type: ignore[override]
        return pb.AssessResponse(verdict=pb.VERDICT_CLEAN)

    async def WatchStatus(self, request: pb.WatchStatusRequest, context: object) -> AsyncIterator[pb.ComponentStatus]:  # type: ignore[override]
        while True:
            backend = self.backend
            backend.changed.clear()
            active = backend.role == pb.ROLE_ACTIVE
            yield pb.ComponentStatus(
                role=backend.role,  # type: ignore[arg-type]
                health=pb.HEALTH_HEALTHY if backend.alive else pb.HEALTH_DEAD,
                epoch=backend.epoch,
                observed_at_ns=time.monotonic_ns(),
                accepting=backend.accepting,
                lag_seconds=backend.lag_s,
                promotable=backend.promotable,
                promotable_reason=backend.says if backend.caught_up else "has not caught up",
                synchronous_set=backend.synchronous_set if active else (),
                followers=backend.followers() if active else (),
            )
            try:
                async with asyncio.timeout(0.2):
                    await backend.changed.wait()
            except TimeoutError:
                continue


class Site:
    """One site: a controller's keeper and two drivers."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._world = world
        self.db = Backend(name, "db", world.databases, speaks_as_standby=world.speak_as_standby)
        self.gate = Backend(name, "gate", world.gates)
        world.databases[name], world.gates[name] = self.db, self.gate
        self._servers: list[grpc.aio.Server] = []
        self.keeper: Keeper | None = None

    @property
    def agent(self):  # type: ignore[no-untyped-def]
        assert self.keeper is not None
        return self.keeper.agents[GROUP]

    async def start(self) -> None:
        sockets = self._world.path / f"s-{self.name}"
        sockets.mkdir(exist_ok=True)
        for backend in (self.db, self.gate):
            self._servers.append(await self._serve(backend))
        data = self._world.path / f"data-{self.name}"
        data.mkdir(exist_ok=True)
        self.keeper = Keeper(
            self.name,
            Voting(self.name, PromiseStore(data / "promises")),
            Records(data / "records", self.name, lambda write: write()),
            self._world.authority.issue(self._world.path / f"tls-{self.name}", f"{self.name}.voter.graf.dev"),
            Dialer(sockets),
            Endpoints(data / "endpoints.json", lambda write: write()),
        )
        self._world.ports[self.name] = await self.keeper.start(f"127.0.0.1:{self._world.ports.get(self.name, 0)}")

    async def _serve(self, backend: Backend) -> grpc.aio.Server:
        server = grpc.aio.server()
        driver = MemoryDriver(backend)
        driver_pb2_grpc.add_ComponentServicer_to_server(driver, server)
        driver_pb2_grpc.add_IdentityServicer_to_server(driver, server)
        server.add_insecure_port(f"unix:{self._world.path}/s-{self.name}/{backend.kind}.sock")
        await server.start()
        return server

    async def restart_db_driver(self) -> None:
        """Every stream and call to it ends; what it has stays as it is."""
        await self._servers[0].stop(None)
        self._servers[0] = await self._serve(self.db)

    def lose_promises(self) -> None:
        """The voter's disk is lost while the site is down; the data are elsewhere."""
        shutil.rmtree(self._world.path / f"data-{self.name}" / "promises")

    async def stop(self) -> None:
        """The whole site dies at once, gate shut by the kernel later."""
        if self.keeper is not None:
            await self.keeper.close()
            self.keeper = None
        for server in self._servers:
            await server.stop(None)
        self._servers.clear()


@dataclass
class Witness:
    """A voter alone."""

    links: Links
    desk: WitnessDesk

    @property
    def promise(self) -> Promise | None:
        return self.desk.voting.promise(GROUP)


@dataclass
class World:
    """East, west and witnesses.

    Attributes:
        voters: What is declared; `declare` changes it.
        lossless, waits, database: The shape of the group; as it stands a write waits for the synchronous set.
        parameters: Of the database.
    """

    path: Path
    authority: Authority = field(default_factory=Authority)
    databases: dict[str, Backend] = field(default_factory=dict)
    gates: dict[str, Backend] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)
    witnesses: dict[str, Witness] = field(default_factory=dict)
    timing: Timing = TIMING
    automatic: bool = True
    voters: VoterList = FIRST
    lossless: bool = True
    waits: bool = True
    database: ComponentConfig = ComponentConfig("db", Stage.DATA, synchronous=True)
    parameters: dict[str, object] = field(default_factory=dict)
    speak_as_standby: bool = False

    async def start(self) -> None:
        await self.start_witness()
        for name in ("east", "west"):
            self.sites[name] = Site(self, name)
            await self.sites[name].start()
        for name in self.sites:
            self.assign(name)

    async def start_witness(self, name: str = "witness") -> Witness:
        desk = WitnessDesk(Voting(name, PromiseStore(self.path / name / "promises")))
        tls = self.authority.issue(self.path / f"tls-{name}", f"{name}.voter.graf.dev")
        links = Links(name, tls, desk, accept_any_voter=True)
        desk.links = links
        self.ports[name] = await links.serve(f"127.0.0.1:{self.ports.get(name, 0)}")
        self.witnesses[name] = Witness(links, desk)
        return self.witnesses[name]

    async def stop_witness(self, name: str = "witness", *, lose_disk: bool = False) -> None:
        witness = self.witnesses.pop(name, None)
        if witness is not None:
            await witness.links.close()
            witness.desk.voting.close()
        if lose_disk:
            shutil.rmtree(self.path / name / "promises")

    def declare(self, voters: VoterList, *sites: str) -> None:
        """Another list is declared and reaches these sites, or all that run."""
        self.voters = voters
        for name in sites or [n for n, site in self.sites.items() if site.keeper is not None]:
            self.assign(name)

    def assign(self, name: str) -> None:
        keeper = self.sites[name].keeper
        assert keeper is not None
        voters = self.voters
        config = GroupConfig(
            group=GROUP,
            site=name,
            sites=("east", "west"),
            voters=voters,
            timing=self.timing,
            lossless=self.lossless,
            waits=self.waits,
            automatic=self.automatic,
            initial_site="east",
            components=(
                self.database,
                ComponentConfig("route", Stage.TRAFFIC, ("db",), gate=True),
            ),
        )
        other = "west" if name == "east" else "east"
        wiring = {
            "db": ComponentWiring("db", "db", self.parameters, {other: {}}),
            "route": ComponentWiring("route", "gate", {}, {other: {}}),
        }
        endpoints = {v: f"127.0.0.1:{self.ports[v]}" for v in voters.members if v != name}
        keeper.assign([Assignment(config, endpoints, wiring)])

    async def close(self) -> None:
        for site in self.sites.values():
            await site.stop()
        for name in tuple(self.witnesses):
            await self.stop_witness(name)

    def voters_speak(self) -> bool:
        """Whether every voter that runs has ended its restart silence."""
        votings = [s.keeper.voting for s in self.sites.values() if s.keeper is not None]
        votings += [witness.desk.voting for witness in self.witnesses.values()]
        return all(time.monotonic_ns() >= v.state(GROUP).silent_until_ns(GROUP) for v in votings)

    def served_by(self) -> list[str]:
        """Sites whose gate is open and whose database accepts."""
        return [n for n, s in self.sites.items() if s.gate.accepting and s.db.accepting]


def answer_with(
    monkeypatch: pytest.MonkeyPatch,
    assess: Callable[[MemoryDriver, pb.AssessRequest, Any], Awaitable[pb.AssessResponse]],
    resync: Callable[[MemoryDriver, pb.ResyncRequest, Any], Awaitable[pb.ResyncResponse]],
) -> None:
    """Every driver answers Assess and Resync so; functions, as methods of another object would lack the driver."""

    async def assessed(driver: MemoryDriver, request: pb.AssessRequest, context: Any) -> pb.AssessResponse:
        return await assess(driver, request, context)

    async def resynced(driver: MemoryDriver, request: pb.ResyncRequest, context: Any) -> pb.ResyncResponse:
        return await resync(driver, request, context)

    monkeypatch.setattr(MemoryDriver, "Assess", assessed)
    monkeypatch.setattr(MemoryDriver, "Resync", resynced)


async def until(what: str, condition: Callable[[], bool], timeout_s: float = 30.0) -> float:
    """Waits for a condition; returns how long it took, in milliseconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"waited {timeout_s} s in vain for: {what}")
        await asyncio.sleep(0.005)
    return (time.monotonic() - began) * 1000

"""The network driver behind the SDK: what the contract asks, in the backend's words, and what it observed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from graf_driver_sdk.driver import Driver
from graf_driver_sdk.errors import DriverError, InvalidParametersError, PreconditionError
from graf_driver_sdk.types import (
    Capability,
    ComponentKey,
    EnsureRole,
    FieldProblem,
    Health,
    Info,
    Peer,
    Progress,
    Readiness,
    RenewLease,
    Role,
    Spec,
    Status,
)

from graf_driver_network.address import AddressError
from graf_driver_network.announcer import RefusedError
from graf_driver_network.backend import NetworkBackend, Observation, nodes_own
from graf_driver_network.elements import NftError
from graf_driver_network.fields import prefix_of
from graf_driver_network.gate import Gate
from graf_driver_network.libnftables import Nftables
from graf_driver_network.parameters import Mode, Parameters, parse
from graf_driver_network.parameters_bgp import Bgp
from graf_driver_network.parameters_dns import Dns, data_problems
from graf_driver_network.passwords import PasswordError, read_password
from graf_driver_network.reach import detection_ms, reach_ms

RUN_DIR_VARIABLE: Final = "GRAF_NETWORK_RUN_DIR"
DEFAULT_RUN_DIR: Final = "/run/graf/network"
_CONFLICTING: Final = {
    Mode.BGP: "neighbours",
    Mode.VIP: "serviceAddress",
    Mode.DNS: "dns.name",
    Mode.METALLB: "metallb.name",
    Mode.CILIUM: "cilium.name",
}


class NetworkDriver(Driver):
    """Announces a group's service address from the active site and keeps the gate in front of it.

    RenewLease runs on the event loop and waits for nothing but the kernel; nothing here blocks the loop for longer
    than a few netlink messages.
    """

    def __init__(self, run_dir: Path | None = None, *, bird_program: str = "bird") -> None:
        """``run_dir`` is where BIRD's configuration and control socket live; by default the environment says."""
        super().__init__()
        self._run_dir = run_dir or Path(os.environ.get(RUN_DIR_VARIABLE) or DEFAULT_RUN_DIR)
        self._bird_program = bird_program
        self._backend: NetworkBackend | None = None
        self._gate: Gate | None = None
        self._watch: asyncio.Task[None] | None = None
        self._roles: dict[ComponentKey, Role] = {}

    def info(self) -> Info:
        """Constant."""
        return Info("network.graf.dev", version("graf-driver-network"), frozenset({Capability.GATE}))

    async def start(self) -> None:
        """Opens the netlink socket in the present network namespace; changes nothing in the kernel.

        Raises:
            DriverError: libnftables is missing or netlink is not permitted.
        """
        try:
            self._gate = Gate(Nftables())
        except NftError as error:
            raise DriverError(str(error), reason="nftables-unusable") from error
        self._backend = NetworkBackend(
            self._gate,
            self._run_dir,
            on_change=self._notify_all,
            bird_program=self._bird_program,
            on_secret=self.protect,
        )
        self._watch = asyncio.create_task(self._backend.watch(), name="network-watch")

    async def close(self) -> None:
        """Ends BIRD. The gate stays: the kernel keeps it open to the end of the lease and not longer."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._backend is not None:
            await self._backend.close()
        if self._gate is not None:
            self._gate.close()

    async def probe(self) -> Readiness:
        """Ready when nftables answers; BIRD's state is the components' status."""
        try:
            assert self._gate is not None
            self._gate.read("0.0.0.0")  # noqa: S104 - an address that no gate has: the kernel answers, or not
        except NftError as error:
            return Readiness(False, f"nftables: {error}")
        return Readiness(True)

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        """Checks the parameters themselves, against the other components here, and against the other sites'."""
        parameters, problems = parse(spec.parameters)
        if parameters is None:
            return problems
        problems = _password_problems(parameters) + _own_address_problems(parameters)
        if parameters.mode is Mode.DNS:
            problems += data_problems(spec.parameters)
        problems += [
            FieldProblem(_CONFLICTING[parameters.mode], cause, "let both components agree, or differ altogether")
            for cause in self._ready_backend.conflicts_with_held(spec.key, parameters)
        ]
        for peer in peers:
            other, _ = parse(peer.parameters)
            if other is not None:
                problems += _disagreements(parameters, other, peer.site)
        return problems

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """ACTIVE opens and announces; every other role shuts and withdraws.

        Raises:
            InvalidParametersError: see each problem.
            PreconditionError: the epoch or the parameters cannot stand beside what is announced.
        """
        backend, key = self._ready_backend, request.spec.key
        parameters = _parsed(request.spec)
        try:
            if request.role is Role.ACTIVE:
                outcome = await backend.activate(key, parameters, request.epoch, request.lease_deadline_ns)
            else:
                drain = request.role in (Role.STANDBY, Role.FENCED)
                outcome = await backend.stand_down(key, parameters, drain=drain)
        except RefusedError as error:
            raise PreconditionError(str(error)) from error
        if outcome.completed:
            self._roles[key] = request.role
        self.notify(key)
        if outcome.completed:
            return Progress.done(outcome.message)
        return Progress.pending(outcome.message, outcome.retry_after_ms)

    async def renew_lease(self, request: RenewLease) -> bool:
        """Two netlink transactions; false when the gate had shut.

        Raises:
            DriverError: the kernel cannot be asked, so whether it is open is unknown.
        """
        try:
            return self._ready_backend.renew(
                request.spec.key, _parsed(request.spec), request.epoch, request.lease_deadline_ns
            )
        except NftError as error:
            raise DriverError(f"the gate cannot be renewed: {error}", reason="nftables-refused") from error
        except RefusedError as error:
            raise PreconditionError(str(error)) from error

    async def status(self, spec: Spec) -> Status:
        """Asks the kernel and BIRD now."""
        parameters = _parsed(spec)
        try:
            seen = await self._ready_backend.observe(spec.key, parameters)
        except NftError as error:
            return Status.unknown(f"the gate cannot be read: {error}")
        health, message = _health(parameters, seen)
        return Status(
            role=self._role(spec.key, seen),
            health=health,
            accepting=seen.gate.open and (seen.address_held or (seen.gate.protected and not seen.address_needed)),
            promotable=health is Health.HEALTHY,
            promotable_reason="" if health is Health.HEALTHY else message,
            message=message,
            facts=_facts(parameters, seen),
            predicted_reach_ms=reach_ms(parameters, seen.announcement),
        )

    def _role(self, key: ComponentKey, seen: Observation) -> Role:
        """From gate and route. What tells STANDBY, FENCED and INVALIDATED apart is not in the network.

        A shut gate is FENCED unless a call of this process ended in another role that serves nothing: FENCED
        claims the least.
        """
        if not seen.gate.protected:
            return Role.UNSPECIFIED if seen.address_held else Role.FENCED
        if seen.gate.open:
            return Role.ACTIVE
        last = self._roles.get(key, Role.FENCED)
        return Role.FENCED if last is Role.ACTIVE else last

    def _notify_all(self) -> None:
        if self._backend is not None:
            for key in self._backend.components:
                self.notify(key)

    @property
    def _ready_backend(self) -> NetworkBackend:
        if self._backend is None:
            raise DriverError("the driver has not been started", reason="not-started")
        return self._backend


def _parsed(spec: Spec) -> Parameters:
    parameters, problems = parse(spec.parameters)
    if parameters is None:
        raise InvalidParametersError(problems, f"parameters of {spec.key}")
    return parameters


def _own_address_problems(parameters: Parameters) -> list[FieldProblem]:
    try:
        cause = nodes_own(parameters)
    except AddressError as error:
        cause = str(error)
    fix = "an address of the service alone, which no node has by itself"
    return [FieldProblem("serviceAddress", cause, fix)] if cause else []


def _password_problems(parameters: Parameters) -> list[FieldProblem]:
    """The files as they are here and now. A role does not depend on them: the other neighbours' sessions go on."""
    found: list[FieldProblem] = []
    for neighbour in parameters.bgp.neighbours if parameters.bgp is not None else ():
        if neighbour.password_file is not None:
            try:
                read_password(neighbour.password_file)
            except PasswordError as error:
                found.append(FieldProblem(f"neighbours[{neighbour.index}].passwordFile", error.cause, error.fix))
    return found


def _disagreements(mine: Parameters, other: Parameters, site: str) -> list[FieldProblem]:
    """What makes the preference by epoch, or the announcement itself, fail between two sites."""
    if mine.mode is not other.mode:
        return [FieldProblem("mode", f"{site} has {other.mode}", "the same mode at every site")]
    found: list[FieldProblem] = []
    same_address = mine.service_address == other.service_address
    if mine.mode is Mode.DNS and same_address:
        found.append(FieldProblem("serviceAddress", f"{site} has the same", "each site's own: the name moves"))
    if mine.mode is not Mode.DNS and not same_address:
        found.append(
            FieldProblem(
                "serviceAddress", f"{site} has {other.service_address}", "the same service address at every site"
            )
        )
    if mine.bgp is not None and other.bgp is not None:
        found += _bgp_disagreements(mine.bgp, other.bgp, site)
    if isinstance(mine.announcement, Dns) and isinstance(other.announcement, Dns):
        for field, ours, theirs in (
            ("dns.zone", mine.announcement.zone, other.announcement.zone),
            ("dns.name", mine.announcement.name, other.announcement.name),
        ):
            if ours != theirs:
                found.append(FieldProblem(field, f"{site} has {theirs}", "the same at every site"))
    return found


def _bgp_disagreements(mine: Bgp, other: Bgp, site: str) -> list[FieldProblem]:
    found: list[FieldProblem] = []
    if mine.local_as != other.local_as:
        found.append(
            FieldProblem(
                "localAs",
                f"{site} has AS {other.local_as}: routers compare MED only between routes of one AS",
                "the same AS at every site",
            )
        )
    if mine.local_address == other.local_address:
        found.append(FieldProblem("localAddress", f"{site} has the same", "each site's own address"))
    if mine.router_id == other.router_id:
        found.append(FieldProblem("routerId", f"{site} has {other.router_id} too", "one of its own for each site"))
    if mine.local_preference != other.local_preference:
        found.append(
            FieldProblem("localPreference", f"{site} has another: it would win whatever the epoch", "epoch everywhere")
        )
    return found


def _health(parameters: Parameters, seen: Observation) -> tuple[Health, str]:
    gate, announcement = seen.gate, seen.announcement
    if not gate.protected and not seen.address_held:
        return Health.INITIALISING, "no role has been given since the start of this machine"
    if not gate.protected:
        with contextlib.suppress(AddressError):
            if cause := nodes_own(parameters):
                return Health.UNHEALTHY, cause
        return Health.UNHEALTHY, f"{parameters.service_address} is here without its gate: somebody flushed nftables"
    if seen.address_needed and not seen.address_held:
        return Health.UNHEALTHY, f"{parameters.service_address} is not on {parameters.interface}: somebody removed it"
    if announcement.problem:
        return Health.UNHEALTHY, announcement.problem
    if gate.open and not announcement.announced:
        return Health.UNHEALTHY, f"the gate is open, and {announcement.detail}"
    if gate.open:
        return Health.HEALTHY, f"open for epoch {gate.epoch}, {announcement.detail}"
    if announcement.announced:
        return Health.HEALTHY, f"the gate is shut; not yet withdrawn: {announcement.detail}"
    return Health.HEALTHY, "the gate is shut, nothing is announced"


def _facts(parameters: Parameters, seen: Observation) -> dict[str, str]:
    facts = {
        "mode": parameters.mode.value,
        "service_address": prefix_of(parameters.service_address),
        "ports": ",".join(map(str, parameters.ports)) or "all",
        "gate": "open" if seen.gate.open else "shut",
        "gate_open_for_ms": str(seen.gate.open_for_ms),
        "gate_epoch": str(seen.gate.epoch),
    }
    if parameters.bgp is not None:
        facts["neighbours_notice_ms"] = str(detection_ms(parameters.bgp))
    return facts | dict(seen.announcement.facts)

"""The stream to the Redundancy Manager. Losing it changes nothing on the data plane."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from importlib.metadata import version
from typing import TYPE_CHECKING

import grpc

from graf.core.handover_rules import Order
from graf.shell import tls
from graf.shell.links import first_done
from graf.shell.logs import event
from graf.shell.proto import manager_pb2 as pb
from graf.shell.proto import manager_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.api.values import VoterList
    from graf.controller.agent import GroupAgent
    from graf.controller.components import Component
    from graf.controller.config import ControllerConfig
    from graf.controller.keeper import Keeper
    from graf.controller.records import Records

LOG = logging.getLogger("graf.manager-link")

REPORT_EVERY_S = 1.0
REPORT_SOON_S = 0.1
DIAL_TIMEOUT_S = 2.0
REDIAL_AFTER_S = 0.5


class ManagerLink:
    """Dials the manager for ever, reports, takes assignments and commands."""

    def __init__(
        self,
        config: ControllerConfig,
        keeper: Keeper,
        records: Records,
        on_assignments: Callable[[pb.Assignments], None],
        driver_reports: Callable[[], list[pb.DriverReport]],
    ) -> None:
        self._config = config
        self._keeper = keeper
        self._records = records
        self._on_assignments = on_assignments
        self._driver_reports = driver_reports
        self._soon = asyncio.Event()
        self._updates: list[pb.OperationUpdate] = []
        self._sent_records: set[str] = set()
        self._incarnation = uuid.uuid4().hex
        self.connected = False
        records.on_record = self._soon.set
        keeper.on_agent = self._adopt

    def _adopt(self, agent: GroupAgent) -> None:
        agent.switchover.on_update = self._update

    def _update(self, update: pb.OperationUpdate) -> None:
        self._updates.append(update)
        del self._updates[:-100]
        self._soon.set()

    async def run(self) -> None:
        """Keeps the stream up for ever."""
        failing = ""
        while True:
            try:
                await self._session()
                failing = ""
            except (TimeoutError, asyncio.InvalidStateError, grpc.aio.AioRpcError, tls.TlsError, OSError) as error:
                # InvalidStateError is how grpc.aio tells that the server ended the call before a write.
                cause = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error) or "no answer"
                if cause != failing:
                    endpoint = self._config.manager.endpoint
                    event(LOG, "cannot reach the manager", logging.WARNING, endpoint=endpoint, cause=cause)
                    failing = cause or ""
            finally:
                self.connected = False
            await asyncio.sleep(REDIAL_AFTER_S)

    async def _session(self) -> None:
        manager = self._config.manager
        channel = grpc.aio.secure_channel(
            manager.endpoint,
            tls.channel_credentials(self._config.tls_dir),
            options=[*tls.channel_options(manager.server_name), *_KEEPALIVE],
        )
        async with channel:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await channel.channel_ready()
            call = manager_pb2_grpc.ManagerLinkStub(channel).Connect()
            hello = pb.SiteHello(incarnation=self._incarnation, version=version("graf-framework"))
            await call.write(pb.SiteMessage(hello=hello))
            self._sent_records.clear()
            try:
                await first_done(self._read(call), self._write(call))
            finally:
                call.cancel()

    async def _read(self, call: grpc.aio.StreamStreamCall[pb.SiteMessage, pb.ManagerMessage]) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, pb.ManagerMessage):
                return
            if not self.connected:
                self.connected = True
                event(LOG, "manager link up", endpoint=self._config.manager.endpoint)
            self._take(message)

    async def _write(self, call: grpc.aio.StreamStreamCall[pb.SiteMessage, pb.ManagerMessage]) -> None:
        while True:
            self._soon.clear()
            for record in self._records.pending:
                if record.id not in self._sent_records:
                    self._sent_records.add(record.id)
                    await call.write(pb.SiteMessage(record=record))
            while self._updates:
                await call.write(pb.SiteMessage(operation=self._updates.pop(0)))
            await call.write(pb.SiteMessage(report=self._report()))
            await asyncio.sleep(REPORT_SOON_S)
            try:
                async with asyncio.timeout(REPORT_EVERY_S - REPORT_SOON_S):
                    await self._soon.wait()
            except TimeoutError:
                continue

    def _take(self, message: pb.ManagerMessage) -> None:
        match message.WhichOneof("body"):
            case "assignments":
                self._on_assignments(message.assignments)
            case "record_ack":
                self._records.acknowledged(message.record_ack.id)
            case "command":
                self._command(message.command)
            case _:
                return

    def _command(self, command: pb.Command) -> None:
        agent = self._keeper.agents.get(command.group)
        if agent is None:
            detail = f"{self._config.site} has not been assigned {command.group}"
            self._update(
                pb.OperationUpdate(
                    operation=command.operation, group=command.group, state="Refused", step="Precheck", message=detail
                )
            )
            return
        agent.switchover.start(
            Order(command.operation, command.type, command.target, command.reason, command.not_after_wall_ms)
        )

    def _report(self) -> pb.SiteReport:
        now_ns = time.monotonic_ns()
        peers = {name for agent in self._keeper.agents.values() for name in agent.protocol.voters}
        return pb.SiteReport(
            groups=[group_report(agent, now_ns) for agent in self._keeper.agents.values()],
            peers=[
                pb.PeerView(
                    name=name,
                    reachable=self._keeper.links.link(name).heard_within(4 * self._keeper.heartbeat_ns, now_ns),
                    silent_ms=max(now_ns - self._keeper.links.link(name).heard_ns, 0) // 1_000_000,
                )
                for name in sorted(peers - {self._config.site})
            ],
            drivers=self._driver_reports(),
            stall_ms_max=self._keeper.stalls.take_worst_ns() // 1_000_000,
            wall_ms=time.time_ns() // 1_000_000,
        )


_KEEPALIVE = (("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000))


def group_report(agent: GroupAgent, now_ns: int) -> pb.GroupReport:
    """A group as this site sees it now."""
    status = agent.status()
    promise = agent.voting.promise(agent.config.group)
    electorate = agent.lease.voters if agent.lease is not None else promise.voters if promise is not None else None
    states = agent.protocol.voter_states(now_ns)
    held = agent.protocol.held
    newest = held.current if held is not None else agent.known_set()
    return pb.GroupReport(
        group=agent.config.group,
        role=agent.role.value,
        epoch=agent.epoch,
        lease_left_ms=(agent.lease.end_ns - now_ns) // 1_000_000 if agent.lease is not None else -1,
        synchronous_set=sorted(newest.members),
        set_epoch=newest.version.epoch,
        set_counter=newest.version.counter,
        promotable=status.promotable,
        promotable_reason=status.promotable_reason,
        components=[_component_report(component, now_ns) for component in agent.components.values()],
        phase=agent.decision.reasons[0].code if agent.decision.reasons else "",
        reasons=[str(reason) for reason in agent.decision.reasons],
        promised_epoch=promise.epoch if promise is not None else 0,
        promised_site=promise.site if promise is not None else "",
        verdict=agent.verdict,
        voters=_voter_list(electorate.current) if electorate is not None else None,
        proposed_voters=_voter_list(electorate.proposed) if electorate is not None and electorate.proposed else None,
        voter_states=[pb.VoterState(name=name, state=state) for name, state in states.items()],
    )


def _voter_list(voters: VoterList) -> pb.VoterList:
    return pb.VoterList(version=voters.version, members=voters.members, readmitted=sorted(voters.readmitted))


def _component_report(component: Component, now_ns: int) -> pb.ComponentReport:
    view, status = component.view(now_ns), component.status
    report = pb.ComponentReport(
        name=component.name,
        driver_class=component.wiring.driver_class,
        role=view.role.value if view.role is not None else "Unknown",
        health=view.health.value,
        accepting=view.accepting,
        promotable=view.promotable,
        promotable_reason=view.promotable_reason,
        synchronous_set=sorted(view.set_in_force),
        message=component.last_error,
        lag_seconds=-1.0,
        lag_transactions=-1,
        age_ms=component.status_age_ns // 1_000_000,
    )
    if status is not None:
        report.epoch = status.epoch
        report.lag_seconds = status.lag_seconds
        report.lag_transactions = status.lag_transactions
        report.position = status.position
        report.predicted_activation_ms = status.predicted_activation_ms
        report.predicted_reach_ms = status.predicted_reach_ms
        report.message = component.last_error or status.message
    return report


def assignments_to_json(message: pb.Assignments) -> bytes:
    """Assignments as they are kept on the site's disk, so that a restart needs no manager."""
    return json.dumps(
        {
            "revision": message.revision,
            "groupAssignments": [json.loads(raw) for raw in message.group_assignments_json],
            "driverClasses": [json.loads(raw) for raw in message.driver_classes_json],
        },
        indent=1,
    ).encode()

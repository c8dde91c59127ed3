"""Keeps the leases of one site: heartbeats, routing of messages, the stall meter. Nothing here may block."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from graf.api.timing import MILLISECOND_NS
from graf.controller.agent import GroupAgent
from graf.controller.endpoints import Endpoints
from graf.core import messages as core
from graf.shell import wire
from graf.shell.links import Links
from graf.shell.logs import event
from graf.shell.proto import peer_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from graf.controller.dialing import Dialer
    from graf.controller.groups import Assignment
    from graf.controller.records import Records
    from graf.shell.voting import Voting

LOG = logging.getLogger("graf.keeper")

DEFAULT_HEARTBEAT_NS = 300 * MILLISECOND_NS
STALL_TICK_S = 0.02
REMEMBERED_HEARTBEATS = 256


class VoterDesk:
    """Answers other voters' requests. graf-witness is this and nothing else."""

    def __init__(self, voting: Voting) -> None:
        self.voting = voting
        self.links: Links | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_release: Callable[[str, core.Release], None] = lambda _peer, _release: None

    def on_link(self, peer: str, connected: bool) -> None:
        """A witness has nothing to say first."""

    def on_message(self, peer: str, message: pb.PeerMessage) -> None:
        """Heartbeats are answered at once, requests after the disk."""
        if message.WhichOneof("body") == "heartbeat":
            heartbeat = message.heartbeat
            answers = [self.voting.claim(peer, wire.claim_from_wire(claim)) for claim in heartbeat.claims]
            self._send(peer, wire.claim_answers_to_wire(heartbeat.sequence, answers))
            return
        try:
            request = wire.request_from_wire(message)
        except ValueError as error:
            event(LOG, "malformed request", logging.WARNING, peer=peer, cause=str(error))
            return
        if request is not None:
            task = asyncio.create_task(self._answer(peer, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, peer: str, request: wire.Request) -> None:
        try:
            answer = await self.voting.ask(peer, request)
        except OSError as error:
            # No answer is the safe answer: what is not on the disk has not been promised.
            event(LOG, "cannot store a promise", logging.ERROR, peer=peer, group=request.group, cause=str(error))
            return
        self._send(peer, wire.answer_to_wire(answer))
        if isinstance(request, core.Release):
            # Also when this voter never promised that epoch: it may have been away, and who goes next is only a hint.
            self.on_release(peer, request)

    def _send(self, peer: str, message: pb.PeerMessage) -> None:
        if self.links is not None:
            self.links.send(peer, message)


class StallMeter:
    """How late this loop runs: a process that stood still must not declare others dead."""

    def __init__(self) -> None:
        self.worst_ns = 0
        self.ended_ns = 0

    async def run(self, limit_ns: Callable[[], int], on_stall: Callable[[int], None]) -> None:
        """Measures for ever."""
        while True:
            before = time.monotonic_ns()
            await asyncio.sleep(STALL_TICK_S)
            now = time.monotonic_ns()
            late = now - before - int(STALL_TICK_S * 1e9)
            self.worst_ns = max(self.worst_ns, late)
            if late > limit_ns():
                self.ended_ns = now
                event(LOG, "this process stood still", logging.WARNING, stall_ms=late // MILLISECOND_NS)
                on_stall(late)

    def take_worst_ns(self) -> int:
        """Worst lateness since the last call."""
        worst, self.worst_ns = self.worst_ns, 0
        return worst


class Keeper:
    """All groups of one site."""

    def __init__(
        self,
        site: str,
        voting: Voting,
        records: Records,
        tls_dir: Path,
        dialer: Dialer,
        endpoints: Endpoints | None = None,
    ) -> None:
        self.site = site
        self.voting = voting
        self.records = records
        self.endpoints = endpoints or Endpoints(None, lambda write: write())
        self.agents: dict[str, GroupAgent] = {}
        self.stalls = StallMeter()
        self._dialer = dialer
        self._desk = VoterDesk(voting)
        self._desk.on_release = self._released
        self.links = Links(site, tls_dir, self)
        self._desk.links = self.links
        self._sequence = 0
        self._sent: dict[int, int] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.on_agent: Callable[[GroupAgent], None] = lambda _agent: None
        voting.on_change = self._promise_changed

    async def start(self, listen: str) -> int:
        """Listens and begins to beat; returns the bound port."""
        port = await self.links.serve(listen)
        self._tasks = [
            asyncio.create_task(self._beat(), name="heartbeats"),
            asyncio.create_task(self.stalls.run(lambda: self.heartbeat_ns, self._stalled), name="stalls"),
        ]
        return port

    async def close(self) -> None:
        """Stops beating; leases end by themselves."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for agent in self.agents.values():
            await agent.close()
        await self.links.close()
        self.voting.close()

    @property
    def heartbeat_ns(self) -> int:
        """The shortest interval that any group asks for."""
        return min((_interval_ns(agent) for agent in self.agents.values()), default=DEFAULT_HEARTBEAT_NS)

    def assign(self, assignments: Iterable[Assignment]) -> None:
        """Takes assignments; groups that are absent stay as they are (never delete on absence)."""
        for assignment in assignments:
            group = assignment.config.group
            self.endpoints.declare(group, assignment.endpoints)
            known = self.agents.get(group)
            if known is None:
                self.agents[group] = GroupAgent(
                    assignment, self._dialer, self.voting, self.links, self.records, self.endpoints
                )
                self.on_agent(self.agents[group])
                event(LOG, "group assigned", group=group, sites=assignment.config.sites)
            elif known.assignment != assignment:
                known.update(assignment)
                event(LOG, "group updated", group=group)
        self._connect()
        longest_ttl = max((agent.config.timing.ttl_ns for agent in self.agents.values()), default=0)
        if longest_ttl:
            self.links.silence_limit_ns = longest_ttl

    def _connect(self) -> None:
        """Keeps links to whose word may count, and hangs up on everybody else.

        Only lower names dial higher ones, so there is one stream per pair; a witness never dials.
        """
        needed: set[str] = set()
        for group, agent in self.agents.items():
            voters = [name for name in agent.protocol.voters if name != self.site]
            self.endpoints.keep_only(group, voters)
            needed.update(voters)
            known = self.endpoints.of(group)
            for name in voters:
                self.links.link(name)
            self.links.dial(
                {n: known[n] for n in voters if n in known and (n not in agent.config.sites or self.site < n)}
            )
        self.links.keep_only(needed)

    # -- messages ------------------------------------------------------------------------------------------------

    def on_link(self, peer: str, connected: bool) -> None:
        """A stream came up or went down: groups look again."""
        for agent in self.agents.values():
            if connected:
                agent.tell_peers()
            agent.wake()
        if connected:
            self._beat_once()

    def on_message(self, peer: str, message: pb.PeerMessage) -> None:
        """Routes one message."""
        match message.WhichOneof("body"):
            case "heartbeat" | "campaign" | "release" | "set_update" | "settle":
                self._desk.on_message(peer, message)
            case "heartbeat_answer":
                self._heartbeat_answered(peer, message.heartbeat_answer)
            case "campaign_answer" | "set_answer" | "release_answer" | "settle_answer":
                self._answered(peer, message)
            case "group_status":
                agent = self.agents.get(message.group_status.group)
                if agent is not None:
                    voters = agent.protocol.voters
                    told = {n: e for n, e in message.group_status.endpoints.items() if n in voters and n != self.site}
                    self.endpoints.heard(agent.config.group, told)
                    agent.peer_status(peer, message.group_status)
            case "handover_prepare":
                agent = self.agents.get(message.handover_prepare.group)
                if agent is not None:
                    agent.spawn(agent.switchover.prepare(peer, message.handover_prepare))
            case "handover_ready":
                agent = self.agents.get(message.handover_ready.group)
                if agent is not None:
                    agent.switchover.ready(message.handover_ready)
            case _:
                return

    def _answered(self, peer: str, message: pb.PeerMessage) -> None:
        try:
            answer = wire.answer_from_wire(message)
        except ValueError as error:
            event(LOG, "malformed answer", logging.WARNING, peer=peer, cause=str(error))
            return
        agent = self.agents.get(answer.group) if answer is not None else None
        if agent is not None and answer is not None:
            agent.protocol.answered(peer, answer)

    def _heartbeat_answered(self, peer: str, message: pb.HeartbeatAnswer) -> None:
        sent_ns = self._sent.get(message.sequence)
        if sent_ns is None:
            return
        for wire_answer in message.answers:
            answer = wire.claim_answer_from_wire(wire_answer)
            agent = self.agents.get(answer.group)
            if agent is not None:
                agent.protocol.claim_answered(peer, answer, sent_ns)

    def _released(self, peer: str, release: core.Release) -> None:
        agent = self.agents.get(release.group)
        if agent is not None and not release.never_won:
            agent.released(peer, release)

    def _promise_changed(self, group: str) -> None:
        agent = self.agents.get(group)
        if agent is not None:
            agent.wake()

    def _stalled(self, _late_ns: int) -> None:
        for agent in self.agents.values():
            agent.stall_ended_ns = self.stalls.ended_ns
            agent.wake()

    # -- heartbeats ------------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        due = time.monotonic()
        while True:
            self._connect()
            self._beat_once()
            due = max(due + self.heartbeat_ns / 1e9, time.monotonic() - self.heartbeat_ns / 1e9)
            await asyncio.sleep(max(due - time.monotonic(), 0.0))

    def _beat_once(self) -> None:
        """One heartbeat to every voter, the own one included. The send time is taken before anything is sent.

        Also to voters that are declared only: who is to be admitted must be heard first.
        """
        self._sequence += 1
        sent_ns = time.monotonic_ns()
        self._sent[self._sequence] = sent_ns
        self._sent.pop(self._sequence - REMEMBERED_HEARTBEATS, None)
        claims_of: dict[str, list[core.Claim]] = {}
        for agent in self.agents.values():
            claim, lease = agent.protocol.claim(), agent.lease
            for voter in agent.protocol.voters:
                claims = claims_of.setdefault(voter, [])
                if claim is not None and lease is not None and voter in lease.voters.members:
                    claims.append(claim)
            agent.tell_peers()
        for voter, claims in claims_of.items():
            if voter == self.site:
                for claim in claims:
                    self.agents[claim.group].protocol.claim_answered(voter, self.voting.claim(voter, claim), sent_ns)
            else:
                self.links.send(voter, wire.claims_to_wire(self._sequence, tuple(claims)))


def _interval_ns(agent: GroupAgent) -> int:
    """A lease keeps the timing with which it was won; the next one takes the assigned."""
    held = agent.lease.timing.heartbeat_ns if agent.lease is not None else agent.config.timing.heartbeat_ns
    return min(held, agent.config.timing.heartbeat_ns)

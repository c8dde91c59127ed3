"""One run: locations, processes, network, databases, clients, managers and Git, wired together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graf.api.values import VoterList
from graf.sim.clients import Clients
from graf.sim.controller import Controller
from graf.sim.database import Database
from graf.sim.faults import Faults
from graf.sim.gate import Gate
from graf.sim.kernel import Clock, Kernel, Process
from graf.sim.manager import Managers
from graf.sim.monitors import Monitors
from graf.sim.network import Network
from graf.sim.settings import Settings, Streams
from graf.sim.voting import SimWitness

if TYPE_CHECKING:
    from graf.core import messages as m

USERS = "users"
# Ten times what the longest of many thousand runs needed.
MOST_EVENTS = 100_000


class World:
    """Everything of one run. `play` runs it to its end; the monitors raise at the first violation."""

    def __init__(self, settings: Settings, story: list[str] | None = None) -> None:
        self.settings = settings
        self.kernel = Kernel(story)
        self.streams = Streams(settings.seed)
        self.tokens = 0
        self.record_number = 0
        self.network = Network(self.kernel, self.streams.schedule, settings.latency_ns)
        # Databases talk to each other over connections of their own: no fault of ours reorders a TCP stream.
        self.replication = Network(self.kernel, self.streams.schedule, settings.latency_ns)
        self.monitors = Monitors(self)
        self.kernel.most_events, self.kernel.overrun = MOST_EVENTS, self.monitors.overrun
        self.processes: dict[str, Process] = {}
        self.clocks: dict[str, Clock] = {}
        self.databases: dict[str, Database] = {}
        self.gates: dict[str, Gate] = {}
        self.controllers: dict[str, Controller] = {}
        self.witnesses: dict[str, SimWitness] = {}
        self.voters = VoterList(1, settings.voters)
        self.automatic = settings.automatic
        self.faults = Faults(self)
        for name in (*settings.sites, *settings.witnesses, *settings.spare_witnesses):
            self.clocks[name] = self._clock()
            self.processes[name] = Process(self.kernel, name, self.clocks[name])
        for site in settings.sites:
            self.databases[site] = Database(self, Process(self.kernel, f"{site}.db", self.clocks[site]))
            self.gates[site] = Gate(self, site, self.clocks[site])
        for site in settings.sites:
            self.controllers[site] = Controller(self, self.processes[site], self.voters)
        for name in (*settings.witnesses, *settings.spare_witnesses):
            self.witnesses[name] = SimWitness(self, self.processes[name])
        self.managers = Managers(self)
        self.clients = Clients(self)
        self._schedule_looks()

    def _clock(self) -> Clock:
        draw = self.streams.schedule
        drift = self.settings.timing.drift_ppm
        fast = draw.choice((0, drift, int(draw.random() * drift)))
        return Clock(self.kernel, fast, draw.randrange(10**9, 10**12))

    def play(self) -> None:
        """Runs from the bootstrap to the end of the quiet time; raises at the first violation."""
        settings = self.settings
        begin = settings.timing.ttl_ns + 2 * settings.timing.heartbeat_ns
        end = begin + settings.active_ns
        self.faults.schedule(begin, end)
        self.kernel.run(end)
        self.faults.heal_all()
        self.monitors.healed()
        # As soon as all is well the run is over: waiting longer would only show idle heartbeats.
        now = end
        while now < end + settings.quiet_ns:
            now += 2 * settings.timing.heartbeat_ns
            self.kernel.run(now)
            if next(self.monitors.unwell(), None) is None:
                return
        self.monitors.ended()

    # -- durations, all in proportion to the heartbeat -----------------------------------------------------------------

    def _part(self, divisor: int) -> int:
        return int(self.settings.timing.heartbeat_ns * (0.2 + self.streams.schedule.random()) / divisor) + 1

    def disk_ns(self) -> int:
        """One fsync."""
        return self._part(100)

    def call_ns(self) -> int:
        """One driver call, one way."""
        return self._part(100)

    def retry_ns(self) -> int:
        """From one attempt to the next."""
        return self._part(5)

    def apply_ns(self) -> int:
        """From the receipt of a write to its application."""
        return self._part(20)

    def rebuild_ns(self) -> int:
        """A site's data copied anew."""
        return self._part(1) * 2

    # -- messages ------------------------------------------------------------------------------------------------------

    def member(self, name: str) -> Controller | SimWitness:
        """The controller or witness of a location."""
        found = self.controllers.get(name)
        return found if found is not None else self.witnesses[name]

    def send(self, src: Process, dst: str, handler: str, *message: Any) -> None:
        """Sends something to a location's controller or witness."""
        self.network.send(src, self.processes[dst], getattr(self.member(dst), handler), *message)

    def reply(self, src: Process, dst: str, handler: str, answer: Any, *rest: Any) -> None:
        """Answers; an answer of None is silence, but for a heartbeat's."""
        if answer is None and handler != "on_beat_answer":
            return
        self.send(src, dst, handler, answer, *rest)

    def beat(self, src: Process, dst: str, claim: m.Claim | None, sent_ns: int, status: Any) -> None:
        """A heartbeat. Where an answer would say nothing, or takes no time in this run, it is no event of its own."""
        target, witness = self.processes[dst], self.witnesses.get(dst)
        if (self.settings.instant and self.network.modes.clean) or (witness is not None and claim is None):
            if target.runs and self.network.both_ways(src.name, dst):
                self._beat_at_once(src.name, dst, claim, sent_ns, status)
                return
            if target.paused or witness is not None:
                return
        if witness is not None:
            self.network.send(src, target, witness.on_beat, claim, sent_ns, None)
        else:
            self.network.send(src, target, self.controllers[dst].on_beat, claim, sent_ns, status)

    def _beat_at_once(self, src: str, dst: str, claim: m.Claim | None, sent_ns: int, status: Any) -> None:
        member = self.member(dst)
        if isinstance(member, Controller):
            member.heard_beat(src, status)
        answer = member.voter.claim(src, claim) if claim is not None else None
        record = None if isinstance(member, Controller) else member.record(src)
        self.controllers[src].on_beat_answer(dst, answer, sent_ns, record)

    # -- what components tell ------------------------------------------------------------------------------------------

    def _schedule_looks(self) -> None:
        for offset, site in enumerate(self.settings.sites):
            self.kernel.at(offset + 1, None, self._look, site)

    def _look(self, site: str) -> None:
        """Servers and drivers look around once a heartbeat by themselves."""
        database = self.databases[site]
        database.look()
        if database.pending and database.serving and self.gates[site].is_open:
            self.monitors.waiting(database, database.process.clock() - database.pending[0][2])
        self.kernel.at(self.kernel.now + self.settings.timing.heartbeat_ns, None, self._look, site)

    def component_changed(self, site: str) -> None:
        """A driver tells its controller that something is different."""
        process = self.processes[site]
        if process.alive:
            self.controllers[site].wake()

    def database_died(self, database: Database) -> None:
        """A death is seen at once, unless the message is missed; then the next look finds it."""
        database.death_told = not self.faults.misses_events
        if database.death_told:
            self.component_changed(database.site)
        else:
            self.kernel.count("death missed")
            self.kernel.at(self.kernel.now + self.settings.timing.heartbeat_ns, None, self._death_found, database)

    def _death_found(self, database: Database) -> None:
        database.death_told = True
        self.component_changed(database.site)

    def client_writes(self, site: str, number: int) -> None:
        """A client has sent a write to a site: for observers."""

    def answer_client(self, database: Database, number: int, *, protected: bool) -> None:
        """A write is acknowledged, if its answer still gets out of the gate."""
        if self.gates[database.site].is_open and self.network.open(database.site, USERS):
            self.monitors.acknowledged(database, number, protected)

    def operation_told(self, operation: str, state: str, message: str) -> None:
        """A site tells how an operation goes."""
        self.managers.operation_told(operation, state, message)

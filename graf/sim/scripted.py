"""Plays a scenario file in the simulator: the same steps and expectations as in the lab, in simulated time.

The file is taken as `graf.scenario` has parsed it; nothing of that package is needed at run time, so that an
interpreter without its libraries can run everything else of the simulator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graf.api.timing import MILLISECOND_NS, PROFILES, SECOND_NS
from graf.sim.expected import Check, Evidence, SeenMove, judge, longest_gap_ms
from graf.sim.monitors import InvariantError
from graf.sim.observer import ConditionError, ObservedWorld, Sight
from graf.sim.settings import Settings, quiet_ns
from graf.sim.world import USERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.scenario.model import ScenarioFile
    from graf.scenario.steps import Action, Step
    from graf.sim.manager import Manager

PREFERRED, SPARE, WITNESS = "east", "west", "witness"
READY_WITHIN_NS = 60 * SECOND_NS
LOAD_BEFORE_NS = 2 * SECOND_NS
LOAD_AFTER_NS = 3 * SECOND_NS


class ScriptError(Exception):
    """A step did not come to what it waited for."""


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a scenario.

    Attributes:
        checks: Every expectation, met or not.
        held_because: Reasons for not moving that the file asks for and that were told.
        story: Lines for people from the first step on, empty unless asked for.
    """

    name: str
    profile: str
    checks: tuple[Check, ...]
    evidence: Evidence
    acknowledged: int
    simulated_ms: int
    held_because: tuple[str, ...]
    story: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything expected is so."""
        return all(check.passed for check in self.checks)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is not as expected."""
        return tuple(f"{check.what}: {check.detail}" for check in self.checks if not check.passed)


def play_file(file: ScenarioFile, profile: str = "", seed: int = 0, *, tell: bool = False) -> Played:
    """Plays a file, with its own detection profile or another one."""
    return Script(file, settings_of(file, profile or file.profile, seed), tell=tell).play()


def settings_of(file: ScenarioFile, profile: str, seed: int) -> Settings:
    """The world of a file: two sites about a millisecond apart, one manager, and a write every ten milliseconds."""
    timing, policy = PROFILES[profile], file.policy
    stabilisation_s = policy.stabilisation_seconds
    return Settings(
        seed=seed,
        sites=(PREFERRED, SPARE),
        witnesses=(WITNESS,) if file.witness else (),
        spare_witnesses=(),
        managers=1,
        timing=timing,
        automatic=policy.failover != "Manual",
        failback=policy.failback or "Manual",
        latency_ns=(MILLISECOND_NS // 4, MILLISECOND_NS),
        write_gap_ns=10 * MILLISECOND_NS,
        active_ns=0,
        quiet_ns=quiet_ns(timing),
        fault_gap_ns=SECOND_NS,
        faults=("crash-site",),  # something may move here; what may not is for the file to say
        stabilisation_ns=None if stabilisation_s is None else stabilisation_s * SECOND_NS,
    )


class Script:
    """One run of a file."""

    def __init__(self, file: ScenarioFile, settings: Settings, *, tell: bool = False) -> None:
        self._file = file
        self._profile = next((name for name, timing in PROFILES.items() if timing == settings.timing), "")
        self._story: list[str] | None = [] if tell else None
        self.world = ObservedWorld(settings, self._story)
        self._kernel = self.world.kernel
        managers = tuple(manager.process.name for manager in self.world.managers.managers)
        self._names = {"preferred": (PREFERRED,), "spare": (SPARE,), "witness": (WITNESS,), "manager": managers}
        self._sight = Sight(self.world, self._names)
        self._begun_ns = 0
        self._wins_before = 0
        self._lines_before = 0
        self._thaw: dict[str, Callable[[], None]] = {}

    def play(self) -> Played:
        """Waits for a healthy group, does the steps, waits for the end, and compares."""
        stopped = violation = ""
        ended = False
        try:
            ready = "the group to be healthy before the first step"
            self._wait(READY_WITHIN_NS, ready, lambda: self._sight.settled("preferred", "spare"))
            self._pass(LOAD_BEFORE_NS)
            self._begin()
            for step in self._file.steps:
                self._step(step)
            self.world.monitors.healed()
            ended = True
            self._end()
            self._pass(LOAD_AFTER_NS)
            self._rest()
        except (ScriptError, ConditionError) as problem:
            stopped = str(problem)
        except InvariantError as error:
            violation = str(error)
            self._kernel.tell("VIOLATION", violation)
        seen = self._evidence(stopped, ended, violation)
        return Played(
            name=self._file.name,
            profile=self._profile,
            checks=judge(self._file.expect, seen, self._profile),
            evidence=seen,
            acknowledged=len(self.world.answers),
            simulated_ms=(self._kernel.now - self._begun_ns) // MILLISECOND_NS,
            held_because=tuple(code for code in self._file.expect.holds_because if code in seen.reasons),
            story=tuple((self._story or ())[self._lines_before :]),
        )

    def _begin(self) -> None:
        self._begun_ns = self._kernel.now
        self._wins_before = len(self.world.monitors.wins)
        self._lines_before = len(self._story or ())
        self._sight.begin()

    # -- time ----------------------------------------------------------------------------------------------------------

    def _pass(self, duration_ns: int) -> None:
        if duration_ns > 0:
            self._kernel.run(self._kernel.now + duration_ns)

    def _wait(self, within_ns: int, what: str, missing: Callable[[], str]) -> None:
        """Looks once a heartbeat until nothing is missing."""
        end_ns = self._kernel.now + within_ns
        while lacking := missing():
            if self._kernel.now >= end_ns:
                raise ScriptError(f"waited {within_ns / SECOND_NS:g} s for {what}, but {lacking}")
            self._pass(min(self.world.settings.timing.heartbeat_ns, end_ns - self._kernel.now))

    def _step(self, step: Step) -> None:
        after, action = step.after, step.action
        if after is not None:
            self._wait(step.within_ms * MILLISECOND_NS, str(after), lambda: self._sight.missing(after))
        if step.at_ms is not None:
            self._pass(self._begun_ns + step.at_ms * MILLISECOND_NS - self._kernel.now)
        self._kernel.tell("SCENARIO", str(action))
        if action.verb.value == "wait":
            self._pass(action.ms * MILLISECOND_NS)
        else:
            self._do(action)
        self._sight.since_ns = self._kernel.now

    def _end(self) -> None:
        wanted, sight = self._file.expect.finally_, self._sight

        def missing() -> str:
            lacking = sight.active(wanted.active_at) if wanted.serving else ""
            lacking = lacking or (sight.served() if wanted.serving else sight.silent())
            return lacking or sight.settled(wanted.active_at, wanted.standby_promotable or "")

        standby = f" and {wanted.standby_promotable} to be able to take over" if wanted.standby_promotable else ""
        self._wait(wanted.within_ms * MILLISECOND_NS, f"{wanted.active_at} to be active{standby}", missing)

    def _rest(self) -> None:
        """What the simulator asks of every run: within the stated bound all is well and in the record."""
        end_ns = self._kernel.now + self.world.settings.quiet_ns
        while self._kernel.now < end_ns and next(self.world.monitors.unwell(), None) is not None:
            self._pass(self.world.settings.timing.heartbeat_ns)
        self.world.monitors.ended()

    # -- verbs ---------------------------------------------------------------------------------------------------------

    def _do(self, action: Action) -> None:
        world, names = self.world, self._at(action.places)
        network = world.network
        match action.verb.value:
            case "kill":
                for name in names:
                    self._kill(name)
            case "start":
                for name in names:
                    self._start(name)
            case "freeze":
                for name in names:
                    self._thaw[name] = self._freeze(name)
            case "thaw":
                for name in names:
                    self._thaw.pop(name)()
            case "cut-off":
                for name in names:
                    network.cut(self._around(name))
            case "reconnect":
                for name in names:
                    network.mend(self._around(name))
            case "cut":
                network.cut(self._between(action))
            case "mend":
                network.mend(self._between(action))
            case "hold-replication":
                network.cut(self._replication(), network.replication_cuts)
            case "release-replication":
                network.mend(self._replication(), network.replication_cuts)
            case "pause-manager":
                for name in self._names["manager"]:
                    self._manager(name).process.pause()
            case "resume-manager":
                for name in self._names["manager"]:
                    self._manager(name).process.resume()
            case "switchover":
                world.managers.create(names[0], "Switchover")
                self._sight.operation = next(reversed(world.managers.api.operations), "")
            case verb:
                self._do_data(verb, names[0])

    def _do_data(self, verb: str, site: str) -> None:
        database = self.world.databases[site]
        match verb:
            case "kill-database":
                database.crash()
            case "hold-apply":
                database.hold_apply = True
            case "release-apply":
                database.hold_apply = False
            case "semi-sync-off":
                database.semi_sync_off = True
            case other:
                raise ScriptError(f"the simulator does not know how to {other}")

    def _at(self, participants: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for participant in participants for name in self._names[participant])

    def _kill(self, name: str) -> None:
        if name in self.world.databases:
            self.world.faults._kill_site(name)
        elif name in self.world.processes:
            self.world.processes[name].die()
        else:
            self._manager(name).process.die()

    def _start(self, name: str) -> None:
        if name in self.world.processes:
            self.world.faults._restart(name)
            return
        manager = self._manager(name)
        if not manager.process.alive:
            manager.process.born()
            manager.start()

    def _freeze(self, name: str) -> Callable[[], None]:
        if name in self.world.processes:
            return self.world.faults.stop_machine(name)
        process = self._manager(name).process
        process.pause()
        return process.resume

    def _manager(self, name: str) -> Manager:
        return next(manager for manager in self.world.managers.managers if manager.process.name == name)

    def _around(self, name: str) -> list[tuple[str, str]]:
        """Everybody that a location can be cut off from, in both directions."""
        others = [other for other in (*self.world.processes, *self._names["manager"], USERS) if other != name]
        return [pair for other in others for pair in ((name, other), (other, name))]

    def _between(self, action: Action) -> list[tuple[str, str]]:
        out = [(one, other) for one in self._at(action.places) for other in self._at(action.towards)]
        return out if action.one_way else [*out, *((other, one) for one, other in out)]

    @staticmethod
    def _replication() -> list[tuple[str, str]]:
        return [(PREFERRED, SPARE), (SPARE, PREFERRED)]

    # -- what was seen -------------------------------------------------------------------------------------------------

    def _evidence(self, stopped: str, ended: bool, violation: str) -> Evidence:
        world, now = self.world, self._kernel.now
        holder = self._sight.holder()
        last = holder.name if holder is not None else self._at((self._file.expect.finally_.active_at,))[0]
        present = world.databases[last].has_all()
        answers = world.answers
        return Evidence(
            stopped=stopped,
            ended=ended,
            violation=violation,
            moves=tuple(self._moves()),
            lost=tuple(sorted({answer.number for answer in answers} - present)),
            dual_active=sum(1 for answer in answers if not answer.by_right),
            dual_served=len(world.dual_served_ns),
            outage_ms=longest_gap_ms((answer.at_ns for answer in answers), self._begun_ns, now),
            reasons=self._sight.told(),
        )

    def _moves(self) -> list[SeenMove]:
        """Moves between sites since the steps began; a win by the same site is none."""
        roles = {names[0]: role for role, names in self._names.items()}
        world = self.world
        wins = world.monitors.wins
        found = []
        first = max(self._wins_before, 1)
        for (epoch_before, origin, _), (_, target, _) in zip(wins[first - 1 :], wins[first:], strict=False):
            if origin == target:
                continue
            successor, operation = world.handed_over.get(epoch_before, ("", ""))
            kind = "Failover"
            if successor == target:
                kind = world.managers.api.operations[operation].kind
            found.append(SeenMove(kind, roles[origin], roles[target]))
        return found

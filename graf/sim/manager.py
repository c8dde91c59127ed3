"""Redundancy Managers, the API server that they share, and Git. None of them has a vote."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graf.api.recorded import Recorded
from graf.api.timing import MILLISECOND_NS
from graf.api.values import Role, VoterList
from graf.core import planning
from graf.core.handover_rules import Order
from graf.core.planning import RecordView
from graf.sim.kernel import Process

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.sim.controller import Controller
    from graf.sim.world import World

FINAL = frozenset({"Succeeded", "Failed", "RolledBack", "Refused"})
MANAGERS = ("m1", "m2", "m3")


@dataclass(slots=True)
class Api:
    """The management cluster's API server: leadership and operations live here."""

    up: bool = True
    leader: str = ""
    renewed_ns: int = -(1 << 60)
    operations: dict[str, Operation] = field(default_factory=dict)


@dataclass(slots=True)
class Operation:
    """A RedundancyOperation."""

    name: str
    kind: str
    target: str
    created_ns: int
    state: str = "Pending"
    message: str = ""
    started_ns: int = 0
    ended_ns: int = 0
    epoch: int = 0


@dataclass(slots=True)
class Git:
    """The repository: what is declared, and the record of what was decided."""

    up: bool = True
    declared: list[tuple[VoterList, bool]] = field(default_factory=list)
    commits: list[RecordView] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    recorded: Recorded = Recorded()


class Managers:
    """All managers of a run, with what they share."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.api = Api()
        self.git = Git(declared=[(world.voters, world.automatic)])
        self.stale = False
        self.operation_number = 0
        self.managers = [Manager(self, name) for name in MANAGERS[: world.settings.managers]]

    def create(self, target: str, kind: str, name: str = "") -> None:
        """Somebody, or a manager, asks for a planned move. The manager's own have a name that two of them agree on."""
        if not self.api.up:
            return
        self.operation_number += 1
        name = name or f"{kind.lower()}-{self.operation_number}"
        self.api.operations[name] = Operation(name, kind, target, self.world.kernel.now)
        if self.world.kernel.story is not None:
            who = "operator" if kind == "Switchover" else "manager"
            self.world.kernel.tell(who, f"asks for {name} to {target}")

    def declare(self, voters: VoterList, automatic: bool) -> None:
        """A commit to Git."""
        self.git.declared.append((voters, automatic))

    def operation_told(self, operation: str, state: str, message: str) -> None:
        """A site tells how an operation ended; it repeats it until the API server has it, so that none is lost."""
        found = self.api.operations.get(operation)
        if found is not None and found.state not in FINAL:
            found.state, found.message, found.ended_ns = state, message, self.world.kernel.now
            self.world.kernel.count(f"operation {state}")
            if self.world.kernel.story is not None:
                self.world.kernel.tell("manager", f"{operation}: {state}: {message}")


class Manager:
    """One manager: leads by a lease in the API server, pulls Git, tells the sites, commits what they decided."""

    def __init__(self, shared: Managers, name: str) -> None:
        self.shared = shared
        self.world = shared.world
        self.process = Process(self.world.kernel, name, self.world._clock())
        self.leads = False
        self.ready_since_s: float | None = None
        self.start()

    def start(self) -> None:
        """A new incarnation knows nothing."""
        self.leads = False
        self.ready_since_s = None
        self.process.after(1 + self.world.call_ns(), self._round)

    def _round(self) -> None:
        heartbeat = self.world.settings.timing.heartbeat_ns
        self.process.after(heartbeat, self._round)
        api, now = self.shared.api, self.world.kernel.now
        if api.up:
            if api.leader == self.process.name or now - api.renewed_ns > 4 * heartbeat:
                if api.leader != self.process.name:
                    self.world.kernel.count("manager leads")
                api.leader, api.renewed_ns, self.leads = self.process.name, now, True
            else:
                self.leads = False
        # A manager that was paused here goes on as if it still led: only voters can keep that harmless.
        if self.leads:
            declared = self._pull()
            base = len(self.shared.git.commits)
            self.process.after(self.world.call_ns(), self._act, declared, base)

    def _pull(self) -> tuple[VoterList, bool] | None:
        git = self.shared.git
        if not git.up:
            return None
        if self.shared.stale and len(git.declared) > 1:
            self.world.kernel.count("stale read of Git")
            return git.declared[-2]
        return git.declared[-1]

    def _reachable(self, controller: Controller) -> bool:
        return controller.process.runs and self.world.network.both_ways(self.process.name, controller.name)

    def _act(self, declared: tuple[VoterList, bool] | None, base: int) -> None:
        sites = [c for c in self.world.controllers.values() if self._reachable(c)]
        if declared is not None:
            for controller in sites:
                self.world.send(self.process, controller.name, "on_assignment", *declared)
        self._commit(sites, base)
        if self.shared.api.up:
            self._operate(sites)
            self._fail_back(sites)

    # -- the record ----------------------------------------------------------------------------------------------------

    def _commit(self, sites: list[Controller], base: int) -> None:
        git, kernel = self.shared.git, self.world.kernel
        waiting = [(controller, record) for controller in sites for record in controller.records]
        if not waiting:
            return
        if not git.up:
            kernel.count("record queued")
            return
        if len(git.commits) != base or self.world.faults.git_conflicts:
            kernel.count("push conflict")
            return  # the next round begins from the new head
        for controller, record in waiting:
            if record.id not in git.ids:
                git.ids.add(record.id)
                git.commits.append(record)
                git.recorded = planning.advance(git.recorded, record, self.world.settings.sites)
            controller.records.remove(record)

    # -- what the manager decides --------------------------------------------------------------------------------------

    @property
    def _now_s(self) -> float:
        return self.world.kernel.now / 1e9

    def _view(self, sites: list[Controller]) -> planning.GroupView:
        api, settings = self.shared.api, self.world.settings
        seen = {site: planning.SiteView(site) for site in settings.sites}
        for controller in sites:
            seen[controller.name] = planning.SiteView(
                controller.name, True, controller.role.value, controller.epoch, controller.promotable
            )
        active = self._active(sites)
        held = active.part.held if active is not None else None
        epoch = self.shared.git.recorded.epoch
        ended = [o for o in api.operations.values() if o.state in FINAL and o.started_ns]
        return planning.GroupView(
            group="vnf",
            recorded=self.shared.git.recorded,
            preferred=settings.sites[0],
            sites=seen,
            synchronous_set=held.current.members if held is not None else frozenset(),
            running_operation=next((o.name for o in api.operations.values() if o.state == "Running"), ""),
            failbacks_tried=sum(
                1 for o in ended if o.kind == "Failback" and o.epoch == epoch and o.state != "Succeeded"
            ),
            last_completed_s=max((o.ended_ns / 1e9 for o in ended), default=None),
        )

    def _active(self, sites: list[Controller]) -> Controller | None:
        active = [c for c in sites if c.role is Role.ACTIVE]
        return max(active, key=lambda c: c.epoch, default=None)

    def _operate(self, sites: list[Controller]) -> None:
        heartbeat, now = self.world.settings.timing.heartbeat_ns, self.world.kernel.now
        operations = list(self.shared.api.operations.values())
        for operation in operations:
            if operation.state != "Running":
                continue
            if any(r.operation == operation.name and r.is_move for r in self.shared.git.commits):
                self.shared.operation_told(operation.name, "Succeeded", "the record has the move")
            elif now - operation.started_ns > 12 * heartbeat:
                self.shared.operation_told(operation.name, "Failed", "nobody took over in time")
        for operation in operations:
            if operation.state == "Pending":
                self._start(operation, sites)

    def _start(self, operation: Operation, sites: list[Controller]) -> None:
        world, now = self.world, self.world.kernel.now
        heartbeat = world.settings.timing.heartbeat_ns
        view = self._view(sites)
        waited_s, grace_s = (now - operation.created_ns) / 1e9, 4 * heartbeat / 1e9
        ask = planning.Asked(view, operation.target, operation.name, waited_s, grace_s)
        self._count(planning.PRECHECK_RULES, ask)
        verdict = planning.precheck(view, operation.kind, operation.target, operation.name, waited_s, grace_s)
        if self.shared.stale and verdict.state != "Start":
            # A manager with an old view sends what it should not: the sites have to refuse it.
            verdict = planning.Verdict("Start", "Stale", "by an old view", operation.target)
        if verdict.state in ("Succeeded", "Refused"):
            self.shared.operation_told(operation.name, verdict.state, f"{verdict.reason}: {verdict.message}")
            return
        if now - operation.created_ns > 20 * heartbeat:
            self.shared.operation_told(operation.name, "Refused", "notAfter has passed")
            return
        active = self._active(sites)
        if verdict.state == "Wait" or active is None:
            return
        operation.state, operation.started_ns, operation.epoch = "Running", now, view.recorded.epoch
        not_after_ms = (operation.created_ns + 20 * heartbeat) // MILLISECOND_NS
        order = Order(operation.name, operation.kind, operation.target, verdict.reason, not_after_ms)
        site = view.recorded.active_site if not self.shared.stale else world.faults.any_site()
        world.send(self.process, site, "on_order", order)

    def _fail_back(self, sites: list[Controller]) -> None:
        settings = self.world.settings
        heartbeat_s = settings.timing.heartbeat_ns / 1e9
        window_ns = settings.stabilisation_ns
        window_s = 6 * heartbeat_s if window_ns is None else window_ns / 1e9
        policy = planning.FailbackPolicy(settings.failback, window_s, 10 * heartbeat_s)
        view, now_s = self._view(sites), self._now_s
        since = now_s if self.ready_since_s is None else self.ready_since_s
        why_not = planning.not_ready(view, view.preferred)
        self._count(planning.FAILBACK_RULES, planning.Failback(policy, view, why_not, since, now_s))
        decision = planning.plan_failback(policy, view, self.ready_since_s, now_s)
        self.ready_since_s = decision.ready_since_s
        if decision.create and decision.create not in self.shared.api.operations:
            self.world.kernel.count("failback")
            self.shared.create(view.preferred, "Failback", decision.create)

    def _count(self, rules: tuple[tuple[str, Callable[[Any], object]], ...], ask: object) -> None:
        """Counts which rule speaks; the decision itself is taken by the functions that the manager calls."""
        for name, rule in rules:
            if rule(ask) is not None:
                self.world.kernel.count(f"plan {name}")
                return

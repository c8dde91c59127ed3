"""The manager's one reconcile: read everything, compute, write what is different. Level-based.

Its order is that of what matters: records into the journal, assignments and commands to the sites, and only then
the API server, which may be slow or away.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from typing import TYPE_CHECKING, Any

from graf.core.planning import GroupView, failback_name, newer, plan_failback
from graf.crd.compile import compile_group, driver_classes_for
from graf.crd.driver_rules import selects
from graf.shell.logs import event
from graf.shell.proto import manager_pb2 as pb
from graf_orchestrator.drivers import class_document, driver_class_status, waits_for
from graf_orchestrator.intake import RecordIntake, kubernetes_event
from graf_orchestrator.memory import GroupMemory, StatusWriter, recorded_from_status, wall_seconds
from graf_orchestrator.operations import Operations
from graf_orchestrator.ports import ClusterError
from graf_orchestrator.state import SiteLink
from graf_orchestrator.status import (
    ConditionValue,
    conditions,
    group_status,
    site_status,
    site_view,
    synchronous_set,
    timestamp,
    without_volatile,
)
from graf_orchestrator.world import KINDS, World, WorldReader, failback_policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.core.planning import FailbackDecision
    from graf.crd.driverclass import DriverClass
    from graf.crd.group import RedundancyGroup
    from graf_orchestrator.gitloop import GitLoop
    from graf_orchestrator.ports import Cluster, Document
    from graf_orchestrator.state import State

LOG = logging.getLogger("graf.manager.reconcile")
TICK_S = 0.5
RELIST_S = 60.0
WRITE_INTERVAL_S = 1.0
VOLATILE_INTERVAL_S = 5.0
API_BACKOFF_S = 3.0
FAILBACK_LIMIT_S = 60
STOP_TIMEOUT_S = 30.0
NO_LINK = SiteLink()


class Reconciler:
    """One per leadership: everything that it remembers comes from the API server, Git and the sites."""

    def __init__(
        self,
        state: State,
        cluster: Cluster,
        git: GitLoop,
        send: Callable[[str, pb.ManagerMessage], bool],
        namespace: str,
    ) -> None:
        self._state, self._cluster, self._git, self._send = state, cluster, git, send
        self._namespace = namespace
        self._reader = WorldReader(state)
        self._intake = RecordIntake(state, namespace, git.add)
        self._operations = Operations(state, send)
        self._groups: dict[str, GroupMemory] = {}
        self._last_usable: dict[str, DriverClass] = {}
        self._others: dict[tuple[str, str], StatusWriter] = {}
        self._sent: dict[str, tuple[int, str]] = {}
        self._commit_of: dict[str, str] = {}  # operation -> record id
        self._failbacks: dict[str, FailbackDecision] = {}
        self._listed_at_s = float("-inf")
        self._api_away_until_s = float("-inf")
        self._events: list[Document] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="reconcile", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the round that it is in."""
        self._stopping.set()
        self._state.bell.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._state.bell.wait(TICK_S)
            self._state.bell.clear()
            try:
                self.round()
            except Exception:
                # One bad object must not end the manager: say it, and compute again from what is there.
                LOG.exception("the round failed unexpectedly; trying again")
                self._stopping.wait(TICK_S)

    def round(self) -> None:
        """Reads, computes, writes. Any number of rounds without news comes to the same."""
        now_s, wall_s = self._state.clock(), self._state.wall_clock()
        self._list(now_s)
        world = self._reader.read()
        committed, git_recorded, git_operations, git_ready = self._state.git_view()
        self._adopt_groups(world, git_recorded)
        self._operations.adopt(world, now_s)
        self._intake.take(world, self._groups, committed)
        self._operations.take_updates(world, now_s)
        moves, self._intake.moves = self._intake.moves, []
        self._operations.take_moves(world, moves)
        self._commit_of.update({move.operation: move.id for move in moves if move.operation})
        self._operations.record_commits(
            {name: committed[record] for name, record in self._commit_of.items() if record in committed}
        )
        self._compile(world)
        self._stream(world)
        self._operations.advance(world, self._views(world, now_s), git_operations, git_ready, now_s, wall_s)
        self._plan_failbacks(world, now_s, wall_s)
        for site, record_id in self._intake.acknowledged(self._groups, committed):
            self._send(site, pb.ManagerMessage(record_ack=pb.RecordAck(id=record_id)))
        if now_s >= self._api_away_until_s:
            try:
                self._write(world, now_s, wall_s)
            except ClusterError as error:
                self._api_away_until_s = now_s + API_BACKOFF_S
                event(LOG, "the API server does not take the status yet", logging.WARNING, error=str(error))

    # Reading -------------------------------------------------------------------------------------------------

    def _list(self, now_s: float) -> None:
        """Lists everything now and then: a watch may have missed a deletion."""
        if now_s - self._listed_at_s < RELIST_S or now_s < self._api_away_until_s:
            return
        try:
            for kind in KINDS:
                self._state.replace_objects(kind.kind_name, self._cluster.objects(kind.kind_name))
            self._listed_at_s = now_s
        except ClusterError as error:
            # A list that failed says nothing about what exists: the last known objects stay.
            self._api_away_until_s = now_s + API_BACKOFF_S
            event(LOG, "the API server does not list objects yet", logging.WARNING, error=str(error))

    def _adopt_groups(self, world: World, git_recorded: dict[str, Any]) -> None:
        for name in world.groups:
            memory = self._groups.get(name)
            if memory is None:
                status = world.status("RedundancyGroup", name)
                memory = self._groups[name] = GroupMemory(recorded_from_status(status), status)
            if name in git_recorded:
                memory.recorded = newer(memory.recorded, git_recorded[name])

    # To the sites --------------------------------------------------------------------------------------------

    def _compile(self, world: World) -> None:
        """Valid groups are compiled anew; of an invalid one the last valid assignments stay in force."""
        self._last_usable.update(world.usable_classes)
        for name, group in world.groups.items():
            policy = world.policy_of(group)
            if policy is not None and ("RedundancyGroup", name) not in world.problems:
                self._groups[name].compiled = compile_group(
                    group, policy, self._groups[name].recorded, world.usable_classes, world.sites
                )

    def _stream(self, world: World) -> None:
        """Each connected site gets its whole wanted content, again when it changes or the site dials anew."""
        for site, link in self._state.links().items():
            if not link.connected:
                continue
            names = [name for name, memory in sorted(self._groups.items()) if site in memory.compiled]
            if not names:
                continue
            assignments = [
                json.dumps(self._groups[name].compiled[site].spec.to_dict(), sort_keys=True).encode() for name in names
            ]
            compiled = {name: self._groups[name] for name in names}
            classes = [
                class_document(item, waits_for(item, site, compiled, self._state.links()))
                for item in driver_classes_for([m.compiled[site] for m in compiled.values()], self._last_usable)
            ]
            # Only a whole list of this leadership's own is evidence that a class is gone.
            complete = self._listed_at_s > float("-inf")
            existing = sorted(world.driver_classes) if complete else []
            content = [*assignments, *classes, str(complete).encode(), *(name.encode() for name in existing)]
            revision = hashlib.sha256(b"\0".join(content)).hexdigest()[:16]
            if self._sent.get(site) == (link.generation, revision):
                continue
            message = pb.Assignments(
                revision=revision,
                group_assignments_json=assignments,
                driver_classes_json=classes,
                existing_driver_classes=existing,
                existing_is_complete=complete,
            )
            if self._send(site, pb.ManagerMessage(assignments=message)):
                self._sent[site] = (link.generation, revision)
                event(LOG, "assignments sent", site=site, revision=revision, groups=names)

    # Planned moves -------------------------------------------------------------------------------------------

    def _views(self, world: World, now_s: float) -> dict[str, GroupView]:
        return {name: self._view(world, group, now_s) for name, group in world.groups.items()}

    def _view(self, world: World, group: RedundancyGroup, now_s: float) -> GroupView:
        memory, links = self._groups[group.name], self._state.links()
        sites = {name: site_view(name, group.name, links.get(name, NO_LINK), now_s) for name in group.spec.site_names}
        ends = [
            self._operations.last_completed_wall_s(world, group.name),
            wall_seconds((memory.status.get("lastOperation") or {}).get("completedAt")),
        ]
        last = max((end for end in ends if end is not None), default=None)
        epoch = memory.recorded.epoch
        names = [failback_name(group.name, epoch, attempt) for attempt in range(1, 7)]
        return GroupView(
            group=group.name,
            recorded=memory.recorded,
            preferred=group.spec.preferred_site,
            sites=sites,
            synchronous_set=frozenset(synchronous_set(group, links, now_s)[2]),
            running_operation=self._operations.running(world, group.name),
            failbacks_tried=self._operations.failed(names),
            last_completed_s=None if last is None else now_s - (self._state.wall_clock() - last),
        )

    def _plan_failbacks(self, world: World, now_s: float, wall_s: float) -> None:
        for name, group in world.groups.items():
            memory, policy = self._groups[name], world.policy_of(group)
            if policy is None or ("RedundancyGroup", name) in world.problems:
                self._failbacks.pop(name, None)
                continue
            view = self._view(world, group, now_s)
            decision = plan_failback(failback_policy(policy.spec), view, memory.ready_since_s, now_s)
            memory.ready_since_s = decision.ready_since_s
            self._failbacks[name] = decision
            if decision.create and decision.create not in world.operations and now_s >= self._api_away_until_s:
                self._create_failback(group, decision, now_s, wall_s)

    def _create_failback(self, group: RedundancyGroup, decision: FailbackDecision, now_s: float, wall_s: float) -> None:
        document = {
            "apiVersion": group.api_version,
            "kind": "RedundancyOperation",
            "metadata": {
                "name": decision.create,
                "namespace": self._namespace,
                "labels": {"graf.dev/created-by": "graf-manager", "graf.dev/group": group.name},
            },
            "spec": {
                "type": "Failback",
                "groupRef": {"name": group.name},
                "target": group.spec.preferred_site,
                "notAfter": timestamp(wall_s + FAILBACK_LIMIT_S),
                "reason": decision.message,
            },
        }
        try:
            created = self._cluster.create(document)
        except ClusterError as error:
            self._api_away_until_s = now_s + API_BACKOFF_S
            event(LOG, "the failback could not be created yet", logging.WARNING, error=str(error))
            return
        if created:
            event(LOG, "failback created", group=group.name, operation=decision.create)
            self._tell(group, decision.create, "Normal", "Failback", decision.message, wall_s)

    # To the API server ---------------------------------------------------------------------------------------

    def _tell(self, group: RedundancyGroup, name: str, kind: str, reason: str, message: str, wall_s: float) -> None:
        self._events.append(kubernetes_event(self._namespace, group, name, kind, reason, message, wall_s))

    def _write(self, world: World, now_s: float, wall_s: float) -> None:
        for name, status in self._operations.pending_writes(world, wall_s):
            self._put("RedundancyOperation", name, status)
            self._operations.written(name, status)
        for group_name, operation, state, message in self._take_endings():
            if group_name in world.groups:
                kind = "Normal" if state == "Succeeded" else "Warning"
                key = f"{operation}/{state}"
                self._tell(world.groups[group_name], key, kind, f"Operation{state}", f"{operation}: {message}", wall_s)
        for name, group in world.groups.items():
            self._write_group(world, group, self._groups[name], now_s, wall_s)
        self._write_sites(world, now_s, wall_s)
        for kind in ("DriverClass", "RedundancyPolicy"):
            self._write_supported(world, kind, now_s, wall_s)
        self._events += self._intake.events
        self._intake.events = []
        while self._events:
            self._cluster.write_event(self._events[0])
            self._events.pop(0)

    def _take_endings(self) -> list[tuple[str, str, str, str]]:
        endings, self._operations.endings = self._operations.endings, []
        return endings

    def _put(self, kind: str, name: str, status: dict[str, Any]) -> None:
        try:
            self._cluster.write_status(kind, name, status)
        except ClusterError as error:
            if error.status != 404:
                raise
            self._state.drop_object(kind, name)  # deleted meanwhile: the next list knows

    def _write_group(
        self, world: World, group: RedundancyGroup, memory: GroupMemory, now_s: float, wall_s: float
    ) -> None:
        extra = self._group_conditions(world, group, memory, wall_s)
        links, policy = self._state.links(), world.policy_of(group)
        memory.status = group_status(group, policy, memory.recorded, links, memory.status, extra, now_s, wall_s)
        written = self._write_throttled("RedundancyGroup", group.name, memory.writer, memory.status, now_s)
        if written and memory.ack_after_write:
            for site, record_id in memory.ack_after_write:
                self._send(site, pb.ManagerMessage(record_ack=pb.RecordAck(id=record_id)))
            memory.ack_after_write = []

    def _group_conditions(
        self, world: World, group: RedundancyGroup, memory: GroupMemory, wall_s: float
    ) -> list[ConditionValue]:
        problems = world.problems.get(("RedundancyGroup", group.name), [])
        text = "; ".join(str(problem) for problem in problems)
        if problems:
            stay = "; the last valid assignments stay in force" if memory.compiled else ""
            accepted = ConditionValue("Accepted", "False", "Invalid", text + stay)
            if memory.refused != text:
                self._tell(group, text, "Warning", "Refused", text, wall_s)
        else:
            accepted = ConditionValue("Accepted", "True", "Valid")
        memory.refused = text
        values = [accepted]
        if (failback := self._failbacks.get(group.name)) is not None:
            status = "True" if failback.pending else "False"
            values.append(ConditionValue("FailbackPending", status, failback.reason, failback.message))
        waiting = [item for item, (_, of) in self._intake.waiting.items() if of == group.name]
        if waiting:
            message = f"{len(waiting)} decisions are not in Git yet; they are kept and caught up in order"
            values.append(ConditionValue("Recorded", "False", "Queued", message))
        else:
            values.append(ConditionValue("Recorded", "True", "InGit"))
        return values

    def _write_sites(self, world: World, now_s: float, wall_s: float) -> None:
        links = self._state.links()
        for name, site in world.sites.items():
            writer = self._others.setdefault(("Site", name), StatusWriter())
            old = writer.written or world.status("Site", name)
            extra = [_supported(world, "Site", name)]
            status = site_status(name, site.metadata.generation or 0, links, extra, old, now_s, wall_s)
            self._write_throttled("Site", name, writer, status, now_s)

    def _write_supported(self, world: World, kind: str, now_s: float, wall_s: float) -> None:
        for (of, name), document in world.documents.items():
            if of != kind:
                continue
            writer = self._others.setdefault((kind, name), StatusWriter())
            old = writer.written or document.get("status") or {}
            generation = int(document["metadata"].get("generation") or 0)
            value = [_supported(world, kind, name)]
            status: dict[str, Any] = {"observedGeneration": generation}
            if kind == "DriverClass":
                usable = world.usable_classes.get(name)
                nowhere = usable is not None and not any(selects(usable, site) for site in world.sites.values())
                told, ready = driver_class_status(
                    name, generation, self._state.links(), self._state.clock(), tuple(world.sites) if nowhere else ()
                )
                status.update(told)
                value.append(ready)
            status["conditions"] = conditions(value, old.get("conditions") or [], generation, wall_s)
            self._write_throttled(kind, name, writer, status, now_s)

    def _write_throttled(
        self, kind: str, name: str, writer: StatusWriter, status: dict[str, Any], now_s: float
    ) -> bool:
        """Writes what changed: at most once a second, and volatile figures every few seconds.

        Returns:
            Whether the API server has this status (but for volatile figures).
        """
        same = writer.written is not None and without_volatile(writer.written) == without_volatile(status)
        if same and (status == writer.written or now_s - writer.written_at_s < VOLATILE_INTERVAL_S):
            return True
        before = writer.written or {}
        decided = before.get("epoch") != status.get("epoch") or before.get("history") != status.get("history")
        if not decided and now_s - writer.written_at_s < WRITE_INTERVAL_S:
            return False
        self._put(kind, name, status)
        writer.written, writer.written_at_s = status, now_s
        return True


def _supported(world: World, kind: str, name: str) -> ConditionValue:
    problems = world.problems.get((kind, name), [])
    if problems:
        text = "; ".join(str(problem) for problem in problems)
        return ConditionValue("Supported", "False", "NotYetSupported", text)
    return ConditionValue("Supported", "True", "Supported")

"""RedundancyOperations: checked, sent to the active site, followed, and brought to an end. Never by two at once."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from graf.core.planning import precheck
from graf.crd.operation import FINAL_STATES
from graf.shell.logs import event
from graf.shell.proto import manager_pb2 as pb
from graf_orchestrator.memory import OperationMemory, wall_seconds
from graf_orchestrator.publish import evidence_summary
from graf_orchestrator.status import ConditionValue, conditions, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from graf.core.planning import GroupView, RecordView
    from graf.crd.operation import RedundancyOperation
    from graf_orchestrator.state import State
    from graf_orchestrator.world import World

LOG = logging.getLogger("graf.manager.operations")
GRACE_S = 10.0  # for sites to dial in and Git to be read after a start
RECORD_GRACE_S = 3.0  # from "succeeded" to the record of the move
RUN_TIMEOUT_S = 180.0  # more than the controllers' own limits together, `quiesceSeconds` twice among them
PLAN = (
    "drain traffic at the active site",
    "quiesce data and take its position",
    "the target proves that it has caught up",
    "the active site releases the lease",
    "the target campaigns and activates",
    "the former active site becomes a standby",
)


class Operations:
    """All operations between two rounds."""

    def __init__(self, state: State, send: Callable[[str, pb.ManagerMessage], bool]) -> None:
        self._state = state
        self._send = send
        self._memories: dict[str, OperationMemory] = {}
        self.endings: list[tuple[str, str, str, str]] = []  # group, operation, state, message: not told yet

    def adopt(self, world: World, now_s: float) -> None:
        """Gets to know new operations, with what an earlier manager wrote about them."""
        for name in world.operations:
            if name not in self._memories:
                status = world.status("RedundancyOperation", name)
                self._memories[name] = OperationMemory(status, now_s, written=dict(status) or None)
        for name in [name for name in self._memories if name not in world.operations]:
            del self._memories[name]

    def running(self, world: World, group: str) -> str:
        """Name of the operation that runs on a group, empty when none does."""
        return next(
            (
                name
                for name, memory in self._memories.items()
                if memory.state == "Running" and world.operations[name].spec.group_ref.name == group
            ),
            "",
        )

    def failed(self, names: Iterable[str]) -> int:
        """How many of these operations ended without success."""
        return sum(
            1 for name in names if name in self._memories and self._memories[name].state in FINAL_STATES - {"Succeeded"}
        )

    def last_completed_wall_s(self, world: World, group: str) -> float | None:
        """When an operation that had really started was last completed."""
        ends = [
            wall_seconds(memory.status.get("completedAt"))
            for name, memory in self._memories.items()
            if world.operations[name].spec.group_ref.name == group and memory.status.get("startedAt")
        ]
        return max((end for end in ends if end is not None), default=None)

    def take_updates(self, world: World, now_s: float) -> None:
        """Progress that the sites told."""
        for site, update in self._state.take_updates():
            memory = self._memories.get(update.operation)
            if memory is None or memory.state != "Running":
                event(
                    LOG,
                    "progress of an operation that does not run is left out",
                    operation=update.operation,
                    state=update.state,
                    site=site,
                )
                continue
            sites = world.groups[update.group].spec.site_names if update.group in world.groups else ()
            if site not in sites:
                continue
            _add_step(memory.status, update, self._state.wall_clock())
            if update.state == "Succeeded":
                memory.succeeded_at_s = now_s
                memory.status["message"] = update.message
            elif update.state in FINAL_STATES:
                self._finish(world, update.operation, update.state, update.message or update.step)

    def take_moves(self, world: World, moves: Iterable[RecordView]) -> None:
        """Records of moves that name an operation end it: the epoch is the proof."""
        for record in moves:
            memory = self._memories.get(record.operation) if record.operation else None
            if memory is None or memory.state in FINAL_STATES:
                continue
            memory.status.update(
                epochFrom=record.epoch_from, epochTo=record.epoch, fromSite=record.from_site, toSite=record.to_site
            )
            if record.rto_ms is not None:
                memory.status["rtoMs"] = record.rto_ms
            evidence = [*(memory.status.get("evidence") or []), *evidence_summary(record.evidence_json)]
            if record.phases_ms:
                evidence.append("phases: " + ", ".join(f"{k} {v:.0f} ms" for k, v in record.phases_ms.items()))
            memory.status["evidence"] = evidence
            memory.status["rpoWrites"] = 0  # data was quiesced and the target proved the position
            message = record.message or f"{record.to_site} is active in epoch {record.epoch}"
            self._finish(world, record.operation, "Succeeded", message)

    def record_commits(self, commits: Mapping[str, str]) -> None:
        """Operation -> commit of the record that ended it."""
        for name, commit in commits.items():
            if name in self._memories:
                self._memories[name].status["gitCommit"] = commit

    def advance(
        self, world: World, views: Mapping[str, GroupView], git_operations: frozenset[str], git_ready: bool,
        now_s: float, wall_s: float,
    ) -> None:  # fmt: skip
        """Starts what may start, ends what has ended. One running operation for each group."""
        order = sorted(
            self._memories,
            key=lambda name: (
                str(world.documents[("RedundancyOperation", name)]["metadata"].get("creationTimestamp")),
                name,
            ),
        )
        for name in order:
            memory = self._memories[name]
            if memory.state in FINAL_STATES:
                continue
            if memory.state == "Running":
                self._follow(world, name, views.get(world.operations[name].spec.group_ref.name), now_s, wall_s)
                continue
            waited = now_s - memory.known_since_s
            if not git_ready and waited < GRACE_S:
                continue  # whether it was done already stands in Git
            if name in git_operations:
                self._finish(world, name, "Succeeded", "was done before: its decision is in Git")
                continue
            self._try_start(world, name, views, waited, wall_s)

    def _try_start(
        self, world: World, name: str, views: Mapping[str, GroupView], waited_s: float, wall_s: float
    ) -> None:
        operation, memory = world.operations[name], self._memories[name]
        group = operation.spec.group_ref.name
        problems = world.problems.get(("RedundancyOperation", name), [])
        limit = wall_seconds(operation.spec.not_after)
        if problems and (waited_s >= GRACE_S or group in world.groups):
            self._finish(world, name, "Refused", "; ".join(str(problem) for problem in problems))
        elif limit is not None and wall_s > limit:
            self._finish(world, name, "Refused", f"it had not begun by {operation.spec.not_after}; ask again")
        elif group not in views:
            _wait(memory, f"the group {group} is not known yet")
        else:
            running = self.running(world, group)
            view = views[group]
            verdict = precheck(view, operation.spec.type, operation.spec.target, name, waited_s, GRACE_S)
            memory.status["toSite"] = verdict.target
            if running and verdict.state == "Start":
                _wait(memory, f"waits for {running}: one operation at a time")
            elif verdict.state == "Wait":
                _wait(memory, verdict.message)
            elif verdict.state == "Start":
                self._start(operation, memory, view, verdict.target, list(verdict.evidence), wall_s)
            else:
                memory.status["evidence"] = list(verdict.evidence)
                self._finish(world, name, verdict.state, verdict.message)

    def _start(
        self,
        operation: RedundancyOperation,
        memory: OperationMemory,
        view: GroupView,
        target: str,
        evidence: list[str],
        wall_s: float,
    ) -> None:
        active = view.recorded.active_site
        limit = wall_seconds(operation.spec.not_after)
        command = pb.Command(
            operation=operation.name,
            type=operation.spec.type,
            group=view.group,
            target=target,
            not_after_wall_ms=0 if limit is None else int(limit * 1000),
            reason=operation.spec.reason,
        )
        if not self._send(active, pb.ManagerMessage(command=command)):
            _wait(memory, f"the controller of {active} is not connected to the manager")
            return
        memory.status.update(
            state="Running",
            message=f"asked {active} to hand over to {target}",
            plan=list(PLAN),
            evidence=evidence,
            fromSite=active,
            toSite=target,
            epochFrom=view.recorded.epoch,
            startedAt=timestamp(wall_s),
        )
        event(LOG, "operation started", operation=operation.name, group=view.group, source=active, target=target)

    def _follow(self, world: World, name: str, view: GroupView | None, now_s: float, wall_s: float) -> None:
        """A running operation whose site has said nothing final: what do the epochs say?"""
        memory = self._memories[name]
        status = memory.status
        started = wall_seconds(status.get("startedAt"))
        if view is not None and view.recorded.epoch > int(status.get("epochFrom", 0)):
            memory.moved_at_s = memory.moved_at_s or now_s
            if now_s - memory.moved_at_s < RECORD_GRACE_S:
                return
            status["epochTo"] = view.recorded.epoch
            if view.recorded.active_site == status.get("toSite"):
                self._finish(world, name, "Succeeded", f"{status['toSite']} is active in epoch {view.recorded.epoch}")
            else:
                message = f"the group moved to {view.recorded.active_site} by itself meanwhile"
                self._finish(world, name, "Failed", message)
        elif memory.succeeded_at_s is not None and now_s - memory.succeeded_at_s >= 2 * RECORD_GRACE_S:
            self._finish(world, name, "Succeeded", status.get("message") or "the site says so; its record is late")
        elif started is not None and wall_s - started > RUN_TIMEOUT_S:
            active = view.recorded.active_site if view else "?"
            self._finish(
                world,
                name,
                "Failed",
                f"no result within {RUN_TIMEOUT_S:.0f} s; by the record {active} is still active: "
                f"look at the controllers of {status.get('fromSite')} and {status.get('toSite')}, then ask again",
            )

    def _finish(self, world: World, name: str, state: str, message: str) -> None:
        memory = self._memories[name]
        wall_s = self._state.wall_clock()
        memory.status.update(state=state, message=message, completedAt=timestamp(wall_s))
        for step in memory.status.get("steps") or []:
            if step.get("state") == "Running":
                step.update(state=state, endedAt=timestamp(wall_s))
        level = logging.INFO if state == "Succeeded" else logging.WARNING
        group = world.operations[name].spec.group_ref.name
        self.endings.append((group, name, state, message))
        event(LOG, "operation ended", level, operation=name, group=group, state=state, detail=message)

    def pending_writes(self, world: World, wall_s: float) -> list[tuple[str, dict[str, Any]]]:
        """Statuses that changed since they were written."""
        writes = []
        for name, memory in self._memories.items():
            if not memory.status:
                memory.status = {"state": "Pending", "message": ""}
            generation = world.operations[name].metadata.generation or 0
            done = memory.state in FINAL_STATES
            complete = ConditionValue(
                "Complete", "True" if done else "False", memory.state, str(memory.status.get("message", ""))
            )
            memory.status["observedGeneration"] = generation
            memory.status["conditions"] = conditions(
                [complete], memory.status.get("conditions") or [], generation, wall_s
            )
            if memory.status != memory.written:
                writes.append((name, memory.status))
        return writes

    def written(self, name: str, status: dict[str, Any]) -> None:
        """The status of an operation is at the API server."""
        if name in self._memories:
            self._memories[name].written = _copy(status)


def _copy(status: dict[str, Any]) -> dict[str, Any]:
    steps = [dict(step) for step in status.get("steps") or []]
    return {**status, **({"steps": steps} if "steps" in status else {})}


def _wait(memory: OperationMemory, message: str) -> None:
    memory.status.update(state="Pending", message=message)


def _add_step(status: dict[str, Any], update: pb.OperationUpdate, wall_s: float) -> None:
    when = timestamp(update.wall_ms / 1000 if update.wall_ms else wall_s)
    steps = [dict(step) for step in status.get("steps") or []]
    for step in steps:
        if step["state"] == "Running" and step["name"] != update.step:
            step.update(state="Succeeded", endedAt=when)
    current = next((step for step in steps if step["name"] == update.step), None)
    if current is not None:
        current["message"] = update.message
    elif update.step:
        steps.append({"name": update.step, "state": "Running", "startedAt": when, "message": update.message})
    if update.state in FINAL_STATES and steps:
        steps[-1].update(state=update.state, endedAt=when)
    status["steps"] = steps
    status["message"] = update.message or status.get("message", "")

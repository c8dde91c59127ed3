"""Records of the sites: into the group's history, into Git, and only then acknowledged."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any

from graf.core.planning import RecordView, advance
from graf.crd.compile import compile_group
from graf.crd.gitops import DecisionRecord, decision_files
from graf.shell.logs import event
from graf.shell.proto import manager_pb2 as pb
from graf_orchestrator.journal import RECORD_ID, Decision
from graf_orchestrator.status import history_entry, last_operation, merge_history, timestamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from graf.crd.group import RedundancyGroup
    from graf_orchestrator.memory import GroupMemory
    from graf_orchestrator.ports import Document
    from graf_orchestrator.state import State
    from graf_orchestrator.world import World

LOG = logging.getLogger("graf.manager.records")
BACKLOG_LIMIT = 2000


def view_of(site: str, record: pb.Record) -> RecordView:
    """A record without its wire format."""
    return RecordView(
        id=record.id,
        group=record.group,
        kind=record.kind or "Event",
        type=record.type,
        epoch=record.epoch,
        epoch_from=record.epoch_from,
        from_site=record.from_site,
        to_site=record.to_site,
        operation=record.operation,
        site=site,
        reasons=tuple(record.reasons),
        message=record.message,
        wall_ms=record.wall_ms,
        phases_ms=dict(record.phases_ms),
        evidence_json=record.evidence_json,
    )


def kubernetes_event(
    namespace: str, group: RedundancyGroup, name: str, kind: str, reason: str, message: str, wall_s: float
) -> Document:
    """An Event on a group; the same name for the same thing, so that it exists once."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    when = timestamp(wall_s)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{group.name[:40]}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": group.api_version,
            "kind": group.kind_name,
            "name": group.name,
            "namespace": namespace,
            "uid": str((group.metadata.model_extra or {}).get("uid", "")),
        },
        "type": kind,
        "reason": "".join(ch for ch in reason if ch.isalnum())[:128] or "Record",
        "message": message[:1024],
        "source": {"component": "graf-manager"},
        "firstTimestamp": when[:19] + "Z",
        "lastTimestamp": when[:19] + "Z",
        "count": 1,
    }


class RecordIntake:
    """Takes records once each, whatever arrives how often.

    A decision is acknowledged when its commit is at the remote; anything else when the status that holds it is
    written. Until then the site keeps it, so that a lost manager loses nothing.
    """

    def __init__(self, state: State, namespace: str, add_decision: Callable[[Decision], None]) -> None:
        self._state = state
        self._namespace = namespace
        self._add_decision = add_decision
        self._backlog: list[tuple[str, pb.Record]] = []
        self._waiting: dict[str, tuple[str, str]] = {}  # record id -> site, group
        self._seen: set[str] = set()
        self.events: list[Document] = []
        self.moves: list[RecordView] = []

    def take(self, world: World, memories: Mapping[str, GroupMemory], committed: Mapping[str, str]) -> None:
        """Takes what has arrived. Records of a group that is not known yet wait."""
        arrived = self._backlog + self._state.take_records()
        self._backlog = []
        for site, record in sorted(arrived, key=lambda item: item[1].id):
            memory, group = memories.get(record.group), world.groups.get(record.group)
            if memory is None or group is None:
                if len(self._backlog) < BACKLOG_LIMIT:
                    self._backlog.append((site, record))
                continue
            self._take_one(world, group, memory, view_of(site, record), committed)

    def acknowledged(self, memories: Mapping[str, GroupMemory], committed: Mapping[str, str]) -> list[tuple[str, str]]:
        """(site, record id) of decisions that are in Git by now; their commits go into the history."""
        ready: list[tuple[str, str]] = []
        for record_id in [item for item in self._waiting if item in committed]:
            site, group = self._waiting.pop(record_id)
            ready.append((site, record_id))
            if (memory := memories.get(group)) is not None:
                _fill_commit(memory, record_id, committed[record_id])
        return ready

    @property
    def waiting(self) -> dict[str, tuple[str, str]]:
        """Decisions that are not in Git yet: record id -> site, group."""
        return dict(self._waiting)

    def _take_one(
        self,
        world: World,
        group: RedundancyGroup,
        memory: GroupMemory,
        record: RecordView,
        committed: Mapping[str, str],
    ) -> None:
        if not RECORD_ID.match(record.id) or record.site not in group.spec.site_names:
            event(
                LOG,
                "record refused: its sender is no site of the group, or its id is no id",
                logging.WARNING,
                site=record.site,
                group=record.group,
                record=record.id[:128],
            )
            return
        commit = committed.get(record.id, "")
        if record.id in self._seen:
            self._acknowledge_later(memory, record)  # the site dialled again and sends what is not acknowledged
            return
        self._seen.add(record.id)
        known = any(item["id"] == record.id for item in memory.status.get("history") or [])
        memory.recorded = advance(memory.recorded, record, group.spec.site_names)
        history = merge_history(memory.status.get("history") or [], [history_entry(record, commit)])
        memory.status["history"] = history
        newest = int((memory.status.get("lastOperation") or {}).get("epochTo", 0))
        if record.is_operation and record.epoch > newest:
            policy = world.policy_of(group)
            lossless = policy is not None and policy.spec.failover.rpo == "lossless"
            memory.status["lastOperation"] = last_operation(record, commit, lossless)
        if record.is_move:
            self.moves.append(record)
        if not known:
            self._tell(group, record)
        if record.kind == "Decision" and not commit:
            # Only the newest epoch's decisions rewrite the assignments; an older one is logged alone.
            current = record.epoch >= memory.recorded.epoch
            files = self._files(world, group, memory, record) if current else {}
            self._add_decision(Decision(record, files, memory.recorded.epoch))
        self._acknowledge_later(memory, record)

    def _acknowledge_later(self, memory: GroupMemory, record: RecordView) -> None:
        if record.kind == "Decision":
            self._waiting[record.id] = (record.site, record.group)
        else:
            memory.ack_after_write.append((record.site, record.id))

    def _files(self, world: World, group: RedundancyGroup, memory: GroupMemory, record: RecordView) -> dict[str, bytes]:
        policy = world.policy_of(group)
        valid = policy is not None and ("RedundancyGroup", group.name) not in world.problems
        if policy is not None and valid:
            memory.compiled = compile_group(group, policy, memory.recorded, world.usable_classes, world.sites)
        last = memory.status.get("lastOperation") or {}
        kept = DecisionRecord(
            group=group.name,
            active_site=memory.recorded.active_site or record.site,
            epoch=max(1, memory.recorded.epoch),
            type=str(last.get("type") or record.type),
            operation=str(last.get("name") or ""),
            record=record.id,
            decided_at=timestamp(record.wall_ms / 1000) if record.wall_ms else None,
            roles=dict(memory.recorded.roles),
        )
        return decision_files(memory.compiled.values() if valid else (), kept)

    def _tell(self, group: RedundancyGroup, record: RecordView) -> None:
        event(
            LOG,
            record.message or record.type,
            logging.WARNING if record.kind == "Refusal" else logging.INFO,
            group=record.group,
            site=record.site,
            kind=record.kind,
            type=record.type,
            epoch=record.epoch,
            reasons=list(record.reasons),
            record=record.id,
        )
        text = "; ".join([*([record.message] if record.message else []), *record.reasons]) or record.type
        unusual = record.kind == "Refusal" or record.type in ("Failover", "Fence", "Hold", "Shrink")
        self.events.append(
            kubernetes_event(
                self._namespace,
                group,
                record.id,
                "Warning" if unusual else "Normal",
                record.type or record.kind,
                f"epoch {record.epoch}, {record.site}: {text}",
                record.wall_ms / 1000,
            )
        )


def _fill_commit(memory: GroupMemory, record_id: str, commit: str) -> None:
    entries: list[dict[str, Any]] = memory.status.get("history") or []
    filled = [dict(entry) for entry in entries]
    last = memory.status.get("lastOperation")
    for entry in filled:
        if entry["id"] == record_id:
            entry["gitCommit"] = commit
            if last and entry["epoch"] == last.get("epochTo") and entry["type"] == last.get("type"):
                memory.status["lastOperation"] = {**last, "gitCommit": commit}
    memory.status["history"] = filled

"""Decisions into Git: one commit each, in order, on top of whatever is there. Runs in the Git thread."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from graf.crd import gitops
from graf.crd.trailers import DecisionTrailers, build_message
from graf.shell.logs import event
from graf_orchestrator.gitrepo import GitConflictError, GitUnavailableError, TreeUnreadableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from graf.core.planning import RecordView
    from graf_orchestrator.gitrepo import GitRepository
    from graf_orchestrator.journal import Decision

LOG = logging.getLogger("graf.manager.git")
MAX_CONFLICTS = 8
EVIDENCE_LIMIT = 4000


def subject_of(record: RecordView) -> str:
    """First line of the commit: `Failover of vcu-db: east -> west (epoch 4)`."""
    if record.from_site and record.to_site and record.from_site != record.to_site:
        what = f"{record.from_site} -> {record.to_site}"
    else:
        what = record.to_site or record.from_site or record.site
    return f"{record.type} of {record.group}: {what} (epoch {record.epoch})"


def message_of(record: RecordView, note: str = "") -> str:
    """The whole commit message with its trailers."""
    body = [record.message] if record.message else []
    if note:
        body.append(note)
    body += [f"- {reason}" for reason in record.reasons]
    if record.phases_ms:
        body.append("Phases: " + ", ".join(f"{name} {ms:.0f} ms" for name, ms in record.phases_ms.items()))
    if record.evidence_json:
        body.append(f"Evidence: {record.evidence_json[:EVIDENCE_LIMIT]}")
    trailers = DecisionTrailers(
        group=record.group,
        epoch=record.epoch,
        operation=record.operation or record.type,
        reason="; ".join(record.reasons) or record.message or record.type,
        record=record.id,
    )
    return build_message(subject_of(record), "\n".join(body), trailers)


class Publisher:
    """Puts decisions on top of the remote's branch.

    A decision is never merged as text: its files are written whole on top of the newest head, and of two
    decisions on a group the epoch decides which one the files show.
    """

    def __init__(self, repository: GitRepository, may_write: Callable[[], bool]) -> None:
        self._repository = repository
        self._may_write = may_write
        self._known: dict[str, str] = {}
        self._known_at: str | None = None

    def publish(self, head: str | None, decisions: Sequence[Decision]) -> tuple[str | None, dict[str, str]]:
        """Commits and pushes; returns the new head and record id -> commit of every decision given.

        Raises:
            GitUnavailableError: nothing is known to be pushed; call again later with the same decisions.
        """
        for _ in range(MAX_CONFLICTS):
            done = self._already_there(head)
            tip, made = self._commit_all(head, [d for d in decisions if d.record.id not in done])
            if made:
                if not self._may_write():
                    raise GitUnavailableError("this manager does not lead any more; the leader pushes")
                assert tip is not None
                try:
                    self._repository.push(tip, head)
                except GitConflictError as error:
                    event(LOG, "push met a newer head: put on top of it", reason=str(error))
                    head = self._repository.fetch()
                    continue
                self._known.update(made)
                self._known_at = tip
            result = {d.record.id: made.get(d.record.id) or done[d.record.id] for d in decisions}
            return tip if made else head, result
        raise GitUnavailableError(f"somebody else pushed {MAX_CONFLICTS} times in between")

    def _already_there(self, head: str | None) -> dict[str, str]:
        if head != self._known_at:
            self._known, _ = self._repository.recorded(head)
            self._known_at = head
        return self._known

    def _commit_all(self, head: str | None, decisions: Sequence[Decision]) -> tuple[str | None, dict[str, str]]:
        if not decisions:
            return head, {}
        epochs = self._epochs_in(head)
        tip, made = head, {}
        for decision in decisions:
            record, files, note = decision.record, decision.files, ""
            newest = epochs.get(record.group, 0)
            if files and decision.file_epoch < newest:
                files, note = {}, f"Git has epoch {newest} by now: the assignments stay as they are."
            elif files:
                epochs[record.group] = decision.file_epoch
            tip = self._repository.commit_on(tip, files, message_of(record, note))
            made[record.id] = tip
        return tip, made

    def _epochs_in(self, head: str | None) -> dict[str, int]:
        if head is None:
            return {}
        try:
            tree = self._repository.tree(head)
        except TreeUnreadableError as error:
            # The record must go on: what is unreadable is refused by the puller and reported there.
            event(LOG, "the head's tree cannot be read", logging.ERROR, error=str(error))
            return {}
        prefix = f"{gitops.RECORDS_FOLDER}/"
        records = gitops.load({path: data for path, data in tree.items() if path.startswith(prefix)}).records
        return {group: record.epoch for group, record in records.items()}


def evidence_summary(evidence_json: str) -> list[str]:
    """Evidence of a record as `key: value` lines; what is no JSON object is kept as it came."""
    if not evidence_json:
        return []
    try:
        content = json.loads(evidence_json)
    except ValueError:
        return [evidence_json[:500]]
    if not isinstance(content, dict):
        return [evidence_json[:500]]
    return [f"{key}: {json.dumps(value, ensure_ascii=False)}"[:500] for key, value in content.items()]

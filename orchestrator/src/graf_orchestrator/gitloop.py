"""The Git thread: fetch, publish what was decided, pull what people wrote, and report both.

A Git outage blocks nothing but Git: decisions wait in the journal and at their sites, in order.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from graf.shell.logs import event
from graf_orchestrator.gitrepo import GitUnavailableError, TreeUnreadableError
from graf_orchestrator.ports import ClusterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.api.recorded import Recorded
    from graf_orchestrator.gitrepo import GitRepository
    from graf_orchestrator.journal import Decision, Journal
    from graf_orchestrator.ports import Cluster
    from graf_orchestrator.publish import Publisher
    from graf_orchestrator.pull import Pulled, Puller
    from graf_orchestrator.state import State

LOG = logging.getLogger("graf.manager.git")
STATUS_CONFIG_MAP = "graf-gitops-status"
STOP_TIMEOUT_S = 20.0


class GitLoop:
    """Owns the repository; everything of Git happens in its thread."""

    def __init__(
        self,
        repository: GitRepository,
        publisher: Publisher,
        puller: Puller,
        journal: Journal,
        cluster: Cluster,
        state: State,
        poll_s: float,
        origin: dict[str, str],
        on_refused: Callable[[Pulled], None] = lambda _: None,
    ) -> None:
        self._repository, self._publisher, self._puller = repository, publisher, puller
        self._journal, self._cluster, self._state = journal, cluster, state
        self._poll_s = poll_s
        self._origin = origin
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._pending: dict[str, Decision] = {d.record.id: d for d in journal.pending()}
        self._status: dict[str, str] | None = None
        self._written: dict[str, str] | None = None
        self._read_history_of: str | None = None
        self._settled: tuple[str, str] | None = None  # head and last applied that need no second look

    def add(self, decision: Decision) -> None:
        """Takes a decision, on disk when this returns. Called by the reconcile."""
        with self._lock:
            if decision.record.id in self._pending:
                return
            self._journal.add(decision)
            self._pending[decision.record.id] = decision
        self._bell.set()

    @property
    def queued(self) -> int:
        """Decisions that are not in Git yet."""
        with self._lock:
            return len(self._pending)

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="git", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the step that it is in."""
        self._stopping.set()
        self._bell.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._bell.clear()
            try:
                self.step()
            except Exception:
                # A thread that dies silently would stop the record for good: say it, and come back.
                LOG.exception("the Git step failed unexpectedly; trying again")
            self._bell.wait(self._poll_s)

    def step(self) -> None:
        """One round: level-based, so that any number of calls comes to the same."""
        try:
            if self._status is None:
                self._status = self._cluster.read_config_map(STATUS_CONFIG_MAP) or {}
                self._written = dict(self._status)
            elif self._status.get("state") == "Refused":
                # People answer to a refusal here too: deleting lastApplied accepts a rewritten history.
                stored = self._cluster.read_config_map(STATUS_CONFIG_MAP) or {}
                if "lastApplied" not in stored:
                    self._status.pop("lastApplied", None)
            head = self._repository.fetch()
            self._read_history(head)
            head = self._publish(head)
        except GitUnavailableError as error:
            self._report(state="Unavailable", message=f"{error}; {self.queued} decisions are queued")
            return
        except ClusterError as error:
            event(LOG, "the management cluster does not answer", logging.WARNING, error=str(error))
            return
        if head is None:
            self._report(state="Empty", message=f"the branch {self._origin.get('branch')} does not exist yet")
            return
        self._pull(head)

    def _publish(self, head: str | None) -> str | None:
        with self._lock:
            decisions = sorted(self._pending.values(), key=lambda d: d.record.id)
        if not decisions:
            return head
        head, commits = self._publisher.publish(head, decisions)
        with self._lock:
            for record_id in commits:
                self._pending.pop(record_id, None)
                self._journal.remove(record_id)
        for record_id, commit in commits.items():
            event(LOG, "decision committed", record=record_id, commit=commit)
        self._state.committed(commits)
        return head

    def _read_history(self, head: str | None) -> None:
        """Once per leadership: what earlier managers recorded. Later commits are this manager's own."""
        if self._read_history_of is not None or head is None:
            if head is None:
                self._state.git_history({}, frozenset())
            return
        from graf.crd import gitops

        recorded: dict[str, Recorded] = {}
        try:
            tree = self._repository.tree(head)
            records = {p: c for p, c in tree.items() if p.startswith(f"{gitops.RECORDS_FOLDER}/")}
            recorded = {name: record.recorded() for name, record in gitops.load(records).records.items()}
        except TreeUnreadableError as error:
            event(LOG, "the records cannot be read", logging.WARNING, error=str(error))
        commits, operations = self._repository.recorded(head)
        self._state.committed(commits)
        self._state.git_history(recorded, frozenset(operations))
        self._read_history_of = head

    def _pull(self, head: str) -> None:
        assert self._status is not None
        last_applied = self._status.get("lastApplied", "")
        if self._settled == (head, last_applied):
            self._report()
            return
        pulled = self._puller.pull(head, last_applied)
        now = _now()
        if pulled.state == "Applied":
            self._settled = (head, head)
            self._report(
                state="Applied",
                message=pulled.message,
                head=head,
                lastApplied=head,
                lastAppliedAt=now,
                problems="",
                notInGit=", ".join(pulled.not_in_git),
            )
        elif pulled.state == "Refused":
            self._settled = (head, last_applied)
            if self._status.get("lastRefused") != head:
                self._on_refused(pulled)
            self._report(
                state="Refused",
                message=pulled.message,
                head=head,
                lastRefused=head,
                lastRefusedAt=now,
                problems="\n".join(str(problem) for problem in pulled.problems),
            )
        else:
            self._report(state="Waiting", message=pulled.message, head=head)

    def _report(self, state: str | None = None, **values: str) -> None:
        """Keeps and writes the status; written only when something changed, and again until it is written."""
        status = {**(self._status or {}), **self._origin, **values, "queuedDecisions": str(self.queued)}
        if state is not None:
            status["state"] = state
        elif status.get("state") == "Unavailable":
            status["state"] = "Refused" if status.get("lastRefused") == status.get("head") else "Applied"
            status["message"] = "the remote repository answers again"
        if status.get("state") != (self._status or {}).get("state"):
            event(LOG, "GitOps state", state=status.get("state"), detail=status.get("message", ""))
        if self._status is not None:
            self._status = status
        if status == self._written:
            return
        try:
            self._cluster.write_config_map(STATUS_CONFIG_MAP, status)
            self._written = dict(status)
        except ClusterError as error:
            event(LOG, "the GitOps status could not be written yet", logging.WARNING, error=str(error))


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

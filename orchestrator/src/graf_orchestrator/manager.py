"""One leadership of the manager: its threads, put together, started and ended in order."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any

from graf.shell.logs import event
from graf_orchestrator.gitloop import STATUS_CONFIG_MAP, GitLoop
from graf_orchestrator.gitrepo import Author, GitRepository
from graf_orchestrator.journal import Journal
from graf_orchestrator.link import SiteLinkServer
from graf_orchestrator.operator import Operator
from graf_orchestrator.ports import ClusterError
from graf_orchestrator.publish import Publisher
from graf_orchestrator.pull import Puller
from graf_orchestrator.reconcile import Reconciler
from graf_orchestrator.state import State
from graf_orchestrator.status import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf_orchestrator.config import ManagerConfig
    from graf_orchestrator.ports import Cluster, Document
    from graf_orchestrator.pull import Pulled

LOG = logging.getLogger("graf.manager")


class Leadership:
    """Everything that only the leading manager does. Used once: the next leadership is a new one."""

    def __init__(
        self, config: ManagerConfig, cluster: Cluster, may_write: Callable[[], bool], operator: bool = True
    ) -> None:
        self._cluster, self._namespace = cluster, config.namespace
        self.state = State()
        git = config.git
        repository = GitRepository(git.url, git.branch, git.work_dir, Author(config.author.name, config.author.email))
        journal = Journal(git.work_dir.parent / "journal")
        self.git = GitLoop(
            repository,
            Publisher(repository, may_write),
            Puller(repository, cluster),
            journal,
            cluster,
            self.state,
            git.poll_seconds,
            {"url": git.url, "branch": git.branch},
            self._refused,
        )
        self.link = SiteLinkServer(self.state, config.listen, config.tls_dir, self._known_sites)
        self.reconciler = Reconciler(self.state, cluster, self.git, self.link.send, config.namespace)
        self._operator = Operator(self.state, config.namespace) if operator else None

    def start(self) -> None:
        """Starts every thread; the port is open when it returns.

        Raises:
            LinkError, TlsError: the sites cannot be listened to.
        """
        self.link.start()
        self.reconciler.start()
        self.git.start()
        if self._operator is not None:
            self._operator.start()

    def stop(self) -> None:
        """Closes the streams first: sites look for another manager at once."""
        self.link.stop()
        self.git.stop()
        self.reconciler.stop()
        if self._operator is not None:
            self._operator.stop()

    def _known_sites(self) -> frozenset[str]:
        return frozenset(self.state.objects("Site"))

    def _refused(self, pulled: Pulled) -> None:
        """An Event on the GitOps status, once for each refused commit."""
        try:
            self._cluster.write_event(refusal_event(self._namespace, pulled, time.time()))
        except ClusterError as error:
            event(LOG, "the refusal could not be told as an Event", logging.WARNING, error=str(error))


def refusal_event(namespace: str, pulled: Pulled, wall_s: float) -> Document:
    """The Event of a refused commit."""
    digest = hashlib.sha256(pulled.commit.encode()).hexdigest()[:16]
    when = timestamp(wall_s)[:19] + "Z"
    event_object: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{STATUS_CONFIG_MAP}.{digest}", "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": STATUS_CONFIG_MAP,
            "namespace": namespace,
        },
        "type": "Warning",
        "reason": "CommitRefused",
        "message": pulled.message[:1024],
        "source": {"component": "graf-manager"},
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }
    return event_object

"""A commit from Git into the management cluster: as a whole or not at all. Runs in the Git thread."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from graf.crd import gitops
from graf.crd.base import Problem
from graf.crd.kinds import ALL_KINDS
from graf.crd.parse import from_cluster
from graf.shell.logs import event
from graf_orchestrator.gitrepo import TreeUnreadableError
from graf_orchestrator.ports import ClusterError

if TYPE_CHECKING:
    from graf.crd.base import Resource
    from graf_orchestrator.gitrepo import GitRepository
    from graf_orchestrator.ports import Cluster, Document

LOG = logging.getLogger("graf.manager.git")
SOURCE_LABEL = "graf.dev/source"
GIT_SOURCE = "git"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of looking at the head.

    Attributes:
        state: Applied, Refused, or Waiting (the cluster did not answer: try again).
        commit: the head that this is about.
        problems: why it was refused.
        not_in_git: objects that came from Git once and that the head does not hold; they stay.
    """

    state: str
    commit: str
    message: str
    problems: tuple[Problem, ...] = ()
    not_in_git: tuple[str, ...] = ()
    repository: gitops.Repository | None = None


class Puller:
    """Validates the head of the branch, then applies it. Never an older commit, never half of one."""

    def __init__(self, repository: GitRepository, cluster: Cluster) -> None:
        self._repository = repository
        self._cluster = cluster
        self._applied: tuple[str, gitops.Repository] | None = None

    def pull(self, head: str, last_applied: str) -> Pulled:
        """Looks at one head; `last_applied` is empty before the first commit was applied."""
        if last_applied and not self._repository.is_descendant(head, last_applied):
            problem = Problem(
                "",
                f"commit {head[:12]} does not follow {last_applied[:12]}, which was applied last: "
                "it is older, or the history was rewritten",
                "push a commit on top of that one; to accept a rewritten history on purpose, delete the key "
                "lastApplied from the ConfigMap graf-gitops-status",
            )
            return _refused(head, (problem,))
        try:
            new = gitops.load(self._repository.tree(head))
            old = gitops.load(self._repository.tree(last_applied)) if last_applied else gitops.Repository()
        except TreeUnreadableError as error:
            return _refused(head, (Problem("", str(error), "push a commit that has plain files only"),))
        if new.problems:
            return _refused(head, new.problems)
        if self._unchanged(new, last_applied):
            # The manager's own commits, above all: nothing for the API server, which may be busy just now.
            if problems := gitops.revert_problems(new, old):
                return _refused(head, tuple(problems))
            self._applied = (head, new)
            return Pulled("Applied", head, f"commit {head[:12]} is applied: nothing to change", repository=new)
        try:
            return self._apply(head, new, old)
        except ClusterError as error:
            # Without an answer nothing is known about the commit: it is neither taken nor refused.
            return Pulled("Waiting", head, f"the management cluster: {error}; trying again", repository=new)

    def _unchanged(self, new: gitops.Repository, last_applied: str) -> bool:
        if self._applied is None or self._applied[0] != last_applied:
            return False
        before = {key: entry.document for key, entry in self._applied[1].entries.items()}
        return before == {key: entry.document for key, entry in new.entries.items()}

    def _apply(self, head: str, new: gitops.Repository, old: gitops.Repository) -> Pulled:
        existing, labelled = self._existing()
        problems = [*gitops.change_problems(new, existing), *gitops.revert_problems(new, old)]
        if problems:
            return _refused(head, tuple(problems))
        documents = [(entry, _labelled(entry.document)) for entry in new.in_order()]
        for entry, document in documents:
            try:
                self._cluster.apply(document, dry_run=True)
            except ClusterError as error:
                if error.unreachable or error.status in (401, 403, 404):
                    raise
                problem = Problem("", f"the API server refuses it: {error}", "correct what it names", entry.file)
                problems.append(problem)
        if problems:
            return _refused(head, tuple(problems))
        for _, document in documents:
            self._cluster.apply(document, dry_run=False)
        gone = tuple(f"{kind}/{name}" for kind, name in gitops.removed(new, labelled))
        if gone:
            event(LOG, "objects are not in Git any more and stay", logging.WARNING, objects=list(gone))
        message = f"commit {head[:12]} is applied: {len(documents)} objects"
        self._applied = (head, new)
        event(LOG, "commit applied", commit=head, objects=len(documents))
        return Pulled("Applied", head, message, not_in_git=gone, repository=new)

    def _existing(self) -> tuple[dict[gitops.Key, Resource], dict[gitops.Key, Resource]]:
        """Objects in the cluster, and those among them that came from Git."""
        found: dict[gitops.Key, Resource] = {}
        labelled: dict[gitops.Key, Resource] = {}
        for kind in ALL_KINDS:
            if kind.folder == gitops.CLUSTERS_FOLDER:
                continue
            for document in self._cluster.objects(kind.kind_name):
                resource, _ = from_cluster(document)
                if resource is None:
                    continue  # cannot be compared; the reconcile reports it on the object itself
                key = (resource.kind_name, resource.name)
                found[key] = resource
                if resource.metadata.labels.get(SOURCE_LABEL) == GIT_SOURCE:
                    labelled[key] = resource
        return found, labelled


def _refused(head: str, problems: tuple[Problem, ...]) -> Pulled:
    for problem in problems:
        event(
            LOG,
            "commit refused",
            logging.WARNING,
            commit=head,
            file=problem.file,
            field=problem.field,
            cause=problem.cause,
            fix=problem.fix,
        )
    message = f"commit {head[:12]} is refused as a whole: {problems[0]}"
    if len(problems) > 1:
        message += f" (and {len(problems) - 1} more)"
    return Pulled("Refused", head, message, problems)


def _labelled(document: Document) -> Document:
    metadata = document["metadata"]
    labels = {**(metadata.get("labels") or {}), SOURCE_LABEL: GIT_SOURCE}
    return {**document, "metadata": {**metadata, "labels": labels}}

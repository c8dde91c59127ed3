"""The lab's Git repository as a user and as an auditor: read the decisions, change the policy's profile."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_FIELD, _RECORD = "\x1f", "\x1e"
_TRAILERS = ("Graf-Group", "Graf-Epoch", "Graf-Operation", "Graf-Reason")


class GitError(Exception):
    """Git refused; the text says what was tried and what Git said."""


@dataclass(frozen=True, slots=True)
class DecisionCommit:
    """A commit that records a decision."""

    commit: str
    subject: str
    wall_s: int
    group: str
    epoch: int
    operation: str
    reason: str


def _git(*argv: str, cwd: Path | None = None) -> str:
    command = ["git", "-c", "safe.directory=*", *argv]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise GitError(f"git {' '.join(argv[:3])} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def decisions(git_dir: Path, group: str, limit: int = 500) -> list[DecisionCommit]:
    """Decision commits of a group, oldest first, found by their trailers."""
    shape = _FIELD.join(["%H", "%s", "%ct", *(f"%(trailers:key={key},valueonly,separator=%x2C)" for key in _TRAILERS)])
    text = _git("--git-dir", str(git_dir), "log", f"-{limit}", f"--format={shape}{_RECORD}", "--branches")
    found = []
    for record in text.split(_RECORD):
        fields = record.strip("\n").split(_FIELD)
        if len(fields) != 7 or fields[3].strip() != group or not fields[4].strip().isdigit():
            continue
        found.append(
            DecisionCommit(
                fields[0], fields[1], int(fields[2]), group, int(fields[4]), fields[5].strip(), fields[6].strip()
            )
        )
    return list(reversed(found))


def commit_of_move(git_dir: Path, group: str, epoch: int, kind: str) -> str:
    """The commit that records the group's move (`Failover`, ...) to `epoch`; empty when there is none (yet).

    Other decisions of the same epoch, such as a shrink of the synchronous set, have commits of their own: the subject
    begins with the kind.
    """
    for decision in decisions(git_dir, group):
        if decision.epoch == epoch and decision.subject.split(" ", 1)[0] == kind:
            return decision.commit
    return ""


def last_change_wall_s(git_dir: Path, path: str) -> int:
    """When a file was last changed, by commit time; 0 when it never was."""
    text = _git("--git-dir", str(git_dir), "log", "-1", "--format=%ct", "--branches", "--", path).strip()
    return int(text) if text else 0


def checkout(git_url: str, folder: Path) -> Path:
    """A clone of the repository."""
    _git("clone", "--quiet", git_url, str(folder))
    return folder


def find_policy(tree: Path, policy: str) -> tuple[Path, list[Any]]:
    """The file of a checkout that declares a policy, and its documents."""
    for path in sorted(tree.rglob("*.y*ml")):
        if ".git" in path.parts:
            continue
        documents = [document for document in yaml.safe_load_all(path.read_text()) if document is not None]
        for document in documents:
            if (
                isinstance(document, dict)
                and document.get("kind") == "RedundancyPolicy"
                and document.get("metadata", {}).get("name") == policy
            ):
                return path, documents
    raise GitError(f"the repository declares no RedundancyPolicy {policy}")


def set_profile(git_url: str, policy: str, profile: str, author: tuple[str, str]) -> str:
    """Commits another detection profile for a policy and pushes it, as a user would. Returns the commit.

    Overrides of single times are taken out: the profile shall be what its name says.
    """

    def change(spec: dict[str, Any]) -> None:
        detection = spec.setdefault("detection", {})
        detection["profile"] = profile
        detection.pop("heartbeatMs", None)
        detection.pop("ttlMs", None)

    return change_policy(git_url, policy, change, f"Use the {profile} profile for {policy}", author)


def change_policy(
    git_url: str, policy: str, change: Callable[[dict[str, Any]], None], subject: str, author: tuple[str, str]
) -> str:
    """Commits a change of a policy's spec and pushes it, as a user would. Returns the commit.

    A push that meets a commit of the manager is tried again on top of it.
    """
    name, email = author
    for attempt in range(5):
        with tempfile.TemporaryDirectory(prefix="graf-drill-git-") as folder:
            tree = checkout(git_url, Path(folder) / "repo")
            path, documents = find_policy(tree, policy)
            for document in documents:
                if document.get("kind") == "RedundancyPolicy" and document["metadata"]["name"] == policy:
                    change(document.setdefault("spec", {}))
            path.write_text(yaml.safe_dump_all(documents, sort_keys=False))
            if not _git("status", "--porcelain", cwd=tree).strip():
                return _git("rev-parse", "HEAD", cwd=tree).strip()
            identity = ["-c", f"user.name={name}", "-c", f"user.email={email}"]
            _git(*identity, "commit", "--quiet", "-a", "-m", subject, cwd=tree)
            try:
                _git("push", "--quiet", "origin", "HEAD", cwd=tree)
            except GitError:
                if attempt == 4:
                    raise
                continue
            return _git("rev-parse", "HEAD", cwd=tree).strip()
    raise GitError("unreachable")  # pragma: no cover

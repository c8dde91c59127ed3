"""The Git repository: fetch, read a commit's tree, and put commits on top (GitPython, on a bare clone).

Every call to Git has a time-out and is made in the Git thread only. A commit is made of Git's objects directly,
without a work tree: there is no half-written file that a crash could leave.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import git
from git.objects import Blob
from gitdb.base import IStream  # type: ignore[import-untyped]

from graf.crd.trailers import parse_message

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TIMEOUT_S = 15
HISTORY_LIMIT = 5000
REGULAR_FILE, EXECUTABLE_FILE = 0o100644, 0o100755


class GitUnavailableError(Exception):
    """The remote repository could not be read or written now; try again later."""


class GitConflictError(Exception):
    """Somebody pushed in between: fetch, and put the commits on top of the new head."""


class TreeUnreadableError(Exception):
    """A commit's tree could not be read as a whole; nothing of it may be used."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who the manager's commits are by."""

    name: str
    email: str


class GitRepository:
    """A bare clone of the GitOps repository.

    Local commits are made on top of a head that was fetched, and are worth nothing until they are pushed: what is
    still to be recorded is kept by the journal, not by this clone, which may be lost at any time.
    """

    def __init__(self, url: str, branch: str, work_dir: Path, author: Author) -> None:
        self._url = url
        self._branch = branch
        self._dir = work_dir
        self._author = git.Actor(author.name, author.email)
        self._tracking = f"refs/remotes/origin/{branch}"
        self._head: str | None = None
        self._repo: git.Repo | None = None

    def fetch(self) -> str | None:
        """Head of the branch at the remote; None for a repository without that branch.

        Raises:
            GitUnavailableError: the remote does not answer.
        """
        repo = self._open()
        try:
            answer = repo.git.ls_remote("--heads", "origin", f"refs/heads/{self._branch}", kill_after_timeout=TIMEOUT_S)
            head = str(answer).split()[0] if str(answer).strip() else None
            if head is not None and head != self._head:
                # Into the object store only, by name: what is read is exactly what was announced.
                repo.git.fetch(
                    "--quiet",
                    "--no-tags",
                    "origin",
                    f"+refs/heads/{self._branch}:{self._tracking}",
                    kill_after_timeout=TIMEOUT_S,
                )
                head = str(repo.git.rev_parse("--verify", self._tracking, kill_after_timeout=TIMEOUT_S))
        except git.GitCommandError as error:
            raise GitUnavailableError(f"cannot fetch {self._url}: {_why(error)}") from error
        self._head = head
        return head

    def tree(self, commit: str) -> dict[str, bytes]:
        """Path -> content of every file of a commit.

        Raises:
            TreeUnreadableError: an entry is not a plain file, or could not be read.
        """
        files: dict[str, bytes] = {}
        try:
            for item in self._open().commit(commit).tree.traverse():
                if isinstance(item, Blob):
                    if item.mode not in (REGULAR_FILE, EXECUTABLE_FILE):
                        raise TreeUnreadableError(f"{item.path}: a symbolic link is not read; put the file there")
                    files[str(item.path)] = item.data_stream.read()
                elif not isinstance(item, git.Tree):
                    path = getattr(item, "path", "?")
                    raise TreeUnreadableError(f"{path}: a submodule is not read; put the files there")
        except (OSError, ValueError, KeyError, git.GitError) as error:
            raise TreeUnreadableError(f"commit {commit[:12]} cannot be read: {error}") from error
        return files

    def is_descendant(self, commit: str, ancestor: str) -> bool:
        """Whether `ancestor` is in the history of `commit` (or the same). False when it is not known here."""
        try:
            self._open().git.merge_base("--is-ancestor", ancestor, commit, kill_after_timeout=TIMEOUT_S)
        except git.GitCommandError:
            return False
        return True

    def recorded(self, commit: str | None) -> tuple[dict[str, str], set[str]]:
        """Ids of the site's records in a history, each with its commit; and names of the operations in it."""
        records: dict[str, str] = {}
        operations: set[str] = set()
        if commit is None:
            return records, operations
        for item in self._open().iter_commits(commit, max_count=HISTORY_LIMIT):
            message = item.message if isinstance(item.message, str) else item.message.decode("utf-8", "replace")
            trailers = parse_message(message)
            if trailers is not None:
                operations.add(trailers.operation)
                if trailers.record:
                    records[trailers.record] = item.hexsha
        return records, operations

    def commit_on(self, parent: str | None, files: Mapping[str, bytes], message: str) -> str:
        """Makes a commit that adds or replaces files; without a change it records the message alone."""
        repo = self._open()
        if parent is None:
            index = git.IndexFile(repo, os.fspath(self._dir / "graf-empty-index"))
        else:
            index = git.IndexFile.from_tree(repo, parent)
        for path, content in sorted(files.items()):
            stored = repo.odb.store(IStream("blob", len(content), io.BytesIO(content)))
            index.add([git.BaseIndexEntry((REGULAR_FILE, stored.binsha, 0, path))], write=False)
        tree = index.write_tree()
        parents = [] if parent is None else [repo.commit(parent)]
        commit = git.Commit.create_from_tree(
            repo, tree, message, parent_commits=parents, author=self._author, committer=self._author
        )
        return str(commit.hexsha)

    def push(self, commit: str, expected: str | None) -> None:
        """Moves the remote's branch from `expected` to `commit`.

        Raises:
            GitConflictError: the branch is somewhere else by now.
            GitUnavailableError: the remote does not answer; whether it took the commit is not known.
        """
        repo = self._open()
        target = f"refs/heads/{self._branch}"
        try:
            repo.git.push(
                "--quiet",
                f"--force-with-lease={target}:{expected or ''}",
                "origin",
                f"{commit}:{target}",
                kill_after_timeout=TIMEOUT_S,
            )
        except git.GitCommandError as error:
            text = str(error.stderr)
            if any(word in text for word in ("stale info", "non-fast-forward", "fetch first", "cannot lock ref")):
                raise GitConflictError(_why(error)) from error
            raise GitUnavailableError(f"cannot push to {self._url}: {_why(error)}") from error
        self._head = commit

    def _open(self) -> git.Repo:
        if self._repo is None:
            self._repo = self._open_or_init()
        return self._repo

    def _open_or_init(self) -> git.Repo:
        try:
            repo = git.Repo(self._dir)
        except (git.InvalidGitRepositoryError, git.NoSuchPathError):
            # What is no repository is what an interrupted start left; all that counts is at the remote.
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._dir)
            repo = git.Repo.init(self._dir, mkdir=True, bare=True)
        repo.git.update_environment(GIT_TERMINAL_PROMPT="0", GIT_SSH_COMMAND="ssh -o BatchMode=yes")
        with repo.config_writer() as writer:
            writer.set_value('remote "origin"', "url", self._url)
            writer.set_value("gc", "auto", "0")
        return repo


def _why(error: git.GitCommandError) -> str:
    text = str(error.stderr).strip().removeprefix("stderr:").strip().strip("'")
    return " ".join(text.split())[:400] or f"git ended with status {error.status} (time-out {TIMEOUT_S} s)"

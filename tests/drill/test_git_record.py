"""The drill as a user and as an auditor of a real Git repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from graf.lab.drill.git_record import (
    GitError,
    commit_of_move,
    decisions,
    last_change_wall_s,
    set_profile,
)

POLICY = """apiVersion: graf.dev/v1alpha1
kind: RedundancyPolicy
metadata: {name: lossless-automatic, namespace: graf-system}
spec:
  detection: {profile: metro, ttlMs: 900}
"""
AUTHOR = ("a user", "user@example.org")


def git(*argv: str, cwd: Path) -> None:
    subprocess.run(
        ["git", "-c", "user.name=m", "-c", "user.email=m@example.org", *argv], cwd=cwd, check=True, capture_output=True
    )


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    bare, work = tmp_path / "gitops.git", tmp_path / "work"
    subprocess.run(["git", "init", "--quiet", "--bare", "-b", "main", str(bare)], check=True)
    subprocess.run(["git", "clone", "--quiet", str(bare), str(work)], check=True, capture_output=True)
    (work / "policies").mkdir()
    (work / "policies" / "lossless.yaml").write_text(POLICY)
    git("add", ".", cwd=work)
    git("commit", "-m", "first", cwd=work)
    rows = (("vcu-db", 2, "Failover"), ("other", 3, "Failover"), ("vcu-db", 3, "Shrink"), ("vcu-db", 3, "Failback"))
    for group, epoch, kind in rows:
        trailers = f"Graf-Group: {group}\nGraf-Epoch: {epoch}\nGraf-Operation: {kind}\nGraf-Reason: x"
        message = f"{kind} of {group}: east -> west (epoch {epoch})\n\n{trailers}"
        git("commit", "--allow-empty", "-m", message, cwd=work)
    git("push", "origin", "HEAD:main", cwd=work)
    return bare


def test_decisions_are_found_by_their_trailers_only(bare: Path) -> None:
    found = decisions(bare, "vcu-db")
    assert [(d.epoch, d.operation) for d in found] == [(2, "Failover"), (3, "Shrink"), (3, "Failback")]
    assert commit_of_move(bare, "vcu-db", 3, "Failback") == found[2].commit
    assert commit_of_move(bare, "vcu-db", 4, "Failover") == ""


def test_a_profile_is_set_by_a_commit_that_leaves_no_override(bare: Path) -> None:
    commit = set_profile(str(bare), "lossless-automatic", "regional", AUTHOR)
    text = subprocess.run(
        ["git", "--git-dir", str(bare), "show", f"{commit}:policies/lossless.yaml"], check=True, capture_output=True
    ).stdout
    assert yaml.safe_load(text)["spec"]["detection"] == {"profile": "regional"}
    assert last_change_wall_s(bare, "policies/lossless.yaml") > 0
    assert len(decisions(bare, "vcu-db")) == 3, "a user's commit is no decision"


def test_the_same_profile_again_is_no_commit(bare: Path) -> None:
    first = set_profile(str(bare), "lossless-automatic", "wan", AUTHOR)
    assert set_profile(str(bare), "lossless-automatic", "wan", AUTHOR) == first


def test_a_policy_that_is_not_there_is_said(bare: Path) -> None:
    with pytest.raises(GitError, match="declares no RedundancyPolicy nothing"):
        set_profile(str(bare), "nothing", "wan", AUTHOR)


def test_a_repository_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(GitError, match="git"):
        decisions(tmp_path / "none.git", "vcu-db")

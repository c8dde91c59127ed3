from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graf.lab import binaries
from graf.lab.commands import app
from graf.lab.lab import Lab
from graf.lab.topology import Topology


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What would have taken this process over."""
    found: list[list[str]] = []
    monkeypatch.setattr(Lab, "load", lambda name: Lab(Topology(name, 0)))
    monkeypatch.setattr(binaries, "located", lambda: Path("/programs"))
    monkeypatch.setattr(os, "execvp", lambda _, argv: found.append(argv))
    return found


def test_what_follows_the_cluster_is_kubectls_untouched(started: list[list[str]]) -> None:
    asked = ["-n", "graf-system", "exec", "deploy/x", "--", "ls", "--name", "y"]
    done = CliRunner().invoke(app, ["kubectl", "--name", "other", "east", *asked])
    assert done.exit_code == 0, done.output
    (argv,) = started
    assert argv[:3] == ["nsenter", "--net=/run/netns/graf-other-east", "--"]
    assert argv[3] == "/programs/kubectl"
    assert argv[4].endswith("/other/east/admin.kubeconfig")
    assert argv[5:] == asked


def test_kubectl_for_what_is_no_cluster_is_refused_with_those_there_are(started: list[list[str]]) -> None:
    done = CliRunner().invoke(app, ["kubectl", "users", "get", "pods"])
    assert done.exit_code == 1
    assert "users is no cluster" in done.output
    assert "mgmt, east, west" in done.output
    assert started == []

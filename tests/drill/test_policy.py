"""Settings of the policy for the time of a drill: set through a real Git repository, and put back whatever happens."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from rich.console import Console

from graf.crd.policy import RedundancyPolicy
from graf.lab.drill import policy
from graf.lab.drill.errors import DrillError
from graf.lab.drill.policy import differing, policy_in_force, settings_of
from graf.lab.drill.progress import Progress
from graf.scenario.model import PolicySettings

POLICY = """apiVersion: graf.dev/v1alpha1
kind: RedundancyPolicy
metadata: {name: lossless-automatic, namespace: graf-system}
spec:
  detection: {profile: metro}
  failback: {mode: Automatic, stabilisationWindowSeconds: 5}
"""
GROUP = cast(
    Any, SimpleNamespace(name="vcu-db", spec=SimpleNamespace(policy_ref=SimpleNamespace(name="lossless-automatic")))
)


@dataclass
class Cluster:
    """The management cluster as the manager keeps it, and a site; both follow the repository, or do not."""

    git: Path
    follows: bool = True
    site_follows: bool = True

    def git_dir(self) -> Path:
        return self.git

    def spec(self) -> dict[str, Any]:
        show = ["git", "--git-dir", str(self.git), "show", "main:policies/lossless.yaml"]
        return dict(yaml.safe_load(subprocess.run(show, capture_output=True, text=True, check=True).stdout)["spec"])

    def policy(self, _: str) -> RedundancyPolicy:
        spec = self.spec() if self.follows else yaml.safe_load(POLICY)["spec"]
        return RedundancyPolicy.model_validate({"metadata": {"name": "lossless-automatic"}, "spec": spec})

    def assignment(self, _: str) -> Any:
        mode = self.policy("").spec.failover.mode if self.site_follows else "Automatic"
        return SimpleNamespace(spec=SimpleNamespace(failover_mode=mode))


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    bare, work = tmp_path / "gitops.git", tmp_path / "work"
    who = ["-c", "user.name=m", "-c", "user.email=m@example.org"]
    for command in (
        ["init", "--quiet", "--bare", "-b", "main", str(bare)],
        ["clone", "--quiet", str(bare), str(work)],
    ):
        subprocess.run(["git", *command], check=True, capture_output=True)
    (work / "policies").mkdir()
    (work / "policies" / "lossless.yaml").write_text(POLICY)
    for command in (["add", "."], [*who, "commit", "-m", "first"], ["push", "origin", "HEAD:main"]):
        subprocess.run(["git", *command], cwd=work, check=True, capture_output=True)
    monkeypatch.setattr(policy, "APPLIED_TIMEOUT_S", 0.3)
    monkeypatch.setattr(policy, "POLL_S", 0.05)
    return Cluster(bare)


@pytest.fixture
def hold(cluster: Cluster) -> Iterator[Callable[[PolicySettings], Any]]:
    with Path("/dev/null").open("w") as nowhere:
        progress = Progress(Console(file=nowhere))
        made = cast(Any, cluster)
        yield lambda wanted: policy_in_force(made, made, {"east": made}, GROUP, wanted, progress)


def test_what_is_so_already_makes_no_commit(cluster: Cluster, hold: Callable[[PolicySettings], Any]) -> None:
    before = commits(cluster.git)
    with hold(PolicySettings(failover="Automatic", failback="Automatic", stabilisation_seconds=5)):
        assert commits(cluster.git) == before
    assert commits(cluster.git) == before


def test_settings_are_in_force_meanwhile_and_put_back(cluster: Cluster, hold: Callable[[PolicySettings], Any]) -> None:
    with hold(PolicySettings(failover="Manual", failback="Never", stabilisation_seconds=9)):
        assert settings_of(cluster.policy("").spec) == PolicySettings(
            failover="Manual", failback="Never", stabilisation_seconds=9
        )
        assert cluster.spec()["detection"] == {"profile": "metro"}
    assert settings_of(cluster.policy("").spec) == PolicySettings(
        failover="Automatic", failback="Automatic", stabilisation_seconds=5
    )


def test_settings_are_put_back_when_the_drill_is_interrupted(
    cluster: Cluster, hold: Callable[[PolicySettings], Any]
) -> None:
    with pytest.raises(KeyboardInterrupt), hold(PolicySettings(failback="Never")):
        raise KeyboardInterrupt
    assert settings_of(cluster.policy("").spec).failback == "Automatic"


def test_a_manager_that_does_not_apply_the_commit_is_an_error_and_the_commit_is_taken_back(
    cluster: Cluster, hold: Callable[[PolicySettings], Any]
) -> None:
    cluster.follows = False
    with (
        pytest.raises(DrillError, match="failback Never is not in force after"),
        hold(PolicySettings(failback="Never")),
    ):
        pytest.fail("it must not begin")
    assert cluster.spec()["failback"]["mode"] == "Automatic"


def test_a_site_that_is_assigned_the_former_mode_is_waited_for(
    cluster: Cluster, hold: Callable[[PolicySettings], Any]
) -> None:
    cluster.site_follows = False
    with pytest.raises(DrillError) as caught, hold(PolicySettings(failover="Manual")):
        pytest.fail("it must not begin")
    assert "east is still assigned failover Automatic" in str(caught.value.why)


def test_only_what_a_scenario_names_differs() -> None:
    present = PolicySettings(failover="Automatic", failback="Manual", stabilisation_seconds=5)
    assert differing(PolicySettings(), present) == PolicySettings()
    assert differing(PolicySettings(failback="Never", stabilisation_seconds=5), present) == PolicySettings(
        failback="Never"
    )


def commits(git: Path) -> int:
    log = subprocess.run(["git", "--git-dir", str(git), "rev-list", "--count", "main"], capture_output=True, check=True)
    return int(log.stdout)

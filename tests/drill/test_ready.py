"""What a drill does before it breaks anything: it waits for a settled group and brings a profile into force."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from rich.console import Console

from graf.crd.group import RedundancyGroup
from graf.crd.operation import RedundancyOperation
from graf.lab.drill import commands, profile, ready
from graf.lab.drill.errors import DrillError
from graf.lab.drill.progress import Progress, Step
from graf.ports.group_api import ApiError, ApiFault

EXAMPLE = Path(__file__).parents[2] / "gitops" / "example" / "groups" / "vcu-db.yaml"
UNKNOWN = ApiError(ApiFault.NOT_FOUND, "there is no group vcu-db", "graf status")


def group(active: str | None) -> RedundancyGroup:
    """The example's group: active at a site with the other one following, or never active (None)."""
    base = yaml.safe_load(EXAMPLE.read_text())
    if active is None:
        return RedundancyGroup.model_validate({**base, "status": {"activeSite": "", "epoch": 0}})
    standby = {"east": "west", "west": "east"}[active]
    status = {
        "activeSite": active,
        "epoch": 1,
        "synchronousSet": {"epoch": 1, "counter": 1, "members": ["east", "west"]},
        "sites": [
            {"name": active, "role": "Active", "connected": True},
            {"name": standby, "role": "Standby", "connected": True, "promotable": True},
        ],
    }
    return RedundancyGroup.model_validate({**base, "status": status})


@dataclass
class FakeApi:
    """Answers a question for the group with the next of these; the last one for ever."""

    answers: list[RedundancyGroup | ApiError] = field(default_factory=list)
    states: list[tuple[str, str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def group(self, _: str) -> RedundancyGroup:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def create_operation(self, operation: RedundancyOperation) -> None:
        self.asked.append(str(operation.spec.target))

    def operation(self, name: str) -> RedundancyOperation:
        state, message = self.states.pop(0)
        return RedundancyOperation.model_validate(
            {
                "metadata": {"name": name, "namespace": "graf-system"},
                "spec": {"type": "Switchover", "groupRef": {"name": "vcu-db"}, "target": "west"},
                "status": {"state": state, "message": message},
            }
        )


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> Progress:
    monkeypatch.setattr(ready, "_POLL_S", 0.001)
    return Progress(Console(file=io.StringIO()))


def wait(api: FakeApi, progress: Progress) -> RedundancyGroup:
    return ready.wait_ready(cast(Any, api), "vcu-db", progress)


def test_a_group_that_was_never_active_is_waited_for(progress: Progress) -> None:
    api = FakeApi([UNKNOWN, group(None), group("west"), group("east")])
    found = wait(api, progress)
    assert found.status is not None
    assert found.status.active_site == "east"


def test_a_group_that_does_not_settle_is_told_with_what_is_missing(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "READY_TIMEOUT_S", 0.01)
    with pytest.raises(DrillError) as refusal:
        wait(FakeApi([group(None)]), progress)
    assert "active is nobody" in refusal.value.why


def test_a_name_that_nobody_has_is_given_up_sooner_and_told_where_the_names_are(
    progress: Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "UNKNOWN_TIMEOUT_S", 0.01)
    with pytest.raises(DrillError) as refusal:
        wait(FakeApi([UNKNOWN]), progress)
    assert "there is no group" in refusal.value.why
    assert "--group" in refusal.value.remedy


def there_and_back(api: FakeApi) -> None:
    move: Callable[..., None] = profile._there_and_back
    move(Step("move", 0.0), cast(Any, api), group("east"))


def test_a_profile_is_brought_into_force_by_a_move_there_and_back() -> None:
    api = FakeApi([group("east"), group("west"), group("west"), group("east")], [("Succeeded", ""), ("Succeeded", "")])
    there_and_back(api)
    assert api.asked == ["west", "east"]


@pytest.mark.parametrize("state", ["Refused", "RolledBack", "Failed"])
def test_a_move_that_did_not_succeed_ends_the_drill_with_its_reason(state: str) -> None:
    api = FakeApi([group("east")], [(state, "west is not promotable")])
    with pytest.raises(DrillError) as refusal:
        there_and_back(api)
    assert state in refusal.value.what
    assert refusal.value.why == "west is not promotable"
    assert api.asked == ["west"]


def test_a_folder_that_cannot_hold_reports_is_told_before_anything_is_broken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DrillError) as refusal:
        commands._check_folder(tmp_path / "file" / "reports")
    assert "--out" in refusal.value.remedy

"""Waiting, breaking and healing: a script that ends badly leaves nothing broken behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from rich.console import Console

from graf.crd.group import RedundancyGroup
from graf.lab.drill.errors import StepError
from graf.lab.drill.findings import newest_recorded_epoch, recorded
from graf.lab.drill.progress import Progress
from graf.lab.drill.session import Session, active_is, can_take_over, settled
from graf.ports.group_api import ApiError, ApiFault

EXAMPLE = Path(__file__).parents[2] / "gitops" / "example" / "groups" / "vcu-db.yaml"


def group(**status: Any) -> RedundancyGroup:
    base = yaml.safe_load(EXAMPLE.read_text())
    healthy: dict[str, Any] = {
        "activeSite": "east",
        "epoch": 3,
        "synchronousSet": {"epoch": 3, "counter": 1, "members": ["east", "west"]},
        "sites": [
            {"name": "east", "role": "Active", "connected": True, "epoch": 3},
            {"name": "west", "role": "Standby", "connected": True, "promotable": True, "epoch": 3},
        ],
    }
    return RedundancyGroup.model_validate({**base, "status": {**healthy, **status}})


class FakeApi:
    """Answers with what it was given, the last answer for ever."""

    def __init__(self, *answers: RedundancyGroup | ApiError) -> None:
        self.answers = list(answers)

    def group(self, _: str) -> RedundancyGroup:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, ApiError):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))


def make(api: FakeApi) -> Session:
    console = Console(file=Path("/dev/null").open("w"))  # noqa: SIM115
    made = Session(
        lab=cast(Any, None),
        api=cast(Any, api),
        workload=cast(Any, None),
        progress=Progress(console),
        group_name="vcu-db",
        preferred="east",
        spare="west",
        gap_limit_ms=1_200.0,
        start_epoch=3,
    )
    made.progress.console_file = console.file  # type: ignore[attr-defined]
    return made


def close(made: Session) -> None:
    made.progress.console_file.close()  # type: ignore[attr-defined]


def test_a_wait_says_what_it_waited_for_and_what_was_missing() -> None:
    made = make(FakeApi(group()))
    with (
        pytest.raises(StepError, match=r"waited 5 s for west to be active, but active is east \(epoch 3\)"),
        made.progress.step("wait") as step,
    ):
        made.wait(step, "west to be active", lambda g: active_is(g, "west"), 5.0)
    close(made)


def test_an_api_server_that_is_away_is_waited_for_and_one_that_refuses_is_not() -> None:
    away = ApiError(ApiFault.UNREACHABLE, "it does not answer.", "")
    made = make(FakeApi(away, away, group()))
    with made.progress.step("wait") as step:
        assert made.wait(step, "the group", lambda g: None, 5.0).name == "vcu-db"
    refused = make(FakeApi(ApiError(ApiFault.REFUSED, "no.", "")))
    with pytest.raises(ApiError), refused.progress.step("wait") as step:
        refused.wait(step, "the group", lambda g: None, 5.0)
    close(made)
    close(refused)


def test_faults_are_healed_in_reverse_and_one_that_cannot_be_hinders_no_other() -> None:
    made, order = make(FakeApi(group())), []

    def broken() -> None:
        raise OSError("no such namespace")

    made.inject("one", lambda: order.append("one"), ("heal one", lambda: order.append("heal one")))
    made.inject("two", lambda: order.append("two"), ("heal two", broken))
    made.inject("three", lambda: order.append("three"), ("heal three", lambda: order.append("heal three")))
    made.heal("heal three")
    assert made.heal_all() == ["heal two could not be healed: no such namespace"]
    assert order == ["one", "two", "three", "heal three", "heal one"]
    assert made.heal_all() == []
    close(made)


def test_a_fault_that_fails_half_way_is_healed_too() -> None:
    made, order = make(FakeApi(group())), []

    def half() -> None:
        order.append("half")
        raise OSError("broke")

    with pytest.raises(OSError, match="broke"):
        made.inject("half", half, ("heal", lambda: order.append("healed")))
    assert made.heal_all() == []
    assert order == ["half", "healed"]
    close(made)


STANDBY = {"name": "west", "role": "Standby", "connected": True, "promotable": True}
EAST = {"name": "east", "role": "Active", "connected": True}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ({"sites": [EAST, {**STANDBY, "connected": False}]}, "not connected"),
        ({"sites": [EAST, {**STANDBY, "role": "Invalidated", "verdict": "Diverged"}]}, "Invalidated, verdict Diverged"),
        ({"sites": [EAST, {**STANDBY, "promotable": False, "promotableReason": "a gap"}]}, "not promotable: a gap"),
        ({"synchronousSet": {"members": ["east"]}}, "not in the synchronous set"),
        ({"synchronousSet": None}, "not in the synchronous set"),
        ({"sites": [EAST]}, "not connected"),
        ({"activeSite": "west"}, "active is west"),
        ({"sites": [{**EAST, "role": "Fenced"}, STANDBY]}, "east reports Fenced"),
    ],
)
def test_a_group_is_not_settled_while(status: dict[str, Any], words: str) -> None:
    assert words in (settled(group(**status), "east", "west") or "")


def test_a_healthy_group_is_settled_and_one_in_the_old_epoch_is_not_yet() -> None:
    assert settled(group(), "east", "west") is None
    assert can_take_over(group(), "west") is None
    assert "epoch is still 3" in (settled(group(), "east", "west", epoch_above=3) or "")


def test_moves_are_read_from_the_record_once_each_with_their_phases() -> None:
    moved = {"kind": "Decision", "type": "Failover", "fromSite": "east", "toSite": "west", "at": "2026-01-01T00:00:01Z"}
    history = [
        {"id": "a", **moved, "epoch": 2, "epochFrom": 1},  # before the run
        {"id": "b", **moved, "epoch": 4, "epochFrom": 3},
        {"id": "c", **moved, "epoch": 4, "epochFrom": 3, "phasesMs": {"detect": 5.0}},
        {"id": "d", "kind": "Event", "type": "Shrink", "epoch": 4},
        {"id": "e", "kind": "Decision", "type": "Failover", "fromSite": "east", "toSite": "east", "epoch": 5},
        {"id": "f", "kind": "Refusal", "type": "Failover", "fromSite": "east", "toSite": "west", "epoch": 6},
    ]
    made = make(FakeApi(group(history=history)))
    made.group()
    found = recorded(made)
    assert [(op.epoch_to, op.phases_ms) for op in found] == [(4, {"detect": 5.0})]
    close(made)


def test_a_site_that_resumed_its_own_group_explains_an_epoch_although_nothing_moved() -> None:
    resumed = {"id": "a", "kind": "Decision", "type": "Resume", "fromSite": "east", "toSite": "east", "epoch": 5}
    shrunk = {"id": "b", "kind": "Decision", "type": "Shrink", "epoch": 6}
    refused = {"id": "c", "kind": "Refusal", "type": "Failover", "epoch": 7}
    made = make(FakeApi(group(history=[resumed, shrunk, refused])))
    made.group()
    assert newest_recorded_epoch(made) == 5
    assert recorded(made) == []
    close(made)

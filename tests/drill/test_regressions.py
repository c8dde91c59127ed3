"""Scenario files in the lab: every verb reaches the lab, every condition can be missed, every expectation can fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from rich.console import Console

from graf.crd.group import RedundancyGroup
from graf.crd.operation import RedundancyOperation
from graf.lab.drill.errors import StepError
from graf.lab.drill.model import SECOND, Answer, Probe, Sample
from graf.lab.drill.progress import Progress
from graf.lab.drill.regressions import Interpreter, regressions, scenario_of
from graf.lab.drill.scenarios import SCENARIOS
from graf.lab.drill.session import Session
from graf.ports.group_api import ApiError, ApiFault
from graf.scenario.model import ScenarioFile
from graf.scenario.steps import TAKEN_BACK_BY, Verb
from graf.shell.scenarios import builtin_scenarios, parse_scenario

EXAMPLE = Path(__file__).parents[2] / "gitops" / "example" / "groups" / "vcu-db.yaml"
HEALTHY: dict[str, Any] = {
    "activeSite": "east",
    "epoch": 3,
    "synchronousSet": {"epoch": 3, "counter": 1, "members": ["east", "west"]},
    "sites": [
        {"name": "east", "role": "Active", "connected": True, "epoch": 3},
        {"name": "west", "role": "Standby", "connected": True, "promotable": True, "epoch": 3},
    ],
}


@dataclass
class World:
    """A lab, its users and its manager, whose every answer a test lays down. Time passes only by sleeping."""

    now_s: float = 100.0
    accepting: tuple[str, ...] = ("east",)
    blind: tuple[str, ...] = ()
    serving: bool = True
    status: dict[str, Any] = field(default_factory=lambda: dict(HEALTHY))
    manager_answers: bool = True
    operation_state: str = "Succeeded"
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    at: dict[float, Callable[[], None]] = field(default_factory=dict)
    on_kill: Callable[[], None] | None = None

    # -- the clock -----------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        for due in [moment for moment in self.at if moment <= self.now_s]:
            self.at.pop(due)()

    def now_ns(self) -> int:
        return round(self.now_s * SECOND)

    # -- the lab -------------------------------------------------------------------------------------------

    def kill_database(self, site: str) -> None:
        self.calls.append(("kill_database", site))
        if self.on_kill is not None:
            self.on_kill()

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))

    # -- users and observer --------------------------------------------------------------------------------

    def acked_after(self, since_ns: int) -> list[int]:
        if not self.serving:
            return []
        return list(range(since_ns, self.now_ns(), SECOND // 100))

    def recent_samples(self, span_ns: int) -> list[Sample]:
        samples = []
        for site in {"east", "west"} - set(self.blind):
            answer = Answer.ACCEPTED if site in self.accepting else Answer.REFUSED
            for back in range(0, min(span_ns, SECOND), SECOND // 20):
                at = self.now_ns() - back
                samples.append(Sample(site, Probe.WRITE, at, at, answer))
                samples.append(Sample(site, Probe.READ, at, at, Answer.ACCEPTED))
        return samples

    # -- the manager ---------------------------------------------------------------------------------------

    def group(self, _: str) -> RedundancyGroup:
        if not self.manager_answers:
            raise ApiError(ApiFault.UNREACHABLE, "the management cluster does not answer.", "")
        return RedundancyGroup.model_validate({**yaml.safe_load(EXAMPLE.read_text()), "status": self.status})

    def create_operation(self, operation: RedundancyOperation) -> None:
        self.calls.append(("asked", operation.spec.target))

    def operation(self, name: str) -> RedundancyOperation:
        spec = {"type": "Switchover", "groupRef": {"name": "vcu-db"}, "target": "west"}
        status = {"state": self.operation_state, "message": "NotInSynchronousSet: west may lack writes"}
        return RedundancyOperation.model_validate(
            {"kind": "RedundancyOperation", "metadata": {"name": name}, "spec": spec, "status": status}
        )


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr("time.monotonic", lambda: made.now_s)
    monkeypatch.setattr("time.monotonic_ns", made.now_ns)
    monkeypatch.setattr("time.sleep", made.sleep)
    return made


@pytest.fixture
def make(world: World) -> Iterator[Callable[[], Session]]:
    with Path("/dev/null").open("w") as nowhere:

        def session() -> Session:
            stub = cast(Any, world)
            console = Console(file=nowhere)
            return Session(stub, stub, stub, Progress(console), "vcu-db", "east", "west", 3_000.0, start_epoch=3)

        yield session


def scenario(*steps: dict[str, Any], **expect: Any) -> ScenarioFile:
    document = {
        "name": "test",
        "summary": "a test",
        "source": "https://example.org/",
        "steps": list(steps),
        "expect": {"moves": [], "finally": {"active-at": "preferred", "within-ms": 5000}, **expect},
    }
    return parse_scenario(yaml.safe_dump(document).encode(), "test.yaml")


PAIRS: list[tuple[dict[str, Any], dict[str, Any], tuple[Any, ...], tuple[Any, ...]]] = [
    ({"kill": "preferred"}, {"start": "preferred"}, ("kill", "east"), ("start", "east")),
    ({"freeze": "spare"}, {"thaw": "spare"}, ("freeze", "west"), ("thaw", "west")),
    ({"cut-off": "preferred"}, {"reconnect": "preferred"}, ("cut_off", "east"), ("reconnect", "east")),
    (
        {"cut": {"from": "preferred", "to": ["spare", "witness", "manager"], "one-way": True}},
        {"mend": {"from": "preferred", "to": ["spare", "witness", "manager"], "one-way": True}},
        ("cut", "east", ("west", "mgmt"), True),
        ("mend", "east", ("west", "mgmt"), True),
    ),
    (
        {"hold-replication": True},
        {"release-replication": True},
        ("hold_replication", ("east", "west")),
        ("release_replication",),
    ),
    (
        {"hold-apply": "spare"},
        {"release-apply": "spare"},
        ("hold_apply", "west"),
        ("release_apply", "west"),
    ),
    ({"pause-manager": True}, {"resume-manager": True}, ("pause_manager",), ("resume_manager",)),
]
ALONE: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
    ({"kill-database": "preferred"}, ("kill_database", "east")),
    ({"semi-sync-off": "preferred"}, ("semi_sync_off", "east")),
    ({"switchover": {"target": "spare"}}, ("asked", "west")),
]


def test_every_verb_is_tried_here() -> None:
    tried = {key for pair in PAIRS for step in pair[:2] for key in step} | {key for step, _ in ALONE for key in step}
    assert tried | {"wait"} == {verb.value for verb in Verb}
    assert len(PAIRS) == len(TAKEN_BACK_BY)


@pytest.mark.parametrize(("fault", "back", "done", "undone"), PAIRS)
def test_a_fault_reaches_the_lab_and_is_taken_back_by_its_verb(
    world: World, make: Callable[[], Session], fault: Any, back: Any, done: Any, undone: Any
) -> None:
    session = make()
    Interpreter(session, scenario(fault, back)).run()
    assert world.calls == [done, undone]
    assert session.heal_all() == []
    assert world.calls == [done, undone], "nothing is healed twice"


@pytest.mark.parametrize(("fault", "back", "done", "undone"), PAIRS)
def test_a_run_that_is_interrupted_leaves_no_fault_behind(
    world: World, make: Callable[[], Session], fault: Any, back: Any, done: Any, undone: Any
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    world.at[world.now_s + 1.0] = interrupt
    session = make()
    with pytest.raises(KeyboardInterrupt):
        Interpreter(session, scenario(fault, {"wait": 5000}, back)).run()
    assert world.calls == [done]
    assert session.heal_all() == []
    assert world.calls == [done, undone]


@pytest.mark.parametrize(("step", "done"), ALONE)
def test_what_graf_itself_must_mend_is_only_done(
    world: World, make: Callable[[], Session], step: Any, done: Any
) -> None:
    session = make()
    Interpreter(session, scenario(step)).run()
    assert world.calls == [done]
    assert session.fault_ns > 0
    assert session.heal_all() == []


def test_several_locations_are_hit_together_and_one_location_once(world: World, make: Callable[[], Session]) -> None:
    all_of_it = ["preferred", "spare", "manager", "witness"]
    Interpreter(make(), scenario({"kill": all_of_it}, {"start": all_of_it})).run()
    assert world.calls == [(verb, place) for verb in ("kill", "start") for place in ("east", "west", "mgmt")]


def test_steps_keep_to_the_time_of_the_run_and_a_late_one_follows_at_once(
    world: World, make: Callable[[], Session]
) -> None:
    begun = world.now_s
    seen: list[float] = []
    world.on_kill = lambda: seen.append(world.now_s - begun)
    steps: list[dict[str, Any]] = [{"at-ms": at, "kill-database": "spare"} for at in (0, 2000, 2500)]
    Interpreter(make(), scenario(*steps[:2], {"wait": 1500}, steps[2])).run()
    assert seen == pytest.approx([0.0, 2.0, 3.5], abs=0.01)


CONDITIONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"active-is": "spare"}, {"accepting": ("west",)}, "east accepts writes"),
    ({"active-is": "preferred"}, {}, "east, west accepts writes"),
    ({"active-is": "preferred"}, {}, "nobody accepts writes"),
    ({"active-is": "nobody"}, {"accepting": ()}, "east accepted a write within the last second"),
    ({"active-is": "nobody"}, {"accepting": ()}, "no answer from west"),
    ({"serving": True}, {}, "0 of 25 writes acknowledged"),
    ({"serving": False}, {"serving": False}, "writes acknowledged within the last second"),
    (
        {"set-is": ["preferred"]},
        {"status": {**HEALTHY, "synchronousSet": {"members": ["east"]}}},
        "the synchronous set is east, west",
    ),
    ({"set-is": ["spare", "preferred"]}, {}, "the synchronous set is unknown"),
    ({"standby-promotable": "spare"}, {}, "west is Invalidated"),
    ({"holds-because": "NoMajorityVisible"}, {"status": HEALTHY}, "no reason NoMajorityVisible has been told"),
    ({"operation-ended": "Succeeded"}, {}, "the switchover is Running"),
]
MISSED: dict[str, dict[str, Any]] = {
    "east, west accepts writes": {"accepting": ("east", "west")},
    "nobody accepts writes": {"accepting": ()},
    "no answer from west": {"accepting": (), "blind": ("west",)},
    "0 of 25 writes acknowledged": {"serving": False},
    "the synchronous set is unknown": {"status": {**HEALTHY, "synchronousSet": None}},
    "west is Invalidated": {
        "status": {**HEALTHY, "sites": [{"name": "west", "role": "Invalidated", "connected": True}]}
    },
    "the switchover is Running": {"operation_state": "Running"},
}


def becomes(world: World, **values: Any) -> Callable[[], None]:
    def change() -> None:
        for name, value in values.items():
            setattr(world, name, value)

    return change


@pytest.mark.parametrize(("condition", "met_by", "words"), CONDITIONS)
def test_a_condition_that_does_not_come_fails_the_step_and_says_what_was_missing(
    world: World, make: Callable[[], Session], condition: Any, met_by: Any, words: str
) -> None:
    becomes(world, **MISSED.get(words, {}))()
    steps: list[dict[str, Any]] = [
        {"switchover": {"target": "spare"}},
        {"after": condition, "within-ms": 4000, "wait": 1},
    ]
    with pytest.raises(StepError, match=f"waited 4 s for .*{words}"):
        Interpreter(make(), scenario(*steps)).run()


@pytest.mark.parametrize(("condition", "met_by", "words"), CONDITIONS)
def test_a_condition_that_comes_lets_the_step_go_on(
    world: World, make: Callable[[], Session], condition: Any, met_by: Any, words: str
) -> None:
    healthy = World()
    before = {name: getattr(world, name) for name in ("accepting", "blind", "serving", "status", "operation_state")}
    becomes(world, **MISSED.get(words, {}))()
    said = {"kind": "Refusal", "type": "Hold", "id": "x", "epoch": 3, "reasons": ["NoMajorityVisible: 1 of 3"]}
    met = {**before, **met_by}
    if "holds-because" in condition:
        met["status"] = {**HEALTHY, "history": [said]}
    begun = world.now_s
    world.at[begun + 2.0] = becomes(world, **met)
    done: list[float] = []

    def after() -> None:
        done.append(world.now_s - begun)
        becomes(world, accepting=healthy.accepting, serving=True, status=healthy.status)()

    world.on_kill = after
    steps: list[dict[str, Any]] = [{"switchover": {"target": "spare"}}, {"after": condition, "kill-database": "spare"}]
    Interpreter(make(), scenario(*steps)).run()
    assert 2.0 <= done[0] < 4.0


def test_several_conditions_must_hold_at_the_same_time(world: World, make: Callable[[], Session]) -> None:
    world.accepting = ("west",)
    world.serving = False
    begun = world.now_s
    world.at[begun + 1.0] = becomes(world, accepting=("east",), serving=True)
    world.at[begun + 3.0] = becomes(world, accepting=("west",))
    world.at[begun + 6.0] = becomes(world, accepting=("east",))
    step = {"after": {"active-is": "spare", "serving": True}, "wait": 1}
    session = make()
    Interpreter(session, scenario(step)).run()
    waited = next(s for s in session.progress.steps if s.name.startswith("until active-is spare"))
    assert waited.seconds == pytest.approx(3.0, abs=0.3)


def test_users_and_the_active_site_are_seen_while_the_manager_is_away(
    world: World, make: Callable[[], Session]
) -> None:
    world.manager_answers = False
    step = {"after": {"active-is": "preferred", "serving": True}, "within-ms": 2000, "wait": 3000}
    Interpreter(make(), scenario(step)).run()
    with pytest.raises(StepError, match=r"the management cluster does not answer\."):
        Interpreter(make(), scenario({"after": {"set-is": ["spare"]}, "within-ms": 2000, "wait": 1})).run()


def test_an_operation_that_ends_otherwise_fails_at_once_with_its_message(
    world: World, make: Callable[[], Session]
) -> None:
    world.operation_state = "Refused"
    begun = world.now_s
    steps: list[dict[str, Any]] = [
        {"switchover": {"target": "spare"}},
        {"after": {"operation-ended": "Succeeded"}, "wait": 1},
    ]
    with pytest.raises(StepError, match="ended as Refused, not Succeeded: NotInSynchronousSet"):
        Interpreter(make(), scenario(*steps)).run()
    assert world.now_s - begun < 1.0


# -- expectations ------------------------------------------------------------------------------------------


def test_an_end_that_is_not_reached_fails_the_run(world: World, make: Callable[[], Session]) -> None:
    world.accepting = ("west",)
    with pytest.raises(StepError, match="waited 5 s for east to be active, but west accepts writes"):
        Interpreter(make(), scenario({"wait": 1})).run()
    world.accepting, world.serving = ("east",), False
    with pytest.raises(StepError, match="0 of 25 writes acknowledged"):
        Interpreter(make(), scenario({"wait": 1})).run()


def test_an_end_without_a_standby_that_could_take_over_fails_the_run(world: World, make: Callable[[], Session]) -> None:
    world.status = {**HEALTHY, "synchronousSet": {"members": ["east"]}}
    end = {"active-at": "preferred", "standby-promotable": "spare", "within-ms": 3000}
    with pytest.raises(StepError, match="west is not in the synchronous set"):
        Interpreter(make(), scenario({"wait": 1}, **{"finally": end})).run()


def test_a_reason_that_must_be_told_is_a_check_that_can_fail(world: World, make: Callable[[], Session]) -> None:
    silent = make()
    Interpreter(silent, scenario({"wait": 2000}, **{"holds-because": "NotInSynchronousSet"})).run()
    assert [(check.ok, "never told" in check.detail) for check in silent.checks] == [(False, True)]
    sites = [{**HEALTHY["sites"][1], "reasons": ["NotInSynchronousSet: west may lack writes"]}, HEALTHY["sites"][0]]
    world.status = {**HEALTHY, "sites": sites}
    told = make()
    Interpreter(told, scenario({"wait": 2000}, **{"holds-because": "NotInSynchronousSet"})).run()
    assert [check.ok for check in told.checks] == [True]


def test_a_reason_from_before_the_run_does_not_count(world: World, make: Callable[[], Session]) -> None:
    old = {"kind": "Refusal", "type": "Hold", "id": "old", "epoch": 2, "reasons": ["NotInSynchronousSet: then"]}
    world.status = {**HEALTHY, "history": [old]}
    session = make()
    session.group()
    Interpreter(session, scenario({"wait": 2000}, **{"holds-because": "NotInSynchronousSet"})).run()
    assert [check.ok for check in session.checks] == [False]


def test_reasons_are_judged_even_if_the_steps_end_early(world: World, make: Callable[[], Session]) -> None:
    session = make()
    world.accepting = ()
    with pytest.raises(StepError):
        Interpreter(session, scenario({"wait": 1}, **{"holds-because": "NotInSynchronousSet"})).run()
    assert [check.ok for check in session.checks] == [False]


def test_a_file_becomes_a_scenario_with_its_expectations() -> None:
    file = builtin_scenarios()["github-2018"]
    made = scenario_of(file)
    assert [(e.types, e.from_site, e.to_site) for e in made.expected("east", "west")] == [
        (("Failover",), "east", "west"),
        (("Failback",), "west", "east"),
    ]
    assert (made.gap_limit_ms("metro"), made.gap_limit_ms("regional")) == (1200.0, 3000.0)
    assert made.profile == "regional"
    loose = scenario({"wait": 1}, **{"moves": None, "max-moves": 2, "lost-writes": 1, "dual-active": 2})
    made = scenario_of(loose)
    assert (made.allowed.max_moves, made.allowed.lost_writes, made.allowed.dual_writable) == (2, 1, 2)
    assert made.allowed.dual_served == 0, "what is not asked of every world is asked of this one"
    assert made.gap_limit_ms("metro") is None


def test_the_lab_runs_all_known_disasters_beside_its_own_drills() -> None:
    assert set(regressions()) == set(builtin_scenarios())
    assert not set(regressions()) & set(SCENARIOS)


def test_the_window_of_a_run_reaches_from_the_first_step_to_the_end(world: World, make: Callable[[], Session]) -> None:
    session = make()
    Interpreter(session, scenario({"wait": 1000}, {"kill-database": "preferred"}, {"wait": 2000})).run()
    (window,) = session.windows
    assert window.start_ns == session.fault_ns
    assert (window.end_ns - window.start_ns) / SECOND >= 5.0
    assert window.limit_ms == 3_000.0


def test_labels_of_faults_are_unique_so_that_each_is_healed_alone(world: World, make: Callable[[], Session]) -> None:
    links = [
        {"from": a, "to": b, "one-way": one_way}
        for a, b in itertools.permutations(("preferred", "spare"))
        for one_way in (True, False)
    ]
    Interpreter(make(), scenario(*({"cut": link} for link in links), *({"mend": link} for link in links))).run()
    made, mended = world.calls[:4], world.calls[4:]
    assert [call[1:] for call in made] == [call[1:] for call in mended]

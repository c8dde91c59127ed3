"""The known disasters in the simulator: each is survived, and each goes red with the bug that once made it one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner

from graf.core import handover_rules, holder, planning, site, voter
from graf.core.contender import CONTENDER_RULES
from graf.core.view import Contend
from graf.core.voter import CAMPAIGN_RULES
from graf.scenario.model import ScenarioFile
from graf.scenario.steps import TAKEN_BACK_BY, Verb
from graf.shell.scenarios import builtin_scenarios, parse_scenario
from graf.sim import scripted
from graf.sim.controller import Controller
from graf.sim.database import Database
from graf.sim.expected import Check, Evidence, SeenMove, judge, longest_gap_ms
from graf.sim.gate import Gate
from graf.sim.regress_command import UnknownScenarioError, regress
from graf.sim.scripted import play_file

DISASTERS = builtin_scenarios()
SECOND = 1_000_000_000


@pytest.mark.parametrize("name", DISASTERS)
@pytest.mark.parametrize("profile", ["metro", "regional", "wan"])
def test_each_disaster_is_survived_as_its_file_expects(name: str, profile: str) -> None:
    played = play_file(DISASTERS[name], profile)
    assert played.problems == ()
    assert played.acknowledged > 500
    assert played.profile == profile


def test_the_same_file_and_seed_give_the_same_run() -> None:
    one, other = (play_file(DISASTERS["flapping-11s-5s"], seed=7, tell=True) for _ in range(2))
    assert one == other
    assert one.story != play_file(DISASTERS["flapping-11s-5s"], seed=8, tell=True).story


# -- the bug that made it a disaster ----------------------------------------------------------------------------------


def promote_without_the_relay_log(monkeypatch: pytest.MonkeyPatch) -> None:
    activate = Database._activate

    def discard(self: Database, members: frozenset[str]) -> Any:
        self.relay.clear()
        return activate(self, members)

    monkeypatch.setattr(Database, "_activate", discard)


def never_notice_that_semi_sync_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    look = Database.look

    def blind(self: Database) -> None:
        off = self.semi_sync_off
        look(self)
        self.semi_sync_off = off

    monkeypatch.setattr(Database, "look", blind)


def acknowledge_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    release = Database._release

    def at_once(self: Database) -> None:
        self.semi_sync_off = True
        release(self)

    monkeypatch.setattr(Database, "_release", at_once)


def without_rules(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    contender = tuple(rule for rule in CONTENDER_RULES if rule[0] not in names)
    campaign = tuple(rule for rule in CAMPAIGN_RULES if rule[0] not in names)
    monkeypatch.setattr(site, "decide", partial(site.decide, contender_rules=contender))
    monkeypatch.setattr(voter, "on_campaign", partial(voter.on_campaign, rules=campaign))


def promote_outside_the_set(monkeypatch: pytest.MonkeyPatch) -> None:
    without_rules(monkeypatch, "in-synchronous-set", "data-is-promotable")
    monkeypatch.setattr(Database, "promotable", property(lambda _self: True))
    monkeypatch.setattr(holder, "take_over_refusals", lambda _view, _peer: ())


def take_over_before_the_lease_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    without_rules(monkeypatch, "holder-may-live")


def obey_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    promote_outside_the_set(monkeypatch)
    monkeypatch.setattr(handover_rules, "take_over_refusals", lambda _view, _peer: ())
    monkeypatch.setattr(
        planning, "precheck", lambda _view, _kind, target, *_rest: planning.Verdict("Start", "Obeyed", "", target)
    )


def go_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = scripted.settings_of
    monkeypatch.setattr(scripted, "settings_of", lambda *args: replace(settings(*args), stabilisation_ns=0))


def forget_that_it_was_active(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = Database.crash

    def forget(self: Database) -> None:
        crash(self)
        self.was_active = False

    monkeypatch.setattr(Database, "crash", forget)


def wait_for_the_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Controller._apply

    def ask_first(self: Controller, action: Any, now: int) -> None:
        if not isinstance(action, Contend) or all(m.process.runs for m in self.world.managers.managers):
            apply(self, action, now)

    monkeypatch.setattr(Controller, "_apply", ask_first)


def order_again_after_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    do = scripted.Script._do

    def resumed(self: scripted.Script, action: Any) -> None:
        do(self, action)
        if action.verb is Verb.RESUME_MANAGER:
            self.world.managers.create("west", "Switchover")
            self.world.kernel.run(self.world.kernel.now + SECOND)
            self.world.managers.create("east", "Switchover")

    monkeypatch.setattr(scripted.Script, "_do", resumed)


def serve_without_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "is_open", property(lambda self: self.role is not None and self.role.value == "Active"))
    monkeypatch.setattr(Controller, "fence", lambda self: self.stand_down())


Plant = Callable[[pytest.MonkeyPatch], None]
PLANTS: list[tuple[str, Plant]] = [
    ("relay-log-discard", promote_without_the_relay_log),
    ("lease-lost-in-recovery", promote_without_the_relay_log),
    ("semi-sync-fallback", never_notice_that_semi_sync_is_off),
    ("semi-sync-fallback", acknowledge_alone),
    ("standby-then-active-lost", promote_outside_the_set),
    ("replication-only-partition", promote_outside_the_set),
    ("operator-at-wrong-side", obey_the_operator),
    ("github-2018", take_over_before_the_lease_has_ended),
    ("github-2018", serve_without_a_lease),
    ("flapping-11s-5s", go_back_at_once),
    ("both-sites-back-at-once", forget_that_it_was_active),
    ("manager-and-active-lost-together", wait_for_the_manager),
    ("coordinator-paused", order_again_after_the_pause),
    ("whole-machine-paused", acknowledge_alone),
]


@pytest.mark.parametrize(("name", "plant"), PLANTS, ids=[f"{name}: {plant.__name__}" for name, plant in PLANTS])
def test_a_disaster_goes_red_with_the_bug_that_made_it_one(
    name: str, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    # A bug needs its moment: a seed draws delays and when a site looks.
    assert not all(play_file(DISASTERS[name], seed=seed).passed for seed in range(6))


def test_every_disaster_has_such_a_bug() -> None:
    assert {name for name, _ in PLANTS} == set(DISASTERS)


# -- every expectation can fail ---------------------------------------------------------------------------------------


def parse(steps: list[Any], **expect: Any) -> ScenarioFile:
    expected = {"moves": [], "finally": {"active-at": "preferred", "standby-promotable": "spare"}, **expect}
    expected = {key: value for key, value in expected.items() if value != "left out"}
    document = {
        "name": "drawn",
        "summary": "A test",
        "source": "https://example.org/report",
        "policy": {"failover": "Automatic", "failback": "Never"},
        "steps": steps,
        "expect": expected,
    }
    return parse_scenario(yaml.safe_dump(document).encode(), "drawn.yaml")


GOOD = Evidence(
    stopped="",
    ended=True,
    violation="",
    moves=(SeenMove("Failover", "preferred", "spare"),),
    lost=(),
    dual_active=0,
    dual_served=0,
    outage_ms=900.0,
    reasons=("NotInSynchronousSet",),
)
STRICT = parse(
    [{"at-ms": 0, "wait": 1}],
    moves=[{"type": ["Failover", "Switchover"], "from": "preferred", "to": "spare"}],
    **{"holds-because": "NotInSynchronousSet", "max-outage-ms": {"regional": 1000}},
).expect


def failed(evidence: Evidence, expect: Any = STRICT, profile: str = "regional") -> list[str]:
    return [check.what for check in judge(expect, evidence, profile) if not check.passed]


def test_a_run_as_expected_passes_every_check() -> None:
    assert failed(GOOD) == []
    assert len(judge(STRICT, GOOD, "regional")) == 9


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"violation": "I1: two leases"}, "invariants I1-I11"),
        ({"stopped": "waited", "ended": False}, "steps"),
        ({"stopped": "waited"}, "end"),
        ({"lost": (7,)}, "lost writes"),
        ({"dual_active": 1}, "dual active"),
        ({"dual_served": 1}, "dual served"),
        ({"moves": ()}, "moves"),
        ({"moves": (SeenMove("Failback", "preferred", "spare"),)}, "moves"),
        ({"moves": (SeenMove("Failover", "spare", "preferred"),)}, "moves"),
        ({"moves": GOOD.moves * 2}, "moves"),
        ({"reasons": ("Serving",)}, "reason NotInSynchronousSet"),
        ({"outage_ms": 1000.5}, "outage"),
    ],
)
def test_what_is_not_as_expected_fails_its_check(changed: dict[str, Any], what: str) -> None:
    assert what in failed(replace(GOOD, **changed))


def test_more_moves_than_allowed_fail_and_fewer_do_not() -> None:
    loose = parse([{"at-ms": 0, "wait": 1}], moves="left out", **{"max-moves": 1}).expect
    assert failed(GOOD, loose) == []
    assert failed(replace(GOOD, moves=GOOD.moves * 2), loose) == ["moves"]


def test_an_outage_limit_counts_for_its_profile_alone() -> None:
    assert failed(replace(GOOD, outage_ms=5000.0), profile="wan") == []


def test_an_outage_counts_from_the_last_acknowledgement_before_the_fault_to_the_next_or_the_end() -> None:
    ms = 1_000_000
    assert longest_gap_ms([10 * ms, 90 * ms, 100 * ms], 20 * ms, 110 * ms) == 80
    assert longest_gap_ms([10 * ms, 30 * ms], 20 * ms, 110 * ms) == 80
    assert longest_gap_ms([], 20 * ms, 110 * ms) == 90


# -- steps and conditions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "lacking"),
    [
        ({"active-is": "spare"}, "east acknowledges writes"),
        ({"active-is": "nobody"}, "east acknowledged a write within the last second"),
        ({"serving": False}, "writes acknowledged within the last second"),
        ({"set-is": ["preferred"]}, "the synchronous set is east, west"),
        ({"standby-promotable": "preferred"}, "east is Active"),
        ({"operation-ended": "Refused"}, "the switchover ended as Succeeded"),
        ({"holds-because": "NoThirdVoter"}, "no reason NoThirdVoter has been told"),
    ],
    ids=lambda value: str(value),
)
def test_a_condition_that_does_not_hold_fails_its_step_within_its_bound(
    condition: dict[str, Any], lacking: str
) -> None:
    ask = {"at-ms": 0, "switchover": {"target": "preferred"}}
    played = play_file(parse([ask, {"after": condition, "within-ms": 3000, "wait": 1}]))
    failures = [check for check in played.checks if not check.passed]
    assert [check.what for check in failures] == ["steps", "end"]
    assert lacking in failures[0].detail
    assert played.simulated_ms < 4000


def test_conditions_that_hold_let_the_run_go_on() -> None:
    condition = {"active-is": "preferred", "serving": True, "set-is": ["preferred", "spare"]}
    conditions = [condition, {"standby-promotable": "spare"}, {"operation-ended": "Succeeded"}]
    ask = {"at-ms": 0, "switchover": {"target": "preferred"}}
    assert play_file(parse([ask, *({"after": c, "wait": 1} for c in conditions)])).problems == ()


TARGETS: dict[Verb, Any] = {
    Verb.KILL: ["spare", "witness", "manager"],
    Verb.FREEZE: ["spare", "witness", "manager"],
    Verb.CUT_OFF: ["witness", "manager"],
    Verb.CUT: {"from": "preferred", "to": ["witness", "manager"], "one-way": True},
    Verb.HOLD_REPLICATION: True,
    Verb.HOLD_APPLY: "spare",
    Verb.PAUSE_MANAGER: True,
}


@pytest.mark.parametrize("fault", TAKEN_BACK_BY)
def test_every_fault_is_made_and_taken_back(fault: Verb) -> None:
    back = TAKEN_BACK_BY[fault]
    steps = [{"at-ms": 0, fault.value: TARGETS[fault]}, {"wait": 1000}, {back.value: TARGETS[fault]}, {"wait": 1000}]
    # Site and witness lost at once leave no majority: the active one may have fenced itself and come back.
    played = play_file(parse(steps))
    assert played.problems == ()


def test_a_killed_site_takes_no_part_until_it_is_started() -> None:
    steps = [
        {"at-ms": 0, "kill": "preferred"},
        {"after": {"active-is": "spare", "serving": True}, "wait": 1000},
        {"start": "preferred"},
    ]
    end = {"active-at": "spare", "standby-promotable": "preferred"}
    moved = {"type": "Failover", "from": "preferred", "to": "spare"}
    assert play_file(parse(steps, moves=[moved], **{"finally": end})).problems == ()
    assert [c.what for c in play_file(parse(steps, **{"finally": end})).checks if not c.passed] == ["moves"]


def test_a_cut_one_way_drops_one_direction() -> None:
    def outage_ms(one: str, other: str) -> float:
        link = {"from": one, "to": ["witness", "manager"] if other == "witness" else other, "one-way": True}
        return play_file(parse([{"at-ms": 0, "cut": link}, {"wait": 900}, {"mend": link}])).evidence.outage_ms

    # A write needs both: the way there for the data, the way back for the receipt.
    assert outage_ms("preferred", "spare") > 800
    assert outage_ms("spare", "preferred") > 800
    assert outage_ms("preferred", "witness") < 100


def test_databases_that_die_and_semi_sync_that_is_off_are_mended_by_graf() -> None:
    steps = [{"at-ms": 0, "semi-sync-off": "preferred"}, {"wait": 2000}, {"kill-database": "spare"}, {"wait": 1000}]
    assert play_file(parse(steps)).problems == ()


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def cli() -> Typer:
    app = Typer(pretty_exceptions_enable=False)
    app.command("regress")(regress)
    return app


def test_the_command_shows_a_row_per_scenario(cli: Typer) -> None:
    result = CliRunner().invoke(cli, ["operator-at-wrong-side", "github-2018"])
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split() for line in result.output.splitlines() if line[:1].isalpha()}
    assert rows["operator-at-wrong-side"][2:4] == ["pass", "none"]
    assert "NotInSynchronousSet" in rows["operator-at-wrong-side"]
    assert rows["github-2018"][3:5] == ["Failover", "preferred->spare"]


def test_the_command_tells_the_story_and_plays_another_profile(cli: Typer) -> None:
    result = CliRunner().invoke(cli, ["github-2018", "--profile", "metro", "--story"])
    assert result.exit_code == 0
    assert "SCENARIO   cut-off preferred" in result.output
    assert "WINS epoch" in result.output
    assert "metro" in result.output


def test_the_command_ends_with_failure_and_says_what_was_not_as_expected(
    cli: Typer, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote_without_the_relay_log(monkeypatch)
    result = CliRunner().invoke(cli, ["relay-log-discard"])
    assert result.exit_code == 1
    assert "FAIL" in result.output
    assert "I2" in result.output


def test_the_command_gives_json_with_every_check(cli: Typer) -> None:
    result = CliRunner().invoke(cli, ["github-2018", "--json"])
    (values,) = json.loads(result.output)
    assert values["passed"] is True
    assert values["moves"][0] == {"type": "Failover", "from": "preferred", "to": "spare"}
    assert values["lost"] == values["dualActive"] == 0
    assert 0 < values["outageMs"] < 3000
    assert {check["what"] for check in values["checks"]} >= {"invariants I1-I11", "lost writes", "moves", "end"}


def test_a_name_that_is_not_there_is_refused_with_those_that_are(cli: Typer) -> None:
    result = CliRunner().invoke(cli, ["nope"])
    assert isinstance(result.exception, UnknownScenarioError)
    assert "github-2018" in result.exception.remedy


def test_a_check_is_a_plain_value() -> None:
    assert Check("what", passed=True, detail="") == Check("what", passed=True, detail="")

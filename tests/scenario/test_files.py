"""Scenario files: the known disasters are sound; a bad file says what is wrong, where, and how to mend it."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from graf.scenario.expect import Expect
from graf.scenario.model import ScenarioFile
from graf.scenario.steps import TAKEN_BACK_BY, Action, After, Verb
from graf.shell.scenarios import ScenarioError, builtin_scenarios, load_scenario, parse_scenario

DISASTERS = {
    "github-2018",
    "relay-log-discard",
    "semi-sync-fallback",
    "replication-only-partition",
    "flapping-11s-5s",
    "lease-lost-in-recovery",
    "manager-and-active-lost-together",
    "coordinator-paused",
    "both-sites-back-at-once",
    "operator-at-wrong-side",
    "standby-then-active-lost",
    "whole-machine-paused",
}

GOOD: dict[str, Any] = {
    "name": "good",
    "summary": "A site dies and comes back",
    "source": "https://example.org/report",
    "steps": [{"at-ms": 0, "kill": "preferred"}, {"after": {"active-is": "spare"}, "start": "preferred"}],
    "expect": {"max-moves": 2, "finally": {"active-at": "preferred"}},
}


def parse(document: Any, file: str = "good.yaml") -> ScenarioFile:
    return parse_scenario(yaml.safe_dump(document).encode(), file)


def refusal(document: Any, file: str = "good.yaml") -> str:
    with pytest.raises(ScenarioError) as caught:
        parse(document, file)
    return str(caught.value)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good file with one field set; None takes it out."""
    document = deepcopy(GOOD)
    holder: Any = document
    *parents, last = path.split("/")
    for part in parents:
        holder = holder[int(part)] if part.isdigit() else holder[part]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return document


def with_steps(*steps: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {**deepcopy(GOOD), "steps": list(steps), **others}


def test_the_known_disasters_are_there_and_run_in_both_worlds() -> None:
    found = builtin_scenarios()
    assert set(found) == DISASTERS
    assert all(set(scenario.worlds) == {"sim", "lab"} for scenario in found.values())


@pytest.mark.parametrize("name", sorted(DISASTERS))
def test_a_disaster_loses_nothing_and_names_its_public_report(name: str) -> None:
    scenario = builtin_scenarios()[name]
    assert scenario.expect.lost_writes == 0
    assert scenario.expect.dual_active == 0
    assert scenario.source.startswith("https://")
    assert scenario.expect.finally_.active_at == "preferred"


def test_steps_read_as_actions_in_one_shape() -> None:
    scenario = parse(
        with_steps(
            {"cut": {"from": "preferred", "to": ["manager", "witness"], "one-way": True}},
            {"mend": {"from": "preferred", "to": ["manager", "witness"], "one-way": True}},
            {"kill": ["preferred", "spare"]},
            {"start": ["preferred", "spare"]},
            {"hold-apply": "spare"},
            {"release-apply": "spare"},
            {"pause-manager": True},
            {"resume-manager": True},
            {"switchover": {"target": "spare"}},
            {"wait": 250},
        )
    )
    assert scenario.actions[0] == Action(Verb.CUT, ("preferred",), ("manager", "witness"), one_way=True)
    assert scenario.actions[2] == Action(Verb.KILL, ("preferred", "spare"))
    assert scenario.actions[4] == Action(Verb.HOLD_APPLY, ("spare",))
    assert scenario.actions[6] == Action(Verb.PAUSE_MANAGER)
    assert scenario.actions[8:] == (Action(Verb.SWITCHOVER, ("spare",)), Action(Verb.WAIT, ms=250))
    assert [str(action) for action in scenario.actions[:3]] == [
        "cut preferred to manager, witness",
        "mend preferred to manager, witness",
        "kill preferred, spare",
    ]


def test_every_verb_has_a_field_of_its_name() -> None:
    from graf.scenario.steps import Step

    fields = {field.alias for field in Step.model_fields.values()}
    assert {verb.value for verb in Verb} == fields - {"at-ms", "after", "within-ms"}
    assert set(TAKEN_BACK_BY.values()).isdisjoint(TAKEN_BACK_BY)


def test_conditions_of_a_step_are_told_in_words() -> None:
    step = parse(with_steps({"after": {"active-is": "spare", "set-is": ["spare"], "serving": True}, "wait": 1})).steps[
        0
    ]
    assert step.after is not None
    assert str(step.after) == "active-is spare and serving True and set-is {spare}"
    assert step.within_ms == 60_000


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (changed("sumary", "x"), ["good.yaml: sumary: unknown field", "known here:", "summary"]),
        (changed("steps/0/kil", "spare"), ["steps[0].kil: unknown field", "kill-database"]),
        (changed("expect", None), ["good.yaml: expect: is required", "add it: What must be true of the run."]),
        (changed("source", "my memory"), ["source: 'my memory' does not match", "write it in that form"]),
        (changed("profile", "lan"), ["profile: 'lan' is not allowed", "'metro', 'regional' or 'wan'"]),
        (changed("sites", 3), ["sites: 3:", "docs/reference/scenarios.md"]),
        (changed("steps/0/kill", "east"), ["steps[0].kill[0]: 'east' is not allowed", "'preferred'"]),
        (changed("steps/0/at-ms", "soon"), ["steps[0].at-ms: 'soon'"]),
        (changed("steps/0/wait", 5), ["steps[0]: has 2 verbs (kill, wait)", "give exactly one of"]),
        (changed("steps/0/kill", None), ["steps[0]: has no verb"]),
        (changed("steps/1/at-ms", 5), ["steps[1].at-ms: stands beside after", "give one of the two"]),
        (changed("steps/1/after", {}), ["steps[1].after: waits for nothing", "standby-promotable"]),
        (changed("steps/1/after/active-is", "west"), ["steps[1].after.active-is: 'west'"]),
        (changed("expect/moves", []), ["expect.moves: stands beside max-moves", "exactly these"]),
        (changed("expect/max-moves", None), ["expect.moves: is missing"]),
        (changed("expect/lost-writes", -1), ["expect.lost-writes: -1"]),
        (changed("expect/finally/active-at", "nobody"), ["expect.finally.active-at: 'nobody'"]),
        (changed("expect/holds-because", "not in the set"), ["expect.holds-because[0]", "does not match"]),
        (changed("worlds", ["sim"]), ["worlds-reason: is missing although a world is left out"]),
        (changed("worlds", ["moon"]), ["worlds[0]: 'moon'"]),
        (changed("witness", False), ["witness: the lab always has a witness", "worlds: [sim]"]),
        (changed("name", "other"), ["name: 'other' is not the name of the file", "other.yaml"]),
        (with_steps({"start": "spare"}), ["steps[0].start: takes back what was not done", "no kill to spare"]),
        (with_steps({"kill": "spare"}), ["steps[0].kill: is never taken back to spare", "add a step with start"]),
        (
            with_steps({"kill": "spare"}, {"kill": ["spare", "preferred"]}, {"start": ["spare", "preferred"]}),
            ["steps[1].kill: is done a second time to spare", "put a start between"],
        ),
        (
            with_steps({"hold-replication": True}),
            ["steps[0].hold-replication: is never taken back", "release-replication"],
        ),
        (
            with_steps({"cut": {"from": "spare", "to": "preferred"}}, {"mend": {"from": "preferred", "to": "spare"}}),
            ["steps[1].mend: takes back what was not done"],
        ),
        (
            with_steps({"at-ms": 900, "wait": 1}, {"at-ms": 800, "wait": 1}),
            ["steps[1].at-ms: 800 lies before the 900", "order of their times"],
        ),
        (
            with_steps({"after": {"operation-ended": "Refused"}, "wait": 1}),
            ["steps[0].after.operation-ended: nothing was asked for before"],
        ),
        (
            with_steps({"kill": "manager"}, {"start": "manager"}),
            ["steps[0].kill: manager and witness are one location in the lab", "pause-manager"],
        ),
        (
            with_steps({"cut": {"from": "spare", "to": "witness"}}, {"mend": {"from": "spare", "to": "witness"}}),
            ["steps[0].cut: manager and witness are one location"],
        ),
        (
            with_steps(
                {"kill": "witness"},
                {"start": "witness"},
                witness=False,
                worlds=["sim"],
                **{"worlds-reason": "no witness"},
            ),
            ["steps[0].kill: names the witness, and this group has none"],
        ),
    ],
)
def test_a_bad_file_is_refused_with_file_field_cause_and_fix(document: dict[str, Any], words: list[str]) -> None:
    text = refusal(document)
    assert text.startswith("good.yaml: ")
    assert [word for word in words if word not in text] == []
    assert all("; " in line for line in text.splitlines()), "every problem has a fix"


def test_the_good_file_that_the_bad_ones_are_made_from_is_good() -> None:
    assert parse(GOOD).name == "good"


def test_every_problem_of_a_file_is_told_at_once() -> None:
    document = changed("profile", "lan")
    document["summary"] = 5
    assert len(refusal(document).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name: [", "not valid YAML"),
        (b"name: a\nname: b\n", "the key name is given twice"),
        (b"", "holds 0 documents"),
        (b"--- {}\n--- {}\n", "holds 2 documents"),
        (b"- a\n", "is not an object"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_file_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ScenarioError, match=words) as caught:
        parse_scenario(content, "bad.yaml")
    assert "bad.yaml: " in str(caught.value)


def test_a_file_that_only_one_world_can_run_says_why() -> None:
    document = with_steps(
        {"kill": "manager"}, {"start": "manager"}, worlds=["sim"], **{"worlds-reason": "the witness lives there"}
    )
    assert parse(document).worlds == ("sim",)


def test_a_file_can_be_loaded_from_a_path_and_a_missing_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert load_scenario(path) == parse(GOOD)
    with pytest.raises(ScenarioError, match=r"none\.yaml: cannot be read: No such file"):
        load_scenario(tmp_path / "none.yaml")


def test_the_reference_page_has_every_field_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "scenarios.md").read_text()
    for heading, model in (("File", ScenarioFile), ("Step", After), ("Expect", Expect)):
        section = page.split(f"## {heading}\n")[1].split("\n## ")[0]
        rows = re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \|", section, re.MULTILINE)
        named = {name for row in rows for name in re.findall(r"`([a-z-]+)`", row)}
        expected = {str(field.alias) for field in model.model_fields.values()}
        assert named == expected | ({verb.value for verb in Verb} if heading == "Step" else set()), heading


def test_make_regressions_runs_all_of_them() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^REGRESSIONS := (.*)$", makefile, re.MULTILINE)
    assert set(line.split()) == DISASTERS

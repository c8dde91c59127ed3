"""Each planted bug is noticed, and leaves nothing behind."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from graf.api import values
from graf.core import (
    campaign,
    contender,
    handover,
    handover_rules,
    holder,
    lease,
    participant,
    site,
    syncset,
    view,
    voter,
    voterchange,
)
from graf.sim import ablate as ablation
from graf.sim import controller, database, gate, handle, manager, moves, returning, voting
from graf.sim.ablate import Result, ablate, ablate_bug, settings_of, summary
from graf.sim.bugs import ALL, BUGS, BY_NAME, UNSEEN
from graf.sim.bugs.bug import patched
from graf.sim.bugs.rules import COVERED, SILENT, SPARING, left_out, rule_ids
from graf.sim.monitors import INVARIANTS
from graf.sim.run import play
from graf.sim.settings import FAULTS, drawn

if TYPE_CHECKING:
    from graf.sim.bugs.bug import Bug

# Written by `graf sim ablate --windows tests/sim/ablate.json`. When the simulator's schedule changes, a seed may show
# something else: the test goes on for a few seeds, and when that is not enough the table has to be written anew.
WINDOWS: dict[str, int] = json.loads(Path(__file__).with_name("ablate.json").read_text(encoding="utf-8"))
TRIES = 12
PATCHED_MODULES = (
    values, campaign, contender, handover, handover_rules, holder, lease, participant, site, syncset, view, voter,
    voterchange, controller, database, gate, handle, manager, moves, returning, voting,
)  # fmt: skip


def everything_patchable() -> dict[str, Any]:
    """Every attribute of the modules and of their classes, and every function's defaults, by name."""
    found: dict[str, Any] = {}
    for module in PATCHED_MODULES:
        for name, value in vars(module).items():
            found[f"{module.__name__}.{name}"] = value
            if isinstance(value, type) and value.__module__ == module.__name__:
                found.update({f"{module.__name__}.{name}.{key}": item for key, item in vars(value).items()})
            found[f"{module.__name__}.{name}()"] = getattr(value, "__defaults__", None)
    return found


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_a_planted_bug_is_noticed(name: str) -> None:
    result = ablate_bug(name, TRIES, WINDOWS[name])
    assert result.caught, (
        f"{name} was not noticed in {TRIES} seeds from {WINDOWS[name]}: {result.violation}; run `graf sim ablate`"
    )
    assert result.invariant in BY_NAME[name].invariants


@pytest.mark.parametrize("bug", ALL, ids=lambda bug: bug.name)
def test_planting_changes_something_and_taking_out_leaves_nothing_behind(bug: Bug) -> None:
    before = everything_patchable()
    with bug.plant():
        planted = everything_patchable()
    after = everything_patchable()
    assert [key for key in before if before[key] is not planted[key]]
    assert before.keys() == after.keys()
    assert not [key for key in before if before[key] is not after[key]]


def test_a_bug_is_taken_out_when_a_run_fails() -> None:
    before = everything_patchable()
    with pytest.raises(ZeroDivisionError), BUGS[0].plant():
        raise ZeroDivisionError
    assert all(before[key] is value for key, value in everything_patchable().items())


def test_every_bug_has_a_seed_that_shows_it() -> None:
    assert set(WINDOWS) == {bug.name for bug in BUGS}
    assert len(BUGS) >= 55
    assert len(BY_NAME) == len(ALL)


def test_a_bug_that_is_not_expected_to_show_says_what_else_holds_the_invariant() -> None:
    for bug in UNSEEN:
        assert len(bug.unseen) > 40
        for named in re.findall(r"[a-z]+(?:-[a-z:]+){2,}", bug.unseen):
            assert named in BY_NAME


def test_bugs_name_known_invariants_and_faults() -> None:
    for bug in ALL:
        assert set(bug.invariants) <= set(INVARIANTS)
        assert set(bug.needs) <= set(FAULTS)
        assert bug.summary.endswith(".")


def test_every_rule_is_left_out_by_a_bug_or_is_silent_for_a_stated_reason() -> None:
    planted = {rule for rule in rule_ids() if rule.replace(":", "-without:") in BY_NAME}
    assert planted | set(SILENT) == set(rule_ids())
    assert not planted & set(SILENT)
    assert all(silent.why and not silent.pair for silent in SPARING)


@pytest.mark.parametrize("silent", COVERED, ids=lambda silent: silent.rule)
def test_a_second_line_names_the_bug_in_which_the_first_is_gone(silent: Any) -> None:
    assert silent.why
    assert silent.pair in BY_NAME


@pytest.mark.parametrize("rule", sorted(SILENT))
def test_runs_stay_green_without_a_silent_rule(rule: str) -> None:
    with patched(left_out(rule)):
        for seed in range(3):
            assert play(drawn(seed)).violation == ""


@pytest.mark.parametrize(
    "rule",
    ["contender:back-off", "contender:fenced-first", "contender:holder-may-live", "contender:in-synchronous-set"],
)
def test_runs_differ_without_a_silent_rule_though_they_stay_green(rule: str) -> None:
    """A rule that no run reaches would be silent for the wrong reason."""
    whole = [play(drawn(seed)).trace for seed in range(12)]
    with patched(left_out(rule)):
        assert [play(drawn(seed)).trace for seed in range(12)] != whole


def test_a_bug_that_needs_faults_is_played_with_those_alone() -> None:
    bug = replace(BUGS[0], needs=("change-voters", "slow-disk"))
    settings = settings_of(bug, 4)
    assert settings.faults == ("change-voters", "slow-disk")
    assert settings.spare_witnesses


def test_a_run_that_fails_without_the_bug_too_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(play(drawn(0)), invariant="I2", violation="I2: lost")
    monkeypatch.setattr(ablation, "play", lambda _settings: broken)
    result = ablate_bug(BUGS[0].name, 3)
    assert not result.caught
    assert result.violation == "seed 0 is red without the bug too: I2: lost"


def test_a_bug_that_nobody_notices_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    green = play(drawn(0))
    monkeypatch.setattr(ablation, "play", lambda _settings: green)
    result = ablate_bug(BUGS[0].name, 3)
    assert (result.caught, result.seed, result.seeds) == (False, -1, 3)


def test_the_summary_counts_what_was_caught_and_names_what_was_missed() -> None:
    results = [
        Result("a", "A.", True, "I1", 4, 5, "I1: x"),
        Result("b", "B.", True, "I2", 0, 1, "I2: x"),
        Result("c", "C.", False, "", -1, 9, ""),
    ]
    told = summary(results)
    assert (told["bugs"], told["caught"], told["missed"]) == (3, 2, ["c"])
    assert (told["median_seeds"], told["max_seeds"]) == (3, 5)


def test_results_come_in_the_order_of_the_names_and_can_come_from_other_processes() -> None:
    seen: list[str] = []
    names = ["off-by-one-majority", "answer-before-the-disk"]
    results = ablate(names, 5, lambda result: seen.append(result.bug))
    assert [result.bug for result in results] == seen == names
    again = pickle.loads(pickle.dumps(partial(ablate_bug, seeds=5)))
    assert again(names[0]) == results[0]

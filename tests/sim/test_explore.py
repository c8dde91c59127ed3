"""The exhaustive check is complete and green on the core as it is, and red for every broken variant."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from graf.core.voter import CAMPAIGN_RULES, Asked, Refusal
from graf.sim.explore import command, report
from graf.sim.explore.configurations import MOST_STATES, Configuration, lease, synchronous_set, voters
from graf.sim.explore.patches import Patch, without
from graf.sim.explore.recovery import Recovery
from graf.sim.explore.search import search
from graf.sim.explore.variants import VARIANTS, Variant

if TYPE_CHECKING:
    from graf.sim.explore.values import Result


def by_kind(configuration: Configuration) -> str:
    return configuration.name


@pytest.mark.parametrize("configuration", report.configurations("quick"), ids=by_kind)
def test_every_state_within_the_quick_bounds_keeps_the_invariants(configuration: Configuration) -> None:
    found = report.run(configuration)
    assert found.result.violation is None, "\n".join(found.result.violation.steps)
    assert found.result.complete
    assert found.result.states > 5_000, "a search that reaches next to nothing proves nothing"


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_a_broken_variant_ends_in_a_violation(variant: Variant) -> None:
    found = report.run_variant(variant, most_states=150_000)
    assert found.caught, f"{variant.name}: {found.result}"
    violation = found.result.violation
    assert violation is not None
    assert violation.steps[0].startswith("1. ")
    assert violation.steps[-1] == f"=> {violation.invariant}"
    assert len(violation.steps) == found.result.depth + 1, "breadth first: one step for each level"


def test_two_searches_find_the_same() -> None:
    def play() -> Result:
        return search("again", lease(1, 0).world(), MOST_STATES)

    assert play() == play()


def test_a_search_that_is_cut_short_says_that_it_is_incomplete() -> None:
    result = report.run(lease(1, 0), most_states=100).result
    assert not result.complete
    assert result.violation is None


def test_a_longer_lease_in_ticks_only_adds_states() -> None:
    short, long = (report.run(lease(1, 0, ticks=ticks)).result for ticks in (2, 3))
    assert short.complete
    assert long.complete
    assert short.violation is long.violation is None
    assert long.states > short.states


def test_a_group_whose_voters_never_grant_again_is_seen_to_be_stuck() -> None:
    def never(_asked: Asked) -> Refusal:
        return Refusal("Never")

    world = voters(1).world(Patch(rules=(*CAMPAIGN_RULES, ("never", never))))
    visited: dict[tuple[int, ...], tuple[int, ...] | None] = {}
    assert search("stuck", world, MOST_STATES, None, visited).complete
    assert Recovery(world).stuck(visited) == world.first


def test_both_sites_can_win_in_every_configuration() -> None:
    for configuration in (lease(1, 0), synchronous_set(1, 0), voters(2)):
        world = configuration.world()
        winners: set[str] = set()
        level, seen = [world.first], {world.first}
        while level and winners != {"east", "west"}:
            found = []
            for state in level:
                for _event, after, broken in world.followers(state):
                    assert not broken
                    if after not in seen:
                        seen.add(after)
                        found.append(after)
                        held = [world.nodes[n] for n in after[: world.width]]
                        winners |= {n.name for n in held if n.part and n.part.lease and n.part.lease.epoch > 1}
            level = found
        assert winners == {"east", "west"}, f"{configuration.name}: only {winners}"


def test_a_rule_that_does_not_exist_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="no rule of the voter"):
        without("no-such-rule")


def run_command(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(command.explore)
    done = CliRunner().invoke(app, [*arguments])
    return done.exit_code, done.stdout


def test_the_command_tells_a_counterexample_step_by_step() -> None:
    code, out = run_command("--only", "hold-without-drift")
    assert code == 0
    assert "=> I1: east and west both hold a valid lease" in out
    code, out = run_command("--only", "hold-without-drift", "--json")
    answer = json.loads(out)
    assert code == 0
    assert [v["caught"] for v in answer["variants"]] == [True]
    assert answer["variants"][0]["steps"][-1].startswith("=> I1")


def test_the_command_fails_when_a_variant_is_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = replace(VARIANTS[0], name="not-broken", patch=Patch(), configuration=lease(1, 0))
    monkeypatch.setattr(report, "VARIANTS", (whole,))
    monkeypatch.setattr(report, "BOUNDS", {"quick": (lease(0, 0),)})
    code, out = run_command("--quick", "--json")
    answer = json.loads(out)
    assert code == 1
    assert answer["complete"] is True
    assert answer["variants"][0]["caught"] is False


def test_the_command_fails_on_a_violation_and_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "VARIANTS", ())
    monkeypatch.setattr(report, "BOUNDS", {"quick": (lease(1, 0),)})
    whole = Configuration.world
    monkeypatch.setattr(Configuration, "world", lambda self: whole(self, Patch(hold_without_drift=True)))
    code, out = run_command("--quick")
    assert code == 1
    assert "=> I1: east and west both hold a valid lease" in out

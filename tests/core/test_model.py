"""The model is green over many runs, and goes red for each planted bug."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from graf.api.values import Electorate, VoterList
from graf.core.voter import CAMPAIGN_RULES, CampaignRule

sys.path.insert(0, str(Path(__file__).parent))
import model

SEEDS = int(os.environ.get("GRAF_MODEL_SEEDS", "600"))
STEPS = 1500


class OffByOne(VoterList):
    """Planted: half of the voters is taken for a majority."""

    @property
    def majority(self) -> int:
        return len(self.members) // 2


def without(rule: str) -> tuple[CampaignRule, ...]:
    rules = tuple(r for r in CAMPAIGN_RULES if r[0] != rule)
    assert len(rules) == len(CAMPAIGN_RULES) - 1, f"no rule is called {rule}"
    return rules


# Each bug with a window of seeds that shows it. When a change of the core or of the model moves the runs, look for
# a new window with `model.first_violation(bugs, range(5000), STEPS)`; never drop the bug.
PLANTED = {
    "rule no-record-no-vote left out": (model.Bugs(rules=without("no-record-no-vote")), 270, "I"),
    "rule epoch-rises left out": (model.Bugs(rules=without("epoch-rises")), 0, "I5"),
    "rule holder-may-live left out": (model.Bugs(rules=without("holder-may-live")), 0, "I1"),
    "rule in-synchronous-set left out": (model.Bugs(rules=without("in-synchronous-set")), 0, "I11"),
    "lease from the receive time": (model.Bugs(lease_from_receive_time=True), 1995, "I1"),
    "majority off by one": (model.Bugs(voters=Electorate(OffByOne(1, model.NODES))), 0, "I"),
    "campaign answered right after a restart": (model.Bugs(no_restart_silence=True), 0, "I1"),
    "promise not on disk": (model.Bugs(promise_not_durable=True), 0, "I"),
    "hold time without drift": (model.Bugs(voter_drift_ppm=0), 420, "I1"),
    "set shrunk before a majority stored it": (model.Bugs(shrunk_before_stored=True), 5, "I2"),
    "set grown before the site caught up": (model.Bugs(grown_before_caught_up=True), 40, "I2"),
    "set told before its member is required": (model.Bugs(told_before_required=True), 0, "I2"),
    "set reset by the grant": (model.Bugs(set_reset_by_grant=True), 25, "I2"),
    "unfinished proposals forgotten": (model.Bugs(doubtful_forgotten=True), 780, "I2"),
    "adopted set taken for the newest": (model.Bugs(adopted_without_doubt=True), 1230, "I2"),
    "the same epoch asked for twice": (model.Bugs(epoch_asked_twice=True), 2000, "I1"),
    "contest right after the own restart": (model.Bugs(contends_in_own_silence=True), 3150, "I1"),
    "majority of the visible voters": (model.Bugs(visible_majority=True), 0, ""),
    "own vote first": (model.Bugs(own_vote_first=True), 0, "own vote first"),
    "gate left open after a release": (model.Bugs(gate_open_after_release=True), 50, "I1"),
}
WINDOW = 20


def test_the_core_keeps_the_invariants_in_every_run() -> None:
    violation = model.first_violation(model.Bugs(), range(SEEDS), STEPS)
    assert violation is None, f"seed {violation[0]}: {violation[1]}" if violation else ""


def test_runs_are_repeatable_and_do_something() -> None:
    def play(seed: int) -> tuple[list[tuple[int, str]], frozenset[int], int]:
        run = model.Model(seed)
        run.run(STEPS)
        return run.wins, run.acknowledged, run.now_ms

    assert play(2) == play(2)
    runs = [play(seed) for seed in range(50)]
    moves = sum(1 for wins, _, _ in runs if {site for _, site in wins} == {"east", "west"})
    assert moves >= 5, f"only in {moves} of 50 runs both sites held the group"
    assert sum(len(acknowledged) for _, acknowledged, _ in runs) >= 250, "writes must be acknowledged"


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_seen(name: str) -> None:
    bugs, first, expected = PLANTED[name]
    seeds = range(first, first + WINDOW)
    assert model.first_violation(model.Bugs(), seeds, STEPS) is None, (
        "the unbroken code must be green on the same seeds"
    )
    violation = model.first_violation(bugs, seeds, STEPS)
    assert violation is not None, f"{name}: no invariant went red on seeds {seeds}"
    assert violation[1].startswith(expected), violation

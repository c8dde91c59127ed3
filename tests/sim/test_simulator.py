"""The simulator is deterministic, keeps every invariant, reaches everything it must, and makes a failing run short."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import pytest

from graf.core import voter
from graf.sim import coverage
from graf.sim.campaign import chunks, merged, play_chunk
from graf.sim.network import Network
from graf.sim.run import play, play_seed, shrink
from graf.sim.settings import FAULTS, HARMLESS, drawn

SEEDS = int(os.environ.get("GRAF_SIM_SEEDS", "1500"))


@pytest.mark.timeout(600)
def test_a_campaign_violates_nothing_and_reaches_everything() -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        campaign = merged(pool.imap(play_chunk, chunks(0, SEEDS)))
    assert campaign.violations == []
    assert campaign.unreached == []
    assert campaign.counts["takeover"] > SEEDS // 20, "groups must move for the invariants to mean anything"
    assert campaign.counts["win joint"] > SEEDS // 50


def test_the_same_seed_gives_the_same_trace_whatever_the_hash_seed_and_the_workers() -> None:
    program = (
        "from graf.sim.campaign import chunks, merged, play_chunk; import json;"
        "print(json.dumps(merged(map(play_chunk, chunks(40, 30))).summary()))"
    )
    hashes = set()
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=100, check=True
        )
        hashes.add(json.loads(done.stdout)["trace_hash"])
    assert len(hashes) == 1
    assert merged(map(play_chunk, chunks(40, 30))).summary()["trace_hash"] in hashes


def test_telling_the_story_changes_nothing() -> None:
    quiet, told = play_seed(11), play_seed(11, tell=True)
    assert quiet.trace == told.trace
    assert quiet.story == ()
    assert any(" WINS epoch 1 " in line for line in told.story)
    assert sum("FAULT" in line for line in told.story) == len(told.faults)


def test_another_seed_is_another_run() -> None:
    assert len({play_seed(seed).trace for seed in range(20)}) == 20


def test_every_fault_has_an_implementation_and_the_harmless_ones_are_among_them() -> None:
    assert set(FAULTS) > HARMLESS
    assert {name.removeprefix("fault ") for name in coverage.expected() if name.startswith("fault ")} == set(FAULTS)


def test_a_thing_that_was_not_reached_is_named() -> None:
    counts = dict.fromkeys(coverage.expected(), 1)
    assert coverage.unreached(counts) == []
    counts["rule holder-may-live"] = 0
    del counts["fault flap-link"]
    assert coverage.unreached(counts) == ["fault flap-link", "rule holder-may-live"]


def test_a_failing_run_is_made_short_and_the_short_one_fails_in_the_same_way() -> None:
    def too_early(state: voter.VoterState, group: str) -> int:
        promise = state.promises[group]
        return state.answered_ns.get(group, state.started_ns) + promise.ttl_ns // 4

    with mock.patch.object(voter.VoterState, "free_at_ns", too_early):
        seed, outcome = next(
            (seed, outcome) for seed in range(400) if (outcome := play_seed(seed)).invariant and len(outcome.faults) > 3
        )
        shorter = shrink(drawn(seed), outcome.invariant)
        again = play(shorter)
    assert again.invariant == outcome.invariant
    assert len(again.faults) < len(outcome.faults)
    assert play(shorter).invariant == "", "without the planted bug the short run is green"


def test_what_a_shortened_run_leaves_out_does_not_happen() -> None:
    settings = drawn(11)
    every = [number for number, _when, _name, _target in play(settings).faults]
    assert every
    assert play(replace(settings, skip=frozenset(range(1000)))).faults == ()


def test_a_message_of_a_dead_sender_is_void_once_its_successor_was_heard() -> None:
    from graf.sim.kernel import Clock, Kernel, Process
    from graf.sim.settings import Streams

    kernel = Kernel()
    network = Network(kernel, Streams(1).schedule, (1_000, 2_000))
    clock = Clock(kernel, 0, 0)
    east, west = Process(kernel, "east", clock), Process(kernel, "west", clock)
    got: list[str] = []
    network.modes.reorder = True
    network.modes.slower = 100
    network.send(east, west, lambda _src, text: got.append(text), "old")
    east.die()
    east.born()
    network.modes.slower = 1
    network.send(east, west, lambda _src, text: got.append(text), "new")
    kernel.run(10**9)
    assert got == ["new"]


def test_groups_that_are_only_copied_keep_every_invariant_and_lose_no_more_than_declared() -> None:
    part = play_chunk((0, 60), copies=True)
    assert part.violations == ()
    assert part.counts["rule keep-current-copies"]
    again = play_seed(7, copies=True)
    assert (again.trace, again.invariant) == (play_seed(7, copies=True).trace, "")
    assert again.trace != play_seed(7).trace

"""Hand-overs in every order of events: safe and never hanging, and each safeguard is needed for that."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from graf.core import handover_effects as fx
from graf.core.handover_rules import ORDER_RULES, RELEASE_RULES, Phase

sys.path.insert(0, str(Path(__file__).parent))
from handover_world import Search, ViolationError, mutated

LATE = "attempt is None or attempt.number != number or state.phase not in phases"

# What is taken out -> the piece of text, what stands there instead, what the search finds.
MUTATIONS = {
    "an event of an earlier attempt counts": (
        LATE,
        "attempt is None or state.phase not in phases",
        "released|asked before|goes on",
    ),
    "an event counts in any phase": (LATE, "attempt is None or attempt.number != number", "."),
    "a release is broken off when the lease is lost": (
        "if attempt is None or state.phase is Phase.RELEASING:",
        "if attempt is None:",
        "ended with",
    ),
    "another operation's answer counts": (
        "if (operation, epoch) != (attempt.order.operation, attempt.epoch):",
        "if False:",
        "proved nothing",
    ),
    "clients are let in without looking at the lease": (
        "    if lease_epoch != attempt.epoch:\n        return _not_released(state, config, attempt, attempt.failure",
        "    if False:\n        return _not_released(state, config, attempt, attempt.failure",
        "goes on in epoch 3",
    ),
    "rolled back without looking at the lease": (
        "lost = lease_epoch != attempt.epoch",
        "lost = False",
        "goes on in epoch 3",
    ),
    "released without standing down": (
        "(StandDown(), SendRelease(attempt.number, release))",
        "(SendRelease(attempt.number, release),)",
        "still claimed",
    ),
    "the roll-back that gives way is not told": (
        "(Abandon(), report, *effects)",
        "(Abandon(), *effects)",
        "ended with",
    ),
    "a lost lease is not told": (
        "return _ended(state, report), (Abandon(), report)",
        "return _ended(state, report), (Abandon(),)",
        "ended with",
    ),
    "an operation may be asked for again": ("for report in state.ended:", "for report in ():", "ended with|proved"),
    "the successor's time has no end": (
        "return state, (ShutTraffic(number), AwaitProof(number))",
        "return state, (ShutTraffic(number),)",
        "hangs|ended with",
    ),
}


def test_every_order_of_events_is_safe_and_comes_to_an_end() -> None:
    search = Search()
    states = search.run()
    assert states > 1_000
    effects = {cls.__name__ for cls in vars(fx).values() if isinstance(cls, type) and cls.__module__ == fx.__name__}
    assert {phase.value for phase in Phase} | effects <= search.reached, "something was never reached"


@pytest.mark.parametrize("name", [name for name, _ in RELEASE_RULES])
def test_without_a_rule_something_is_released_that_must_not_be(name: str) -> None:
    found = {
        "lease-is-the-same": "under the lease of",
        "gate-is-shut": "gate open",
        "successor-has-everything": "proved nothing",
    }
    with pytest.raises(ViolationError, match=found[name]):
        Search(release_rules=tuple(rule for rule in RELEASE_RULES if rule[0] != name)).run()


def test_two_orders_at_once_leave_one_without_an_end() -> None:
    with pytest.raises(ViolationError, match="ended with"):
        Search(order_rules=tuple(rule for rule in ORDER_RULES if rule[0] != "one-at-a-time")).run()


@pytest.mark.parametrize("name", MUTATIONS)
def test_each_safeguard_is_needed(name: str) -> None:
    old, new, finds = MUTATIONS[name]
    with pytest.raises(ViolationError, match=finds):
        Search(machine=mutated(old, new)).run()

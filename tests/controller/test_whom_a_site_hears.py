"""Whose word a site listens to, by what its voter has on disk and what its peers tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from graf.api.timing import PROFILES
from graf.api.values import Electorate, SyncSet, VoterList
from graf.controller.protocol import Protocol
from graf.core.voter import Promise

IN_FORCE = Electorate(VoterList(1, ("east", "west", "north", "w1", "w2")))
DECLARED = VoterList(2, ("east", "west", "north", "w3", "w4"))
PROMISE = Promise("vcu-db", 4, "east", PROFILES["metro"].ttl_ns, IN_FORCE, SyncSet())


@pytest.mark.parametrize("promise", [PROMISE, None], ids=["by its own record", "by its peers' word"])
def test_a_site_hears_the_voters_in_force_and_those_declared(promise: Promise | None) -> None:
    agent = SimpleNamespace(
        config=SimpleNamespace(group="vcu-db", voters=DECLARED),
        voting=SimpleNamespace(promise=lambda _: promise),
        told_voters=lambda: {"east": IN_FORCE} if promise is None else {},
    )
    assert set(Protocol(cast(Any, agent)).voters) == {*IN_FORCE.members, *DECLARED.members}


def test_a_site_hears_the_newcomers_of_a_change_that_a_voter_is_bound_to() -> None:
    bound = Electorate(IN_FORCE.current, VoterList(3, ("east", "west", "north", "w1", "w5")))
    agent = SimpleNamespace(
        config=SimpleNamespace(group="vcu-db", voters=DECLARED),
        voting=SimpleNamespace(promise=lambda _: PROMISE),
        told_voters=lambda: {"w2": bound, "w4": Electorate(IN_FORCE.current, VoterList(4, ("east", "stranger")))},
    )
    assert set(Protocol(cast(Any, agent)).voters) == {*IN_FORCE.members, *DECLARED.members, "w5"}

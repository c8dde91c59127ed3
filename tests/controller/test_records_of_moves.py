"""What a win is recorded as: who was active before it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from graf.api.timing import PROFILES
from graf.api.values import Electorate, Reason, SetVersion, SyncSet, VoterList
from graf.controller.protocol import Protocol
from graf.core.view import Contend, GroupConfig
from graf.core.voter import Promise

VOTERS = VoterList(1, ("east", "west", "witness"))
BOTH = SyncSet(SetVersion(7, 2), frozenset({"east", "west"}))


def contends(promise: Promise, unserved: tuple[int, tuple[str, int]] | None) -> tuple[str, int]:
    """Whom west believes to follow on when it asks for the next epoch."""
    config = GroupConfig(
        "vcu-db",
        "west",
        ("east", "west"),
        VOTERS,
        PROFILES["metro"],
        lossless=True,
        automatic=True,
        initial_site="east",
        components=(),
    )
    agent = SimpleNamespace(
        config=config,
        site="west",
        last_active=("east", 7),
        unserved=unserved,
        voting=SimpleNamespace(promise=lambda _: promise, state=lambda _: SimpleNamespace(answered_ns={})),
        links=SimpleNamespace(send=lambda *_: None),
        wake=lambda: None,
    )
    protocol = Protocol(cast(Any, agent))
    protocol.contend(Contend(9, BOTH, Electorate(VOTERS)), (Reason("Resume"),))
    previous = protocol._evidence.previous
    protocol.give_up()
    return previous


def promised(site: str, epoch: int) -> Promise:
    return Promise("vcu-db", epoch, site, PROFILES["metro"].ttl_ns, Electorate(VOTERS), BOTH)


@pytest.mark.parametrize(
    ("promise", "unserved", "previous"),
    [
        (promised("east", 7), None, ("east", 7)),
        (promised("west", 8), None, ("west", 8)),  # it served epoch 8 itself: it resumes
        (promised("west", 8), (8, ("east", 7)), ("east", 7)),  # it won epoch 8 and lost its lease before it served
        (promised("west", 8), (6, ("east", 5)), ("west", 8)),  # what it did not serve is long over
    ],
)
async def test_a_site_that_won_and_never_served_takes_over_from_the_one_before(
    promise: Promise, unserved: tuple[int, tuple[str, int]] | None, previous: tuple[str, int]
) -> None:
    assert contends(promise, unserved) == previous

"""One voter, several groups: what one of them waits for, the others do not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.core.messages import Campaign, CampaignAnswer, Claim
from graf.core.voter import Promise
from graf.shell.promises import PromiseStore
from graf.shell.voting import Voting

VOTERS = Electorate(VoterList(1, ("east", "west", "witness")))
TTL_NS = 700_000_000


class SlowStore(PromiseStore):
    """A disk that does not answer for the groups that are held."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.held: dict[str, threading.Event] = {}
        self.reached: dict[str, threading.Event] = {}
        self.saved: list[str] = []

    def hold(self, group: str) -> None:
        self.held[group], self.reached[group] = threading.Event(), threading.Event()

    def save(self, promise: Promise) -> None:
        if promise.group in self.held:
            self.reached[promise.group].set()
            assert self.held[promise.group].wait(60)
        super().save(promise)
        self.saved.append(promise.group)


@pytest.fixture
def store(tmp_path: Path) -> SlowStore:
    return SlowStore(tmp_path / "promises")


@pytest.fixture
async def voting(store: SlowStore) -> AsyncIterator[Voting]:
    voting = Voting("witness", store)
    yield voting
    for released in store.held.values():
        released.set()
    voting.close()


def first(group: str, site: str = "east") -> Campaign:
    return Campaign(group, 1, TTL_NS, VOTERS, SyncSet(SetVersion(1, 0), frozenset({site})), lossless=True)


async def being_written(store: SlowStore, voting: Voting, group: str) -> asyncio.Task[object]:
    """A campaign whose promise is on its way to the disk."""
    store.hold(group)
    asked = asyncio.create_task(voting.ask("east", first(group)))
    assert await asyncio.to_thread(store.reached[group].wait, 60)
    return asked


async def test_a_lease_is_renewed_while_another_groups_promise_is_being_written(
    store: SlowStore, voting: Voting
) -> None:
    await voting.ask("west", first("ims-db", "west"))
    asked = await being_written(store, voting, "vcu-db")
    renewed = voting.claim("west", Claim("ims-db", 1, 1))
    assert (renewed.accepted, renewed.reason) == (True, "")
    assert voting.claim("east", Claim("vcu-db", 1, 1)).reason == "Busy", "its promise may bind this voter already"
    store.held["vcu-db"].set()
    await asked
    assert voting.claim("east", Claim("vcu-db", 1, 1)).accepted


async def test_what_is_promised_and_answered_meanwhile_for_other_groups_is_kept(
    store: SlowStore, voting: Voting, tmp_path: Path
) -> None:
    await voting.ask("west", first("ims-db", "west"))
    asked = await being_written(store, voting, "vcu-db")
    answer = await voting.ask("west", first("amf-db", "west"))
    assert isinstance(answer, CampaignAnswer)
    assert answer.granted
    assert voting.claim("west", Claim("ims-db", 1, 1)).accepted
    answered_ns = voting.state("ims-db").answered_ns["ims-db"]
    store.held["vcu-db"].set()
    await asked
    assert voting.state("ims-db").answered_ns["ims-db"] == answered_ns, "what frees the promise counts from here"
    assert {promise.group for promise in voting.promises()} == {"vcu-db", "ims-db", "amf-db"}
    assert {group: promise.site for group, promise in PromiseStore(tmp_path / "promises").load().items()} == {
        "vcu-db": "east",
        "ims-db": "west",
        "amf-db": "west",
    }


async def test_two_campaigns_for_one_group_are_answered_one_after_the_other(store: SlowStore, voting: Voting) -> None:
    asked = await being_written(store, voting, "vcu-db")
    other = asyncio.create_task(voting.ask("west", first("vcu-db", "west")))
    done, _ = await asyncio.wait({other}, timeout=0.05)
    assert not done
    store.held["vcu-db"].set()
    answers = [await asked, await other]
    assert [answer.granted for answer in answers if isinstance(answer, CampaignAnswer)] == [True, False]


async def test_a_write_that_has_begun_does_not_land_on_a_later_one_when_who_asked_for_it_has_gone(
    store: SlowStore, voting: Voting, tmp_path: Path
) -> None:
    """A controller that ends cancels its own campaign, while its voter still answers others."""
    asked = await being_written(store, voting, "vcu-db")
    asked.cancel()
    await asyncio.wait({asked})
    assert voting.claim("east", Claim("vcu-db", 1, 1)).reason == "Busy"
    later = asyncio.create_task(voting.ask("west", first("vcu-db", "west")))
    done, _ = await asyncio.wait({later}, timeout=0.1)
    assert not done, "the disk may hold the former promise in a moment"
    store.held["vcu-db"].set()
    answer = await later
    assert isinstance(answer, CampaignAnswer)
    assert not answer.granted
    promise = voting.promise("vcu-db")
    assert promise is not None
    assert promise.site == "east"
    assert PromiseStore(tmp_path / "promises").load() == {"vcu-db": promise}


async def test_who_asks_about_an_unknown_group_leaves_nothing_behind(store: SlowStore, voting: Voting) -> None:
    for number in range(100):
        assert not voting.claim("east", Claim(f"no-{number}", 1, 1)).accepted
        answer = await voting.ask("stranger", first(f"no-{number}"))
        assert isinstance(answer, CampaignAnswer)
        assert not answer.granted
    assert voting.promises() == []
    assert not voting._states
    assert not voting._turns
    assert store.saved == []


async def test_after_a_restart_every_groups_promise_is_known_and_silent_for_its_time(tmp_path: Path) -> None:
    before = Voting("witness", PromiseStore(tmp_path / "promises"))
    for group in ("vcu-db", "ims-db"):
        await before.ask("east", first(group))
    before.close()
    after = Voting("witness", PromiseStore(tmp_path / "promises"))
    for group in ("vcu-db", "ims-db"):
        state = after.state(group)
        assert state.silent_until_ns(group) > state.started_ns
        answer = await after.ask("west", first(group, "west"))
        assert isinstance(answer, CampaignAnswer)
        assert not answer.granted
    after.close()

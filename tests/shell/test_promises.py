"""What a voter keeps on disk and says on the wire comes back as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.core import messages as core
from graf.core.voter import Promise
from graf.shell import wire
from graf.shell.promises import PromiseStore, PromiseStoreError
from graf.shell.proto import peer_pb2 as pb

CURRENT = VoterList(1, ("east", "west", "witness"))
PROPOSED = VoterList(2, ("east", "west", "witness"), frozenset({"witness"}))
SET = SyncSet(SetVersion(3, 2), frozenset({"east", "west"}))


@pytest.mark.parametrize("voters", [Electorate(CURRENT), Electorate(CURRENT, PROPOSED)])
def test_a_promise_comes_back_from_the_disk_as_it_was(tmp_path: Path, voters: Electorate) -> None:
    promise = Promise("vcu-db", 4, "east", 700, voters, SET, True, "west", proposed_in=3)
    PromiseStore(tmp_path / "promises").save(promise)
    assert PromiseStore(tmp_path / "promises").load() == {"vcu-db": promise}


def test_a_promise_of_a_release_that_knew_one_voter_list_is_still_kept(tmp_path: Path) -> None:
    store = PromiseStore(tmp_path)
    old = {
        "format": 1,
        "group": "vcu-db",
        "epoch": 4,
        "site": "east",
        "ttl_ns": 700,
        "voters": {"version": 1, "members": ["east", "west", "witness"]},
        "set": {"epoch": 3, "counter": 2, "members": ["east", "west"]},
        "released": False,
        "successor": "",
    }
    (tmp_path / "vcu-db.json").write_text(json.dumps(old))
    assert store.load() == {"vcu-db": Promise("vcu-db", 4, "east", 700, Electorate(CURRENT), SET)}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 3},
        {"proposed_voters": {"version": 1, "members": ["east"]}},
        {"voters": {"version": 1, "members": []}},
    ],
)
def test_a_promise_that_cannot_be_trusted_is_never_taken_for_none(tmp_path: Path, change: dict[str, object]) -> None:
    store = PromiseStore(tmp_path)
    store.save(Promise("vcu-db", 4, "east", 700, Electorate(CURRENT), SET))
    path = tmp_path / "vcu-db.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PromiseStoreError, match="will not vote"):
        store.load()


REQUESTS: list[wire.Request] = [
    core.Campaign("vcu-db", 4, 700, Electorate(CURRENT, PROPOSED), SET, True, admits=True),
    core.Campaign("vcu-db", 4, 700, Electorate(CURRENT), SET, False),
    core.Release("vcu-db", 4, "west", "Switchover", 1.5, "op"),
    core.SetUpdate("vcu-db", 4, SET),
    core.Settle("vcu-db", 4, PROPOSED),
]
ANSWERS: list[wire.Answer] = [
    core.CampaignAnswer("vcu-db", 4, False, "OtherVoterList", 3, "east", 7, SET, Electorate(CURRENT, PROPOSED)),
    core.CampaignAnswer("vcu-db", 4, False, "NoRecord"),
    core.ReleaseAnswer("vcu-db", 4, True),
    core.SetAnswer("vcu-db", 4, SET, False, "Released"),
    core.SettleAnswer("vcu-db", 4, PROPOSED, True),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: type(r).__name__)
def test_a_request_comes_through_the_wire_as_it_was(request_: wire.Request) -> None:
    message = pb.PeerMessage.FromString(wire.request_to_wire(request_).SerializeToString())
    assert wire.request_from_wire(message) == request_


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: type(a).__name__)
def test_an_answer_comes_through_the_wire_as_it_was(answer: wire.Answer) -> None:
    message = pb.PeerMessage.FromString(wire.answer_to_wire(answer).SerializeToString())
    assert wire.answer_from_wire(message) == answer


@pytest.mark.parametrize(
    "message",
    [
        pb.PeerMessage(campaign=pb.Campaign(group="g", epoch=1, ttl_ns=1)),
        pb.PeerMessage(settle=pb.Settle(group="g", epoch=1)),
        pb.PeerMessage(
            campaign=pb.Campaign(
                group="g",
                epoch=1,
                ttl_ns=1,
                voters=pb.Electorate(
                    current=pb.VoterList(version=2, members=["a"]), proposed=pb.VoterList(version=1, members=["b"])
                ),
            )
        ),
    ],
)
def test_a_request_with_lists_that_nobody_could_vote_by_is_malformed(message: pb.PeerMessage) -> None:
    with pytest.raises(ValueError, match=r"voter"):
        wire.request_from_wire(message)

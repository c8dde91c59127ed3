"""A voter whose disk takes no more writes: what is not stored is not answered, and what is stored still holds."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.controller.keeper import VoterDesk
from graf.core import messages as core
from graf.shell import disk, wire
from graf.shell.promises import PromiseStore
from graf.shell.voting import Voting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from graf.shell.proto import peer_pb2 as pb

G, TTL_NS = "vcu-db", 1_000_000
VOTERS = Electorate(VoterList(1, ("east", "west", "witness")))
SET = SyncSet(SetVersion(1, 0), frozenset({"east"}))
SHRUNK = SyncSet(SetVersion(1, 1), frozenset({"east"}))
FIRST = core.Campaign(G, 1, TTL_NS, VOTERS, SET, lossless=True)
REQUESTS: dict[str, tuple[str, core.Campaign | core.Release | core.SetUpdate]] = {
    "campaign": ("east", core.Campaign(G, 2, TTL_NS, VOTERS, SET, lossless=True)),
    "release": ("east", core.Release(G, 1)),
    "set": ("east", core.SetUpdate(G, 1, SHRUNK)),
}


class Disk:
    """What its calls come to; `broken` is the one that fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = ""
        write, fsync, sync_directory = os.write, os.fsync, disk.sync_directory

        def fail(name: str) -> None:
            if self.broken == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def writes(descriptor: int, data: bytes) -> int:
            fail("write")
            return write(descriptor, data)

        def syncs(descriptor: int) -> None:
            fail("fsync")
            fsync(descriptor)

        def names(directory: Path) -> None:
            fail("name")
            sync_directory(directory)

        monkeypatch.setattr(disk.os, "write", writes)
        monkeypatch.setattr(disk.os, "fsync", syncs)
        monkeypatch.setattr(disk, "sync_directory", names)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def voting(tmp_path: Path, broken: Disk) -> AsyncIterator[Voting]:
    """The voter of the witness, which has promised epoch 1 to east."""
    voting = Voting("witness", PromiseStore(tmp_path / "promises"))
    await voting.ask("east", FIRST)
    yield voting
    voting.close()


class Links:
    def __init__(self) -> None:
        self.sent: list[pb.PeerMessage] = []

    def send(self, _peer: str, message: pb.PeerMessage) -> bool:
        self.sent.append(message)
        return True


@pytest.mark.parametrize("broken_call", ["write", "fsync", "name"])
@pytest.mark.parametrize("request_name", REQUESTS)
async def test_what_is_not_stored_is_not_answered_and_changes_nothing(
    voting: Voting, broken: Disk, broken_call: str, request_name: str
) -> None:
    site, request = REQUESTS[request_name]
    before = voting.promise(G)
    broken.broken = broken_call
    desk, links = VoterDesk(voting), Links()
    desk.links = links  # type: ignore[assignment]
    released: list[str] = []
    desk.on_release = lambda peer, _release: released.append(peer)
    desk.on_message(site, wire.request_to_wire(request))
    for task in tuple(desk._tasks):
        await task
    assert (links.sent, released, voting.promise(G)) == ([], [], before)
    broken.broken = ""
    await voting.ask(site, request)
    assert voting.promise(G) != before, "once the disk is mended it is as if it was asked for the first time"


async def test_a_lease_is_renewed_by_the_promise_that_is_stored_though_nothing_more_can_be(
    voting: Voting, broken: Disk
) -> None:
    broken.broken = "write"
    for site, request in REQUESTS.values():
        with pytest.raises(OSError, match="No space left"):
            await voting.ask(site, request)
    assert voting.claim("east", core.Claim(G, 1, 1)).accepted
    assert not voting.claim("east", core.Claim(G, 2, 1)).accepted, "that was never promised"
    assert not voting.claim("west", core.Claim(G, 1, 1)).accepted


async def test_after_a_restart_a_voter_has_what_it_had_answered_for(
    voting: Voting, broken: Disk, tmp_path: Path
) -> None:
    broken.broken = "fsync"
    with pytest.raises(OSError, match="No space left"):
        await voting.ask("east", REQUESTS["set"][1])
    broken.broken = ""
    assert PromiseStore(tmp_path / "promises").load() == {G: voting.promise(G)}

"""Streams between voters: who is refused, and what the log says of it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from world import Authority

from graf.shell import tls
from graf.shell.links import Links
from graf.shell.proto import peer_pb2 as pb
from graf.shell.proto import peer_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Handler:
    """Remembers who was taken."""

    def __init__(self) -> None:
        self.linked: list[str] = []

    def on_message(self, peer: str, message: pb.PeerMessage) -> None: ...

    def on_link(self, peer: str, connected: bool) -> None:
        if connected:
            self.linked.append(peer)


class East:
    """The listening end of a site that knows one peer, `west`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.authority = Authority()
        self.handler = Handler()
        self.links = Links("east", self.authority.issue(path / "east", "east.voter.graf.dev"), self.handler)
        self.links.link("west")
        self.port = 0

    async def dial(self, directory: Path) -> pb.PeerMessage | object:
        """One stream with the certificate in a folder, up to the first answer."""
        options = tls.channel_options("east.voter.graf.dev")
        address = f"127.0.0.1:{self.port}"
        async with grpc.aio.secure_channel(address, tls.channel_credentials(directory), options=options) as channel:
            call = peer_pb2_grpc.PeerLinkStub(channel).Connect(timeout=5)
            answer = await call.read()
            if answer is grpc.aio.EOF:
                raise AssertionError(f"the stream ended: {await call.code()} {await call.details()}")
            return answer


@pytest.fixture
async def east(tmp_path: Path) -> AsyncIterator[East]:
    made = East(tmp_path)
    made.port = await made.links.serve("127.0.0.1:0")
    yield made
    await made.links.close()


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.fields["identity"] for record in caplog.records if record.getMessage() == "stranger refused"]  # type: ignore[attr-defined]


async def test_a_known_voter_is_taken(east: East) -> None:
    answer = await east.dial(east.authority.issue(east.path / "west", "west.voter.graf.dev"))
    assert isinstance(answer, pb.PeerMessage)
    assert east.handler.linked == ["west"]


@pytest.mark.parametrize("name", ["north.voter.graf.dev", "manager.graf.dev", "west.voter.graf.dev.evil.example"])
async def test_a_name_that_is_no_known_voter_is_refused_and_logged(
    east: East, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises((grpc.aio.AioRpcError, AssertionError), match=name):
        await east.dial(east.authority.issue(east.path / "stranger", name))
    assert refusals(caplog) == [name]
    assert east.handler.linked == []


async def test_the_right_name_from_another_authority_gets_no_stream(east: East) -> None:
    forged = Authority("another").issue(east.path / "forged", "west.voter.graf.dev")
    (forged / "ca.crt").write_bytes((east.path / "east" / "ca.crt").read_bytes())
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await east.dial(forged)
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert east.handler.linked == []


async def test_a_port_that_is_taken_is_told_by_its_address(east: East) -> None:
    second = Links("east", east.path / "east", Handler())
    with pytest.raises(OSError, match=f"127.0.0.1:{east.port}.*another process"):
        await second.serve(f"127.0.0.1:{east.port}")

"""graf-witness: a third location that votes and runs no function."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graf.controller.config import ConfigError, WitnessConfig, load
from graf.controller.keeper import VoterDesk
from graf.shell import logs, wire
from graf.shell.links import Links
from graf.shell.promises import PromiseStore, PromiseStoreError
from graf.shell.proto import peer_pb2 as pb
from graf.shell.tls import TlsError
from graf.shell.voting import Voting

if TYPE_CHECKING:
    from graf.core.voter import Promise

LOG = logging.getLogger("graf.witness")

TELL_EVERY = 10  # heartbeats


class WitnessDesk(VoterDesk):
    """A voter's desk that tells its records too: no agent does that here.

    The newest synchronous set may be on a witness alone, when the holder died while it told it; a site that may take
    over by that set learns it only from here.
    """

    def __init__(self, voting: Voting) -> None:
        super().__init__(voting)
        self._told: dict[tuple[str, str], Promise] = {}

    def on_link(self, peer: str, connected: bool) -> None:
        """A peer that comes or goes has been told nothing."""
        self._told = {key: promise for key, promise in self._told.items() if key[0] != peer}

    def on_message(self, peer: str, message: pb.PeerMessage) -> None:
        """With a heartbeat, the records of the groups that the sender votes in, when changed and now and then.

        Now and then, because a site may be assigned a group after it was told; each group in another turn.
        """
        super().on_message(peer, message)
        if message.WhichOneof("body") != "heartbeat":
            return
        for number, promise in enumerate(self.voting.promises()):
            due = (message.heartbeat.sequence + number) % TELL_EVERY == 0
            if peer in promise.voters.members and (due or self._told.get((peer, promise.group)) is not promise):
                self._told[peer, promise.group] = promise
                self._send(peer, pb.PeerMessage(group_status=record_of(promise)))


def record_of(promise: Promise) -> pb.GroupStatus:
    """A promise as it is told: no role, and nothing that could be promoted."""
    return pb.GroupStatus(
        group=promise.group,
        epoch=promise.epoch,
        known_set=wire.set_to_wire(promise.stored_set),
        voters=wire.electorate_to_wire(promise.voters),
    )


async def run(config: WitnessConfig) -> None:
    """Votes until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    desk = WitnessDesk(Voting(config.name, PromiseStore(config.data_dir / "promises")))
    links = Links(config.name, config.tls_dir, desk, accept_any_voter=True)
    desk.links = links
    port = await links.serve(config.listen)
    logs.event(LOG, "witness votes", name=config.name, listen=config.listen, port=port)
    await stop.wait()
    await links.close()
    desk.voting.close()


def _command(config: Annotated[Path, typer.Option(help="Configuration file (YAML).")]) -> None:
    import uvloop

    logs.set_up()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(run(load(config, WitnessConfig)))
    except (ConfigError, TlsError, PromiseStoreError, OSError) as error:
        logs.event(LOG, str(error), logging.CRITICAL)
        sys.exit(1)


def main() -> None:
    """Entry point of the command graf-witness."""
    typer.run(_command)

"""graf-witness: a third location that votes and runs no function."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from graf.controller.config import ConfigError, WitnessConfig, load
from graf.controller.keeper import VoterDesk
from graf.shell import logs
from graf.shell.links import Links
from graf.shell.promises import PromiseStore, PromiseStoreError
from graf.shell.tls import TlsError
from graf.shell.voting import Voting

LOG = logging.getLogger("graf.witness")


async def run(config: WitnessConfig) -> None:
    """Votes until SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    desk = VoterDesk(Voting(config.name, PromiseStore(config.data_dir / "promises")))
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

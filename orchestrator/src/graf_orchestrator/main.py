"""`graf-manager`: campaigns for the leadership, and leads for as long as it has it."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from graf.shell.logs import event, set_up
from graf_orchestrator.config import ConfigError, ManagerConfig, load

if TYPE_CHECKING:
    from types import FrameType

LOG = logging.getLogger("graf.manager")
EXIT_CONFIG = 2


def run(config: ManagerConfig) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit status."""
    # Imported here: a wrong configuration is told without waiting for the Kubernetes client.
    from graf.shell.tls import TlsError
    from graf_orchestrator.election import Election
    from graf_orchestrator.kube import KubeCluster, load_client
    from graf_orchestrator.link import LinkError
    from graf_orchestrator.manager import Leadership
    from graf_orchestrator.ports import ClusterError

    stopping, changed = threading.Event(), threading.Event()

    def stop(number: int, _: FrameType | None) -> None:
        event(LOG, "stopping", signal=signal.Signals(number).name)
        stopping.set()
        changed.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        client = load_client(config.kubeconfig)
    except ClusterError as error:
        event(LOG, "cannot start", logging.ERROR, error=str(error))
        return 1
    identity = os.environ.get("POD_NAME") or socket.gethostname()
    election = Election(config.election, config.namespace, identity, client.configuration, changed.set)
    election.start()
    event(LOG, "started", identity=identity, listen=config.listen, git=config.git.url)
    leadership: Leadership | None = None
    try:
        while not stopping.is_set():
            changed.wait()
            changed.clear()
            if election.leading and leadership is None:
                leadership = Leadership(config, KubeCluster(client, config.namespace), lambda: election.leading)
                leadership.start()
                event(LOG, "serving", listen=config.listen)
            elif not election.leading and leadership is not None:
                leadership.stop()
                leadership = None
    except (LinkError, TlsError) as error:
        event(LOG, "cannot serve the sites", logging.ERROR, error=str(error))
        return 1
    finally:
        election.resign()
        if leadership is not None:
            leadership.stop()
    return 0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="graf-manager", description="The GRAF Redundancy Manager.")
    parser.add_argument("--config", type=Path, default=Path("/etc/graf/manager.yaml"), help="configuration file")
    arguments = parser.parse_args()
    set_up()
    try:
        config = load(arguments.config)
    except ConfigError as error:
        sys.stderr.write(f"graf-manager: {error}\n")
        sys.exit(EXIT_CONFIG)
    sys.exit(run(config))


if __name__ == "__main__":
    main()

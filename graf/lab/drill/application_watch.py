"""Asks a lab's application, as users do and at each site, and writes down who answered with what.

Runs as a process of its own (`python -m graf.lab.drill.application_watch CONFIG.json`) until its standard input ends.
Three kinds of questions, each over a new connection: `users`, by the service address, from where the users are;
`gate`, by the service address inside a site, so through that site's own gate; `direct`, inside a site past the gate:
whether the application runs there at all. It concludes nothing; `application` does.

Lines: `probe place start_ns end_ns site plan key`; no line where nobody answered.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from graf.lab.drill.child import enter, until_end_of_input

PROBES = ("users", "gate", "direct")


@dataclass(frozen=True, slots=True)
class WatchConfig:
    """What to ask where.

    Attributes:
        users: Network namespace of the users.
        sites: Network namespace by site.
        timeout_s: An answer comes within milliseconds; a shut gate gives none at all.
    """

    users: str
    sites: dict[str, str]
    service_host: str
    port: int
    output: str
    direct_host: str = "127.0.0.1"
    period_s: float = 0.05
    timeout_s: float = 0.3
    give_up_s: float = 900.0

    def save(self, path: Path) -> None:
        """For the process to read."""
        path.write_text(json.dumps(asdict(self)))


def ask(host: str, port: int, timeout_s: float) -> tuple[str, str, str] | None:
    """Site, plan and key of one answer; None when there is no whole one."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/")
        told = json.loads(connection.getresponse().read())
        return str(told["site"]), str(told["plan"]) or "-", str(told["key"])
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()


def run(config: WatchConfig, stop: threading.Event, enter: Callable[[str], None]) -> None:
    """All questions until `stop`; `enter` moves the calling thread into a network namespace."""
    output = os.open(config.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    ends = time.monotonic() + config.give_up_s

    def work(probe: str, place: str, namespace: str) -> None:
        enter(namespace)
        host = config.direct_host if probe == "direct" else config.service_host
        while time.monotonic() < ends and not stop.wait(config.period_s):
            start_ns = time.monotonic_ns()
            told = ask(host, config.port, config.timeout_s)
            if told is not None:
                line = " ".join((probe, place, str(start_ns), str(time.monotonic_ns()), *told))
                os.write(output, f"{line}\n".encode())

    questions = [("users", "users", config.users)]
    questions += [(probe, site, namespace) for site, namespace in config.sites.items() for probe in PROBES[1:]]
    threads = [threading.Thread(target=work, args=each, name="-".join(each[:2])) for each in questions]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    os.close(output)


def main() -> None:
    """Entry of the process."""
    config = WatchConfig(**json.loads(Path(sys.argv[1]).read_text()))
    run(config, until_end_of_input(), enter)


if __name__ == "__main__":
    main()

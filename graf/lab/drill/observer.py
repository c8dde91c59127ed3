"""The observer of a drill: asks every site every 20 ms whether it accepts a write and whether it serves a read.

Runs as a process of its own (`python -m graf.lab.drill.observer CONFIG.json`) with one thread per question, each inside
the site's network namespace, so that it sees a site that is cut off from everybody else. It is not in the site's
cgroup: a frozen or killed site does not take it along. Nothing is concluded here; every answer is written down with
the time of the question and of the answer, and `graf.lab.drill.overlap` judges.

Lines: `site probe start_ns end_ns answer`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pymysql

from graf.lab.drill.child import enter, until_end_of_input
from graf.lab.drill.model import Answer, Probe, Sample

PROBE_TABLE = "graf_drill_probe"
CREATE_PROBE = (
    f"CREATE TABLE IF NOT EXISTS {PROBE_TABLE} (site VARCHAR(63) NOT NULL PRIMARY KEY, seq BIGINT UNSIGNED NOT NULL) "
    "ENGINE=InnoDB"
)
_CONNECTION_LOST = {2003, 2006, 2013, 2055}


@dataclass(frozen=True, slots=True)
class ObserverConfig:
    """What to ask where.

    Attributes:
        sites: Network namespace by site.
        direct_host: The database's own address inside a site: no gate in front.
        service_host: The service address: inside a site, through that site's own gate.
        connect_timeout_s: Loopback answers within a millisecond; a shut gate does not answer at all.
        read_timeout_s: A read without an answer is left after this.
        write_timeout_s: A write that hangs is left after this; until it is answered it is not accepted.
    """

    sites: dict[str, str]
    user: str
    password: str
    database: str
    output: str
    direct_host: str = "127.0.0.1"
    service_host: str = "198.19.255.1"
    port: int = 3306
    period_s: float = 0.02
    connect_timeout_s: float = 0.06
    read_timeout_s: float = 0.25
    write_timeout_s: float = 1.0
    give_up_s: float = 900.0

    def save(self, path: Path) -> None:
        """Writes the configuration where only its owner can read it: it has the password."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> ObserverConfig:
        """What `save` wrote."""
        return cls(**json.loads(path.read_text()))


class Asker:
    """One question to one site, asked again and again over one connection.

    Invariant: `accepted` is returned only after the server's OK for a question sent within this call.
    """

    def __init__(self, site: str, probe: Probe, config: ObserverConfig) -> None:
        self._site = site
        self._probe = probe
        self._config = config
        self._seq = 0
        self._connection: Any = None

    def ask(self) -> Answer:
        """Asks once and says what came back; a connection that failed is left."""
        try:
            if self._connection is None:
                self._connection = self._connect()
            if self._probe is Probe.WRITE:
                self._seq += 1
                # A row of the site's own: the observer's writes at two sites never meet.
                self._connection.query(
                    f"REPLACE INTO {PROBE_TABLE} VALUES ('{self._site}', {self._seq})"  # noqa: S608
                )
            else:
                self._connection.query("SELECT 1")
        except pymysql.err.Error as error:
            code = error.args[0] if error.args else 0
            if self._connection is not None and code not in _CONNECTION_LOST:
                return Answer.REFUSED  # the server itself said no, on a connection that goes on
            self.leave()
            if _is_timeout(error):
                return Answer.SILENT
            return Answer.DOWN if code in _CONNECTION_LOST else Answer.REFUSED
        except (TimeoutError, OSError, EOFError) as error:
            self.leave()
            return Answer.SILENT if isinstance(error, TimeoutError) else Answer.DOWN
        return Answer.ACCEPTED

    def leave(self) -> None:
        """Closes the connection, if there is one, without waiting for the server."""
        if self._connection is not None:
            with contextlib.suppress(pymysql.err.Error, OSError):
                self._connection._force_close()
            self._connection = None

    def _connect(self) -> Any:
        config = self._config
        write = self._probe is Probe.WRITE
        return pymysql.connect(
            host=config.direct_host if write else config.service_host,
            port=config.port,
            user=config.user,
            password=config.password,
            database=config.database,
            autocommit=True,
            ssl_disabled=True,  # plain in the lab; a TLS context made for each try costs 25 to 70 ms
            connect_timeout=config.connect_timeout_s,
            read_timeout=config.write_timeout_s if write else config.read_timeout_s,
            write_timeout=config.read_timeout_s,
        )


def _is_timeout(error: BaseException) -> bool:
    """PyMySQL wraps a socket's time-out in its own error: as the cause, the context, or in the text only."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, TimeoutError):
            return True
        seen = seen.__cause__ or seen.__context__
    return "timed out" in str(error)


def observe(
    asker: Asker,
    site: str,
    probe: Probe,
    period_s: float,
    stop: threading.Event,
    write_line: Callable[[str], None],
    give_up_s: float,
) -> None:
    """Asks on the common grid until told to stop. A slow answer skips ticks; it is never counted for them."""
    period_ns = int(period_s * 1e9)
    end_ns = time.monotonic_ns() + int(give_up_s * 1e9)
    while time.monotonic_ns() < end_ns:
        now = time.monotonic_ns()
        if stop.wait((period_ns - now % period_ns) / 1e9):
            break
        start = time.monotonic_ns()
        answer = asker.ask()
        write_line(f"{site} {probe} {start} {time.monotonic_ns()} {answer}\n")
    asker.leave()


def read_samples(path: Path) -> list[Sample]:
    """What an observer wrote; a line that was cut off by a crash is left out."""
    return parse_samples(path.read_text())


def parse_samples(text: str) -> list[Sample]:
    """Samples of whole lines; what follows the last end of line is left out."""
    samples = []
    for line in text.split("\n")[:-1]:
        site, probe, start, end, answer = line.split(" ")
        samples.append(Sample(site, Probe(probe), int(start), int(end), Answer(answer)))
    return samples


def run_observer(config: ObserverConfig, stop: threading.Event, enter: Callable[[str], None]) -> None:
    """All questions to all sites until `stop`; `enter` moves the calling thread into a network namespace."""
    output = os.open(config.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def thread(site: str, namespace: str, probe: Probe) -> None:
        enter(namespace)
        observe(
            Asker(site, probe, config),
            site,
            probe,
            config.period_s,
            stop,
            lambda line: void(os.write(output, line.encode())),
            config.give_up_s,
        )

    threads = [
        threading.Thread(target=thread, args=(site, namespace, probe), name=f"{site}-{probe}")
        for site, namespace in config.sites.items()
        for probe in Probe
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    os.close(output)


def void(_: object) -> None:
    """Drops a result that nobody needs."""


def main() -> None:
    """Entry of the process: configuration file in, samples out, ends with standard input."""
    config_path = Path(sys.argv[1])
    config = ObserverConfig.load(config_path)
    config_path.unlink()
    run_observer(config, until_end_of_input(), enter)


if __name__ == "__main__":
    main()

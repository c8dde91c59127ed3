"""The users of a drill: four connections that write unique ids through the service address.

Runs as a process of its own inside the users' network namespace (`python -m graf.lab.drill.clients CONFIG.json`)
until its standard input ends, so that the death of the drill ends it too. What was acknowledged goes to an
append-only file at once, one line per event: a drill that crashes has lost nothing that it could have claimed.

Lines: `A client seq sent_ns acked_ns` and `E client at_ns kind detail`.

A client that gets an error leaves its connection at once and tries anew; the write whose answer was lost may exist or
not and is never sent again (the next try takes the next number), so an id can exist once at most.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pymysql

from graf.lab.drill.model import Ack, ClientError

WRITES_TABLE = "graf_drill_writes"
CREATE_WRITES = (
    f"CREATE TABLE IF NOT EXISTS {WRITES_TABLE} (run BIGINT UNSIGNED NOT NULL, client TINYINT UNSIGNED NOT NULL, "
    "seq INT UNSIGNED NOT NULL, PRIMARY KEY (run, client, seq)) ENGINE=InnoDB"
)
# Errors of PyMySQL and of sockets; each means: leave this connection, try another one.
_ERRORS = (pymysql.err.Error, OSError, EOFError)


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """How the clients write.

    Attributes:
        connect_timeout_s: A connect without an answer is left after this; another SYN finds the new way sooner than
            the kernel's own retransmission after one second would.
        read_timeout_s: A write without an answer is left after this.
        retry_s: Pause between two tries that failed at once (refused, unreachable), so that four clients do not eat
            the processor that the service needs to come back.
        give_up_s: End of everything, however long the drill lives.
    """

    host: str
    port: int
    user: str
    password: str
    database: str
    run: int
    output: str
    connections: int = 4
    writes_per_second: float = 25.0
    connect_timeout_s: float = 0.1
    read_timeout_s: float = 0.3
    retry_s: float = 0.008
    give_up_s: float = 900.0

    def save(self, path: Path) -> None:
        """Writes the configuration where only its owner can read it: it has the password."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> ClientConfig:
        """What `save` wrote."""
        return cls(**json.loads(path.read_text()))


class Journal:
    """Append-only file of events, shared by the clients' threads; a line is one write call."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def ack(self, client: int, seq: int, sent_ns: int, acked_ns: int) -> None:
        """One acknowledged write."""
        os.write(self._file, b"A %d %d %d %d\n" % (client, seq, sent_ns, acked_ns))

    def error(self, client: int, at_ns: int, kind: str, detail: str) -> None:
        """One failed try."""
        os.write(self._file, f"E {client} {at_ns} {kind} {detail[:140].replace(chr(10), ' ')}\n".encode())

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._file)


class Stop(Protocol):
    """What the clients ask for the end: `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether to end."""

    def wait(self, timeout: float | None = None) -> bool:
        """Waits for the end at most so long."""


class Writer:
    """One client: a connection, a pace, and the numbers that it has used.

    Invariant: a sequence number is sent at most once, and is written to the journal as acknowledged only after the
    server's OK for exactly that number.
    """

    def __init__(
        self,
        index: int,
        config: ClientConfig,
        journal: Journal,
        stop: Stop,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._index = index
        self._config = config
        self._journal = journal
        self._stop = stop
        self._clock = clock
        self._seq = 0
        self._connection: Any = None

    def run(self) -> None:
        """Writes at its pace until told to stop or out of time."""
        config = self._config
        period_ns = int(1e9 / config.writes_per_second)
        begin_ns = self._clock()
        end_ns = begin_ns + int(config.give_up_s * 1e9)
        due_ns = begin_ns + period_ns * self._index // config.connections
        while not self._stop.is_set() and self._clock() < end_ns:
            if due_ns > self._clock() and self._stop.wait((due_ns - self._clock()) / 1e9):
                break
            if self._write():
                # A client that was held up does not catch up in a burst; it keeps its place in the stagger.
                late = max(0, self._clock() - due_ns)
                due_ns += period_ns * (1 + late // period_ns)
            else:
                due_ns = self._clock()
        self._leave()

    def _write(self) -> bool:
        """One try; False when it failed and the next one is due at once."""
        kind = "connect"
        tried_ns = self._clock()
        try:
            if self._connection is None:
                self._connection = self._connect()
            kind = "write"
            self._seq += 1
            sent_ns = self._clock()
            self._connection.query(
                f"INSERT INTO {WRITES_TABLE} VALUES ({self._config.run}, {self._index}, {self._seq})"  # noqa: S608
            )
            self._journal.ack(self._index, self._seq, sent_ns, self._clock())
        except _ERRORS as error:
            self._journal.error(self._index, self._clock(), kind, f"{type(error).__name__} {error}")
            self._leave()
            if self._clock() - tried_ns < int(self._config.retry_s * 1e9):
                self._stop.wait(self._config.retry_s)
            return False
        return True

    def _connect(self) -> Any:
        config = self._config
        return pymysql.connect(
            host=config.host,
            port=config.port,
            user=config.user,
            password=config.password,
            database=config.database,
            autocommit=True,
            ssl_disabled=True,  # plain in the lab; a TLS context made for each try costs 25 to 70 ms
            connect_timeout=config.connect_timeout_s,
            read_timeout=config.read_timeout_s,
            write_timeout=config.read_timeout_s,
        )

    def _leave(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(*_ERRORS):
                self._connection._force_close()
            self._connection = None


def read_journal(path: Path) -> tuple[list[Ack], list[ClientError]]:
    """What a journal holds. A line that was cut off by a crash is left out: it claims nothing."""
    acks, errors = [], []
    for line in path.read_text(errors="replace").split("\n")[:-1]:
        kind, _, rest = line.partition(" ")
        if kind == "A":
            client, seq, sent, acked = rest.split(" ")
            acks.append(Ack(int(client), int(seq), int(sent), int(acked)))
        elif kind == "E":
            client, at, what, detail = rest.split(" ", 3)
            errors.append(ClientError(int(client), int(at), what, detail))
    return acks, errors


def run_clients(config: ClientConfig, stop: Stop) -> None:
    """All connections until `stop`."""
    journal = Journal(Path(config.output))
    writers = [Writer(index, config, journal, stop) for index in range(config.connections)]
    threads = [threading.Thread(target=writer.run, name=f"client-{n}") for n, writer in enumerate(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()


def main() -> None:
    """Entry of the process: configuration file in, journal out, ends with standard input."""
    config_path = Path(sys.argv[1])
    config = ClientConfig.load(config_path)
    config_path.unlink()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the drill's: it ends this process when it has healed
    stop = threading.Event()

    def watch() -> None:
        sys.stdin.buffer.read()
        stop.set()

    threading.Thread(target=watch, name="end-of-input", daemon=True).start()
    run_clients(config, stop)


if __name__ == "__main__":
    main()

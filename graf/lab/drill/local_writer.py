"""A site's own application beside a scope: one connection that writes numbered rows into the site's own database.

It knows nothing of roles. What was acknowledged is remembered with its time; a write whose answer was lost is never
sent again, so a row exists once at most.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import pymysql

from graf.lab.drill.lab_port import Account
from graf.lab.drill.measure import longest_gap
from graf.lab.drill.netns import connect_in

TABLE = "graf_drill_seen"
HOST, PORT = "127.0.0.1", 3306
PERIOD_S = 0.02
TIMEOUT_S = 1.0
_CREATE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} (run BIGINT UNSIGNED NOT NULL, site VARCHAR(63) NOT NULL,"
    " n INT UNSIGNED NOT NULL, PRIMARY KEY (run, site, n)) ENGINE=InnoDB"
)


def longest_pause_ms(times: list[int], start_ns: int, end_ns: int) -> float:
    """The longest time without an acknowledgement between two moments."""
    return longest_gap([at for at in times if at >= start_ns], start_ns, end_ns).ms


@dataclass
class LocalWriter:
    """Writes until it is stopped."""

    site: str
    namespace: str
    account: Account
    run: int
    acked: dict[int, int] = field(default_factory=dict)  # number to time
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _next: int = 0

    def start(self) -> None:
        """Makes the table, then begins.

        Raises:
            pymysql.err.Error, OSError: The site's own account cannot write.
        """
        with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute(_CREATE)
        self._thread = threading.Thread(target=self._work, name=f"local-{self.site}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends it; bounded by the time-outs of its connection."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(4 * TIMEOUT_S)

    def rows(self) -> list[tuple[str, int]]:
        """Site and number of every row of this run that the site's server has, whoever wrote it."""
        with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT site, n FROM {TABLE} WHERE run = %s", (self.run,))  # noqa: S608
            return [(str(site), int(number)) for site, number in cursor.fetchall()]

    def _connect(self) -> Any:
        return connect_in(self.namespace, HOST, PORT, self.account, TIMEOUT_S)

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                with contextlib.closing(self._connect()) as connection, connection.cursor() as cursor:
                    while not self._stopping.wait(PERIOD_S):
                        self._next += 1
                        cursor.execute(
                            f"INSERT INTO {TABLE} VALUES (%s, %s, %s)",  # noqa: S608
                            (self.run, self.site, self._next),
                        )
                        self.acked[self._next] = time.monotonic_ns()
            except (pymysql.err.Error, OSError, EOFError):
                self._stopping.wait(PERIOD_S)

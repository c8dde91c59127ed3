"""The drill `table-scope`: a part of each database server is the group's, and the rest is its site's.

Needs a lab with a scope (`graf lab up --scope`). The site's own application writes at both sites all the time. The
active site is cut off and then lost while a change of a table waits for the standby's acknowledgement. A row that
waits so is cut off at recovery and the site comes back behind; a change of a table cannot be, so the lost site comes
back diverged and what is in scope is rebuilt there.

Two commits that wait keep the binary log to themselves (measured: the first waits for its acknowledgement, the second
is logged and waits for the first with the log locked). Behind the clients' writes the change would therefore be done
and not logged. So a lock keeps the clients waiting until the change is in the log, which is looked for in the log's
own file; then their writes queue up behind it and the site is killed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pymysql

from graf.crd.group import GroupComponent, RedundancyGroup
from graf.lab.drill.clients import WRITES_TABLE
from graf.lab.drill.errors import StepError
from graf.lab.drill.lab_port import Account
from graf.lab.drill.local_writer import HOST, PORT, LocalWriter, longest_pause_ms
from graf.lab.drill.model import Check
from graf.lab.drill.netns import connect_in
from graf.lab.drill.observer import PROBE_TABLE
from graf.lab.drill.session import Session
from graf.lab.scope import LOCAL_DATABASE, LOCAL_USER, TABLE, TABLES_DATABASE

ENDS_S = 10.0  # a connection to a killed server has ended by then
LOGGED_S = 5.0  # the change of a table is in the log by then; it would wait for ever for its answer
LOGGED_POLL_S = 0.005
QUEUE_S = 0.1  # for the clients' writes to wait behind it
LOCAL_PAUSE_MS = 5_000.0
BESIDE = "drill_cache"  # a table of the listed one's database that is not listed itself
ORDERS = 20


Part = Callable[[Session], None]


def play(session: Session, take_over: Part, come_back: Part) -> None:
    """Local writers at both sites; loss of the active with a tail; takeover, return, and what is where."""
    group = session.group()
    component = scoped_component(group)
    sites = (session.preferred, session.spare)
    account = Account(LOCAL_USER, session.lab.local_password(session.spare), LOCAL_DATABASE)
    run = session.workload.run_id
    writers = {site: LocalWriter(site, session.lab.namespace(site), account, run) for site in sites}
    try:
        _Run(session, component, writers, take_over, come_back).play()
    finally:
        for writer in writers.values():
            writer.stop()


def scoped_component(group: RedundancyGroup) -> GroupComponent:
    """The component that has a scope.

    Raises:
        StepError: None has; says how to get one.
    """
    for component in group.spec.components:
        if "scope" in component.parameters:
            return component
    raise StepError("no component of the group has a scope: bring a lab with one up: graf lab up --name scope --scope")


@dataclass
class _Run:
    session: Session
    component: GroupComponent
    writers: dict[str, LocalWriter]
    take_over: Part
    come_back: Part
    tail: _Tail | None = None

    def play(self) -> None:
        session = self.session
        active, standby = session.preferred, session.spare
        with session.progress.step("the sites' own applications write at both sites") as step:
            for writer in self.writers.values():
                writer.start()
            self._prepare_tables()
            self._order(active, 0)
            session.hold_load(step, 2.0)
            if idle := [site for site, writer in self.writers.items() if not writer.acked]:
                raise StepError(f"no write of the site's own was acknowledged at {', '.join(idle)}")
        start = self._lose(active)
        self.take_over(session)
        self._order(standby, ORDERS)
        with session.progress.step(f"heal {active}") as step:
            session.hold_load(step, 2.0)
            session.heal(f"cut off {active}")
            session.heal(f"kill {active}")
        self.come_back(session)
        verdicts = sorted({m.label for m in session.markers if m.lane == active and m.label.startswith("verdict ")})
        self._check(
            "the lost site came back diverged", "verdict Diverged" in verdicts, ", ".join(verdicts) or "none seen"
        )
        with session.progress.step("load after the return") as step:
            session.hold_load(step, 3.0)
        session.window("fault to return", start, session.gap_limit_ms)
        self._judge(start)

    # -- what is done ----------------------------------------------------------------------------------------

    def _prepare_tables(self) -> None:
        self._ask(
            self.session.preferred,
            f"CREATE TABLE IF NOT EXISTS {TABLES_DATABASE}.{TABLE} (run BIGINT UNSIGNED, n INT, PRIMARY KEY (run, n))",
            f"CREATE TABLE IF NOT EXISTS {TABLES_DATABASE}.{BESIDE} (run BIGINT UNSIGNED PRIMARY KEY)",
            f"INSERT INTO {TABLES_DATABASE}.{BESIDE} VALUES ({self.session.workload.run_id})",  # noqa: S608
        )

    def _order(self, site: str, first: int) -> None:
        """Rows of the listed table, each acknowledged before the next."""
        run = self.session.workload.run_id
        into = f"INSERT INTO {TABLES_DATABASE}.{TABLE}"
        self._ask(site, *(f"{into} VALUES ({run}, {number})" for number in range(first, first + ORDERS)))

    def _lose(self, active: str) -> int:
        """Kill -9 of everything at the active site while a change of a table waits for the standby."""
        session = self.session
        self.tail = tail = _Tail(self._connect(active, LOGGED_S + ENDS_S), self._tail_name)
        lock = self._connect(active)
        with session.progress.step(f"fault: {active} is cut off, and killed with a change of a table unacknowledged"):
            start = session.inject(
                "hold the clients' writes", lambda: _lock(lock), ("hold the clients' writes", lambda: _let_go(lock))
            )
            session.inject(
                f"cut off {active}",
                lambda: session.lab.cut_off(active),
                (f"cut off {active}", lambda: session.lab.reconnect(active)),
            )
            tail.start()
            self._wait_logged(active, tail)
            session.heal("hold the clients' writes")
            time.sleep(QUEUE_S)
            session.inject(
                f"kill everything at {active}",
                lambda: session.lab.kill(active),
                (f"kill {active}", lambda: session.lab.start(active)),
            )
            tail.join(ENDS_S)
            if tail.answered:
                raise StepError(f"{tail.statement} was answered although {active} was cut off from the standby")
        return start

    def _wait_logged(self, active: str, tail: _Tail) -> None:
        """The change of a table is in the active's binary log, which recovery goes by.

        Raises:
            StepError: It is not, in time: then it proves nothing about a tail.
        """
        data = str(self.component.parameters["dataDir"])
        ends = time.monotonic() + LOGGED_S
        while not self.session.lab.logged(active, data, tail.statement):
            if time.monotonic() >= ends:
                why = "its connection ended" if not tail.is_alive() else "it still runs"
                raise StepError(f"{tail.statement} was not in the log of {active} after {LOGGED_S:g} s: {why}")
            time.sleep(LOGGED_POLL_S)
        self.session.mark(active, "the change of a table is in its log")

    # -- what must be so -------------------------------------------------------------------------------------

    def _judge(self, start_ns: int) -> None:
        session = self.session
        end_ns = session.workload.now_ns()
        for writer in self.writers.values():
            writer.stop()
        for site, writer in self.writers.items():
            rows = writer.rows()
            missing = set(writer.acked) - {number for owner, number in rows if owner == site}
            foreign = [row for row in rows if row[0] != site]
            self._check(
                f"{site} has every write of its own",
                not missing,
                f"{len(missing)} of {len(writer.acked)} acknowledged ones are missing",
            )
            self._check(f"{site} has nothing of the other site's own", not foreign, f"{len(foreign)} rows")
            self._orders(site)
        spare = self.writers[session.spare]
        pause_ms = longest_pause_ms(sorted(spare.acked.values()), start_ns, end_ns)
        self._check(
            f"the own writes of {session.spare} went on",
            pause_ms <= LOCAL_PAUSE_MS,
            f"longest pause {pause_ms:.0f} ms over takeover and return (limit {LOCAL_PAUSE_MS:.0f} ms)",
        )
        beside = f"SHOW TABLES FROM {TABLES_DATABASE} LIKE '{BESIDE}'"
        self._check("a table beside the listed one was not copied", not self._ask(session.spare, beside), session.spare)
        kept = f"SELECT run FROM {TABLES_DATABASE}.{BESIDE} WHERE run = {session.workload.run_id}"  # noqa: S608
        self._check("it was not touched by the rebuild", bool(self._ask(session.preferred, kept)), session.preferred)

    def _orders(self, site: str) -> None:
        run = self.session.workload.run_id
        rows = self._ask(site, f"SELECT n FROM {TABLES_DATABASE}.{TABLE} WHERE run = {run}")  # noqa: S608
        lacking = set(range(2 * ORDERS)) - {int(row[0]) for row in rows}
        self._check(f"{site} has every row of the listed table", not lacking, f"{len(lacking)} of {2 * ORDERS} missing")
        if self.tail is None:
            return
        there = bool(self._ask(site, f"SHOW TABLES LIKE '{self.tail.table}'"))
        self._check(f"{site} has nothing of the unacknowledged tail", not there, self.tail.table)

    @property
    def _tail_name(self) -> str:
        return f"graf_drill_tail_{self.session.workload.run_id}"

    def _check(self, name: str, good: bool, detail: str) -> None:
        self.session.checks.append(Check(name, good, detail))

    def _ask(self, site: str, *statements: str) -> list[tuple[Any, ...]]:
        """As the application's user, at a site's own server; what the last statement answers."""
        with contextlib.closing(self._connect(site)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    def _connect(self, site: str, timeout_s: float = 3.0) -> Any:
        application = self.component.parameters["application"]
        password = self.session.lab.application_password(self.session.spare)
        account = Account(str(application["user"]), password, str(application["database"]))
        return connect_in(self.session.lab.namespace(site), HOST, PORT, account, timeout_s)


def _lock(connection: Any) -> None:
    """The clients and the observer wait before their writes; returns when none of them is under way."""
    with connection.cursor() as cursor:
        cursor.execute(f"LOCK TABLES {WRITES_TABLE} READ, {PROBE_TABLE} READ")


def _let_go(connection: Any) -> None:
    """The server may be gone already."""
    with contextlib.suppress(pymysql.err.Error, OSError):
        connection.close()


class _Tail(threading.Thread):
    """Makes a table, and gets no answer. Its connection is opened before anything is broken."""

    def __init__(self, connection: Any, table: str) -> None:
        super().__init__(name="tail", daemon=True)
        self._connection = connection
        self.table = table
        self.statement = f"CREATE TABLE {table} (n INT)"
        self.answered = False

    def run(self) -> None:
        """Until the connection is lost."""
        with (
            contextlib.suppress(pymysql.err.Error, OSError),
            contextlib.closing(self._connection) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(self.statement)
            self.answered = True

"""What differs between MariaDB and MySQL: programs, configuration, statements, and how an answer is read.

Everything else of the driver is written against this class. Rules that are safety (when to start, to cut off, to
promote, to acknowledge) are not here: an engine says only what it can do (``can_truncate``, ``ordered``).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graf_driver_mysql.history import History
from graf_driver_mysql.parameters import REPLICATION_USER
from graf_driver_mysql.text import quoted
from graf_driver_mysql.tls import TlsFiles
from graf_driver_mysql.values import Account, Replica, SemiSync

if TYPE_CHECKING:
    from graf_driver_mysql.layout import Layout
    from graf_driver_mysql.parameters import Endpoint, Parameters
    from graf_driver_mysql.sql import Session

Row = dict[str, Any]
_MIB = 1 << 20
_LARGEST_FILE = 1 << 30  # of a binary log, and the default


class Engine(ABC):
    """One database product. Values and text only: no I/O except ``make_template``."""

    name: ClassVar[str]
    product: ClassVar[str]
    server: ClassVar[tuple[str, str]]  # program and Debian package
    reader: ClassVar[tuple[str, str]]  # of binary logs: wanted, and not needed (see tail.py)
    programs: ClassVar[tuple[tuple[str, str], ...]]
    can_truncate: ClassVar[bool]  # recovery can cut off what is in the binary log and not committed in the engine
    ordered: ClassVar[bool]  # the parallel applier keeps the source's order of commits, whoever wrote them
    relay_log_unreadable: ClassVar[frozenset[int]]  # errors of the applier: what was received cannot be read
    gone_from_source: ClassVar[frozenset[int]]  # errors: purged at the source, or never was there
    position_fact: ClassVar[str]
    recovers_truncate: ClassVar[bool]  # recovery knows of a TRUNCATE that was done and not logged

    read_positions: ClassVar[str]
    read_followers: ClassVar[str]

    open_writes: ClassVar[str] = "SET GLOBAL read_only = OFF"
    shut_writes: ClassVar[str]
    open_to_administrator: ClassVar[tuple[str, ...]] = ()  # before it, not even root could make an account

    section: ClassVar[str]  # of the configuration file
    settings: ClassVar[str]  # what every server has in it
    source_word: ClassVar[str]  # "Master" or "Source": so columns, counters and variables call the one that is followed
    replica_word: ClassVar[str]
    received_column: ClassVar[str]
    reload_tls: ClassVar[str]  # reads the certificates anew; never in the binary log
    applies_while_changing: ClassVar[bool]  # replication gets another password while the applier runs
    acknowledged_counter: ClassVar[str]
    keeps_the_rest: ClassVar[bool]  # beside a scope: accounts of the site itself, and a rebuild that spares their data
    begins_with: ClassVar[str]  # the event in which a file of the binary log says what was before it
    most_acknowledging: ClassVar[int]  # how many standbys a commit can be made to wait for

    @property
    def start_receiver(self) -> str:
        """The statement."""
        return f"START {self.replica_word.upper()} IO_THREAD"

    @property
    def stop_receiver(self) -> str:
        """The statement."""
        return f"STOP {self.replica_word.upper()} IO_THREAD"

    @property
    def start_applier(self) -> str:
        """The statement."""
        return f"START {self.replica_word.upper()} SQL_THREAD"

    @property
    def stop_applier(self) -> str:
        """The statement."""
        return f"STOP {self.replica_word.upper()} SQL_THREAD"

    @property
    def start_following(self) -> str:
        """The statement."""
        return f"START {self.replica_word.upper()}"

    @property
    def stop_following(self) -> str:
        """The statement."""
        return f"STOP {self.replica_word.upper()}"

    @property
    def forget_source(self) -> str:
        """The statement."""
        return f"RESET {self.replica_word.upper()} ALL"

    @property
    def read_semi_sync(self) -> str:
        """The statement."""
        return f"SHOW GLOBAL STATUS LIKE '{self._semi_sync_counters}%'"

    @property
    def read_replica(self) -> str:
        """The statement."""
        return f"SHOW {self.replica_word.upper()} STATUS"

    @property
    def _semi_sync_counters(self) -> str:
        return f"Rpl_semi_sync_{self.source_word.lower()}_"

    @abstractmethod
    def history(self, text: str) -> History:
        """Reads a position; raises ValueError."""

    @abstractmethod
    def positions(self, row: Row) -> tuple[bool, History, History, History]:
        """read_only, what is in the log, all that is applied, and all that this server will not lose any more.

        The last one is what a follower may have: it includes commits that wait for an acknowledgement.
        """

    def acknowledging(self, row: Row) -> bool:
        """Whether the semi-synchronous source is switched on, from the row of ``read_positions``."""
        return bool(row["e"])

    def acknowledge(self, on: bool) -> str:
        """The statement that switches the semi-synchronous source."""
        return f"SET GLOBAL rpl_semi_sync_{self.source_word.lower()}_enabled = {'ON' if on else 'OFF'}"

    def require(self, standbys: int) -> tuple[str, ...]:
        """The statements after which a commit waits for that many acknowledgements; none where it is always one."""
        return ()

    @property
    def read_giving(self) -> str:
        """The query for ``e``: whether a standby gives acknowledgements from its receiver's next start on."""
        return f"SELECT @@global.rpl_semi_sync_{self.replica_word.lower()}_enabled AS e"

    def give(self, on: bool) -> str:
        """The statement that switches a standby's acknowledgements, from its receiver's next start on."""
        return f"SET GLOBAL rpl_semi_sync_{self.replica_word.lower()}_enabled = {'ON' if on else 'OFF'}"

    def semi_sync(self, rows: list[Row]) -> SemiSync:
        """The source's counters, from the rows of ``read_semi_sync``."""
        value = {row["Variable_name"][len(self._semi_sync_counters) :]: row["Value"] for row in rows}
        return SemiSync(
            on=value.get("status") == "ON",
            clients=int(value.get("clients", 0)),
            waiting=int(value.get("wait_sessions", 0)),
            acknowledged=int(value.get(self.acknowledged_counter, 0)),
        )

    def replica(self, row: Row) -> Replica:
        """The state of replication, from the row of ``read_replica``."""
        source, replica = self.source_word, self.replica_word
        behind = row.get(f"Seconds_Behind_{source}")
        return Replica(
            host=row[f"{source}_Host"],
            port=int(row[f"{source}_Port"]),
            receiving=row[f"{replica}_IO_Running"] == "Yes",
            receiver=row[f"{replica}_IO_Running"],
            applying=row[f"{replica}_SQL_Running"] == "Yes",
            received=self.history(row[self.received_column] or ""),
            lag_s=-1.0 if behind is None else float(behind),
            receive_error=row["Last_IO_Error"] or "",
            receive_errno=int(row["Last_IO_Errno"] or 0),
            apply_error=row["Last_SQL_Error"] or "",
            apply_errno=int(row["Last_SQL_Errno"] or 0),
            delay_s=int(row.get("SQL_Delay") or 0),
            tls=self._channel_tls(row),
            user=row[f"{source}_User"] or "",
        )

    def _channel_tls(self, row: Row) -> TlsFiles | None:
        """What replication verifies and shows; None where it would not verify."""
        prefix = f"{self.source_word}_SSL"
        if row.get(f"{prefix}_Allowed") != "Yes" or row.get(f"{prefix}_Verify_Server_Cert") != "Yes":
            return None
        return TlsFiles(*(Path(row[f"{prefix}_{what}"]) for what in ("CA_File", "Cert", "Key")))

    def channel_tls(self, files: TlsFiles | None) -> str:
        """The part of the statement that points replication at a source: verified TLS, or none at all."""
        prefix = f"{self.source_word.upper()}_SSL"
        if files is None:
            return f"{prefix}=0"
        return (
            f"{prefix}=1, {prefix}_CA={quoted(str(files.ca))}, {prefix}_CERT={quoted(str(files.cert))},"
            f" {prefix}_KEY={quoted(str(files.key))}, {prefix}_VERIFY_SERVER_CERT=1"
        )

    @abstractmethod
    def parallel(self, threads: int) -> str:
        """The statement that sets how many threads apply; valid while the applier is stopped."""

    @abstractmethod
    def follow(self, source: Endpoint, parameters: Parameters, password: str, everything: History) -> tuple[str, ...]:
        """The statements that point replication at a source, without starting it."""

    def resume(self, everything: History) -> tuple[str, ...]:
        """The statements before replication goes on after the server's end; none where it knows what is applied."""
        return ()

    @abstractmethod
    def wait_applied(self, position: History, seconds: float) -> str:
        """A query whose ``r`` is 0 when everything up to the position is applied in time."""

    def configuration(self, site: str, parameters: Parameters, layout: Layout) -> str:
        """The server's configuration file: every start is without a role."""
        user = "user = root\n" if os.geteuid() == 0 else ""
        return (
            "# Written by graf-driver-mysql before each start; changes are lost.\n"
            f"[{self.section}]\n"
            f"{user}datadir = {layout.data}\n"
            f"socket = {parameters.socket}\n"
            f"pid_file = {layout.pid}\n"
            f"bind_address = {parameters.bind_address}\n"
            f"port = {parameters.port}\n"
            f"server_id = {parameters.server_id}\n"
            f"{self.own_settings(parameters)}"
            f"report_host = {site}\n"
            f"report_port = {parameters.port}\n"
            f"innodb_buffer_pool_size = {parameters.buffer_pool_mib}M\n"
            f"{'' if parameters.tls is None else parameters.tls.server_settings()}"
            f"{self.settings}"
            f"{self._size_of_files(parameters)}"
            f"{self._starts_silent(parameters)}"
        )

    def _size_of_files(self, parameters: Parameters) -> str:
        """Only whole files can be purged, so they are an eighth of the limit; never larger than by default."""
        if not parameters.binlog_max_mib:
            return ""
        return f"max_binlog_size = {min(_LARGEST_FILE, parameters.binlog_max_mib * _MIB // 8)}\n"

    def _starts_silent(self, parameters: Parameters) -> str:
        """With more than one standby nobody acknowledges without a permit, asynchronously nobody; later lines count."""
        silent = parameters.several_standbys or parameters.asynchronous
        return f"rpl_semi_sync_{self.replica_word.lower()}_enabled = OFF\n" if silent else ""

    def own_writes(self, logged: History, parameters: Parameters) -> int:
        """How far this server's own writes have come in its log; 0 where nobody can write at a standby."""
        return 0

    def log_skipped(self, logged: History, everything: History) -> tuple[str, ...]:
        """The statements that put transactions which a filter kept from being applied into the binary log, as names.

        None where the product does that by itself.
        """
        return ()

    def own_settings(self, parameters: Parameters) -> str:
        """Lines of the configuration file that depend on the parameters and that only this product has."""
        return ""

    @abstractmethod
    def arguments(self, truncate: bool, *, continues: bool) -> tuple[str, ...]:
        """More arguments of one start.

        Args:
            truncate: Recovery cuts off what is in the binary log and not committed in the engine.
            continues: What recovery itself logs goes on with this site's history (``recovery.py``).
        """

    def after_recovery(self, parameters: Parameters) -> tuple[str, ...]:
        """The statements after a start that did not continue the site's history: from now on it is continued."""
        return ()

    @abstractmethod
    def make_template(self, parameters: Parameters, layout: Layout, sql: str) -> None:
        """Makes an empty data directory in ``layout.template`` and runs the statements in it. Blocking.

        Raises:
            BootstrapError: The product's tools failed; the message has what they said.
        """

    @abstractmethod
    def users(self, password: str) -> tuple[str, ...]:
        """The statements that prepare a fresh server: nobody without a password, the replication user."""

    async def before(self, session: Session, name: str) -> History | None:
        """What had been logged before a file of the binary log was begun; None where the file does not say it."""
        events = await session.rows(f"SHOW BINLOG EVENTS IN {quoted(name)} LIMIT 3")
        for event in events:
            if event["Event_type"] == self.begins_with:
                try:
                    return self.history(str(event["Info"]).strip("[]"))
                except ValueError:
                    return None
        return None

    @abstractmethod
    async def gone(self, session: Session) -> History | None:
        """What a server has and its binary log has not (any more); None where that cannot be told."""

    async def log_complete(self, session: Session) -> bool:
        """Whether a server still has its binary log from the first transaction on."""
        gone = await self.gone(session)
        return gone is not None and not gone

    def copy_from(self, source: Endpoint, password: str, tls: TlsFiles | None, target: Path) -> tuple[str, ...]:
        """The statements by which this server copies another one into a folder."""
        raise NotImplementedError(f"{self.product} does not clone")

    @abstractmethod
    def read_account(self, user: str) -> str:
        """The query for an account's state."""

    @abstractmethod
    def account(self, row: Row) -> Account:
        """An account's state, from the row of ``read_account``."""

    @abstractmethod
    def accept_too(self, user: str, password: str, held: Account) -> tuple[str, ...]:
        """The statements after which a password is accepted beside what is accepted now."""

    @abstractmethod
    def accept_only(self, user: str, password: str) -> tuple[str, ...]:
        """The statements after which a password that is accepted is the only one; it is so at every moment."""

    def account_requires(self, user: str, *, tls: bool) -> str:
        """The statement: an account must show a certificate besides its password, or need not."""
        return f"ALTER USER {quoted(user)}@'%' REQUIRE {'X509' if tls else 'NONE'}"

    def log_in(self, user: str, password: str) -> str:
        """The statement that gives replication an account."""
        word = self.source_word.upper()
        to = "MASTER" if word == "MASTER" else "REPLICATION SOURCE"
        return f"CHANGE {to} TO {word}_USER={quoted(user)}, {word}_PASSWORD={quoted(password)}"

    def change_password(self, password: str) -> tuple[str, ...]:
        """The statements that give replication another password, from a stopped receiver to one that is started.

        The applier runs before and after, and everything received is applied.
        """
        return self.change(self.log_in(REPLICATION_USER, password))

    @abstractmethod
    def change(self, *statements: str) -> tuple[str, ...]:
        """Statements that change replication's settings, from a stopped receiver to one that is started; likewise."""

    def receive_anew_with(self, password: str) -> tuple[str, ...]:
        """The statements that start replication, both threads of which are stopped, without its relay log.

        A change of the source with both threads stopped deletes it (MySQL 8.4 manual, CHANGE REPLICATION SOURCE TO).
        """
        return (self.log_in(REPLICATION_USER, password), self.start_following)

    @abstractmethod
    def start_following_with(self, password: str) -> tuple[str, ...]:
        """The statements that start replication that is stopped, with a password that may be another one now."""

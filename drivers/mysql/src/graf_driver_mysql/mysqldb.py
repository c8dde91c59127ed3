"""MySQL 8.4 and newer (innovation releases 9.x too)."""

from __future__ import annotations

import json
import os
import pwd
from typing import TYPE_CHECKING

from graf_driver_mysql.engine import Engine, Row
from graf_driver_mysql.gtidset import GtidSet
from graf_driver_mysql.history import History
from graf_driver_mysql.parameters import HEARTBEAT_S, REPLICATION_USER, Endpoint, Parameters
from graf_driver_mysql.programs import bootstrap_run, program
from graf_driver_mysql.scope import escaped
from graf_driver_mysql.text import quoted
from graf_driver_mysql.values import Account

if TYPE_CHECKING:
    from pathlib import Path

    from graf_driver_mysql.layout import Layout
    from graf_driver_mysql.sql import Session
    from graf_driver_mysql.tls import TlsFiles

_SAFETY = """\
super_read_only = ON
skip_replica_start = ON
gtid_mode = ON
enforce_gtid_consistency = ON
log_bin = binlog
log_replica_updates = ON
relay_log = relay
relay_log_recovery = OFF
replicate_same_server_id = ON
binlog_expire_logs_seconds = 0
binlog_expire_logs_auto_purge = OFF
sync_binlog = 1
innodb_flush_log_at_trx_commit = 1
sync_relay_log = 1
sync_source_info = 10000
plugin_load_add = auth_socket.so
plugin_load_add = semisync_source.so
plugin_load_add = semisync_replica.so
plugin_load_add = mysql_clone.so
rpl_semi_sync_source_enabled = OFF
rpl_semi_sync_source_wait_point = AFTER_SYNC
rpl_semi_sync_source_timeout = 4294967295
rpl_semi_sync_source_wait_no_replica = ON
rpl_semi_sync_replica_enabled = ON
replica_net_timeout = 2
replica_preserve_commit_order = ON
"""

_ECONOMY = """\
mysqlx = OFF
secure_file_priv = NULL
performance_schema = OFF
skip_name_resolve = ON
innodb_redo_log_capacity = 32M
innodb_buffer_pool_dump_at_shutdown = OFF
innodb_buffer_pool_load_at_startup = OFF
max_connections = 220
max_user_connections = 200
loose_log_bin_trust_function_creators = ON
log_error_verbosity = 2
"""


class MySQL(Engine):
    """A position is a set of transactions, each named by the server that wrote it.

    Two facts differ from MariaDB in a way that matters: its recovery cannot cut off the tail of the binary log, so a
    deposed active may come back Diverged and is then rebuilt; and ``gtid_executed`` lacks a commit that waits for an
    acknowledgement, though a follower may have it: such ones are in ``gtid_owned``.
    """

    name = "mysql"
    product = "MySQL"
    server = ("mysqld", "mysql-server-core")
    reader = ("mysqlbinlog", "mysql-client-core")
    programs = (server, ("setpriv", "util-linux"))
    can_truncate = False
    ordered = True
    relay_log_unreadable = frozenset({1594, 13121, 13122})
    gone_from_source = frozenset({1236, 13114})
    position_fact = "gtid_executed"
    recovers_truncate = True

    read_positions = (
        "SELECT @@global.read_only r, @@global.gtid_executed b, @@global.gtid_owned o,"
        " @@global.rpl_semi_sync_source_enabled e"
    )
    read_followers = "SHOW REPLICAS"

    shut_writes = "SET GLOBAL super_read_only = ON"
    open_to_administrator = ("SET GLOBAL super_read_only = OFF",)  # read_only stays on

    section = "mysqld"
    settings = _SAFETY + _ECONOMY
    source_word = "Source"
    replica_word = "Replica"
    received_column = "Retrieved_Gtid_Set"
    reload_tls = "ALTER INSTANCE RELOAD TLS"
    applies_while_changing = True
    acknowledged_counter = "yes_tx"  # commits that were acknowledged
    keeps_the_rest = False
    begins_with = "Previous_gtids"
    most_acknowledging = 65535

    def history(self, text: str) -> History:
        """A set of intervals for each server."""
        return GtidSet.parse(text)

    def positions(self, row: Row) -> tuple[bool, History, History, History]:
        """What sessions own is in the binary log, or is about to be."""
        executed = GtidSet.parse(row["b"])
        return bool(row["r"]), executed, executed, executed.merged(GtidSet.parse(row["o"]))

    def parallel(self, threads: int) -> str:
        """At least one worker; the order of commits is kept with any number of them."""
        return f"SET GLOBAL replica_parallel_workers = {max(1, threads)}"

    def follow(self, source: Endpoint, parameters: Parameters, password: str, everything: History) -> tuple[str, ...]:
        """It knows by itself what it has. A retry count of 0 means for ever: the default gives up after ten."""
        return (
            f"CHANGE REPLICATION SOURCE TO SOURCE_HOST={quoted(source.host)}, SOURCE_PORT={source.port},"
            f" SOURCE_USER={quoted(REPLICATION_USER)}, SOURCE_PASSWORD={quoted(password)},"
            f" SOURCE_AUTO_POSITION=1, SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT=0,"
            f" SOURCE_HEARTBEAT_PERIOD={HEARTBEAT_S}, GET_SOURCE_PUBLIC_KEY=1,"
            f" {self.channel_tls(parameters.tls)}",
        )

    def change(self, *statements: str) -> tuple[str, ...]:
        """The receiver's settings change while the applier runs, and its relay log stays."""
        return (*statements, self.start_receiver)

    def require(self, standbys: int) -> tuple[str, ...]:
        """Each of them counts once, by its ``server_id``."""
        return (f"SET GLOBAL rpl_semi_sync_source_wait_for_replica_count = {standbys}",)

    def start_following_with(self, password: str) -> tuple[str, ...]:
        """The applier first: with both threads stopped, the change would discard the relay log."""
        return (self.start_applier, *self.change_password(password))

    async def gone(self, session: Session) -> History | None:
        """What was purged, and what came with a copy and was never in a file here."""
        return GtidSet.parse(str((await session.row("SELECT @@global.gtid_purged AS p"))["p"]))

    def copy_from(self, source: Endpoint, password: str, tls: TlsFiles | None, target: Path) -> tuple[str, ...]:
        """The clone plug-in; both servers must be of the same version."""
        with_tls: tuple[str, ...] = ()
        if tls is not None:
            files = (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key))
            with_tls = tuple(f"SET GLOBAL clone_ssl_{what} = {quoted(str(path))}" for what, path in files)
        return (
            f"SET GLOBAL clone_valid_donor_list = {quoted(f'{source.host}:{source.port}')}",
            *with_tls,
            f"CLONE INSTANCE FROM {quoted(REPLICATION_USER)}@{quoted(source.host)}:{source.port} IDENTIFIED BY"
            f" {quoted(password)} DATA DIRECTORY = {quoted(str(target))} REQUIRE {'NO SSL' if tls is None else 'SSL'}",
        )

    def read_account(self, user: str) -> str:
        """The second password is an attribute of the account."""
        columns = "User_attributes AS a, ssl_type AS s"
        return f"SELECT {columns} FROM mysql.user WHERE User = {quoted(user)} AND Host = '%'"  # noqa: S608

    def account(self, row: Row) -> Account:
        """Two at most; which passwords they are cannot be seen."""
        kind = row["s"].decode() if isinstance(row["s"], bytes) else row["s"]
        return Account("additional_password" in json.loads(row["a"] or "{}"), kind == "X509")

    def accept_too(self, user: str, password: str, held: Account) -> tuple[str, ...]:
        """With two already, a rotation was overtaken: the oldest stays, which a site may still use, and the one between
        goes, which no site has shown to use.
        """
        keep = "" if held.several else " RETAIN CURRENT PASSWORD"
        return (f"ALTER USER {quoted(user)}@'%' IDENTIFIED BY {quoted(password)}{keep}",)

    def accept_only(self, user: str, password: str) -> tuple[str, ...]:
        """The first makes it the current one where it is the old one: a Secret that was taken back."""
        account = f"{quoted(user)}@'%'"
        return (
            f"ALTER USER {account} IDENTIFIED BY {quoted(password)}",
            f"ALTER USER {account} DISCARD OLD PASSWORD",
        )

    def wait_applied(self, position: History, seconds: float) -> str:
        """``WAIT_FOR_EXECUTED_GTID_SET`` gives 1 when the time is over."""
        return f"SELECT WAIT_FOR_EXECUTED_GTID_SET({quoted(str(position))}, {seconds:.3f}) AS r"

    def own_settings(self, parameters: Parameters) -> str:
        """With a scope: what is applied. What is not gets its name into the log by itself, as an empty transaction."""
        if (scope := parameters.scope) is None:
            return ""
        lines = ["replicate-do-table = graf.probe"]
        lines += [f"replicate-wild-do-table = {escaped(name)}.%" for name in scope.databases]
        lines += [f"replicate-do-table = {database}.{table}" for database, table in scope.tables]
        return "\n".join(lines) + "\n"

    def arguments(self, truncate: bool, *, continues: bool) -> tuple[str, ...]:
        """None: recovery keeps what is in the binary log, and writes nothing into it."""
        return ()

    def make_template(self, parameters: Parameters, layout: Layout, sql: str) -> None:
        """``--initialize-insecure`` with the statements, then the administrator's way in: the socket and nothing else.

        Plug-ins are not loaded while it initialises, hence two starts. Each copy makes a UUID of its own: a
        rebuilt site must never give a transaction a name that the archived one has used.
        """
        mysqld = program(*self.server)
        common = ["--no-defaults", f"--datadir={layout.template}", "--innodb-buffer-pool-size=16M"]
        common += ["--innodb-redo-log-capacity=32M", "--performance-schema=OFF", "--skip-networking", "--mysqlx=OFF"]
        common += ["--secure-file-priv=NULL"]
        common += ["--user=root"] if os.geteuid() == 0 else []
        user = pwd.getpwuid(os.geteuid()).pw_name
        admin = f"ALTER USER root@localhost IDENTIFIED WITH auth_socket AS {quoted(user)};\nSHUTDOWN;\n"
        init = layout.root / "init.sql"
        try:
            init.touch(mode=0o600)
            init.write_text(sql, encoding="utf-8")
            bootstrap_run([mysqld, *common, "--initialize-insecure", f"--init-file={init}"], "")
            init.write_text(admin, encoding="utf-8")
            socket = layout.root / "init.sock"
            more = ["--plugin-load-add=auth_socket.so", "--disable-log-bin", f"--socket={socket}"]
            bootstrap_run([mysqld, *common, *more, f"--init-file={init}"], "")
        finally:
            init.unlink(missing_ok=True)
        (layout.template / "auto.cnf").unlink(missing_ok=True)

    def users(self, password: str) -> tuple[str, ...]:
        """REPLICATION CLIENT is what positions and the state of replication need."""
        return (
            f"CREATE USER {REPLICATION_USER}@'%' IDENTIFIED BY {quoted(password)};",
            f"GRANT REPLICATION SLAVE, REPLICATION CLIENT, BACKUP_ADMIN ON *.* TO {REPLICATION_USER}@'%';",
        )

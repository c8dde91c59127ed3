"""MariaDB 10.11 and newer."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from typing import TYPE_CHECKING

from graf_driver_mysql.engine import Engine, Row
from graf_driver_mysql.gtid import Position
from graf_driver_mysql.history import History
from graf_driver_mysql.parameters import HEARTBEAT_S, REPLICATION_USER, Endpoint, Parameters
from graf_driver_mysql.programs import bootstrap_run, program
from graf_driver_mysql.scope import ENTER, escaped
from graf_driver_mysql.text import quoted
from graf_driver_mysql.values import Account

if TYPE_CHECKING:
    from graf_driver_mysql.layout import Layout
    from graf_driver_mysql.sql import Session

# What the safety of the driver rests on. Each line has a test or a measured fact in docs/reference/drivers/mysql.md.
_SAFETY = """\
read_only = ON
skip_slave_start = ON
gtid_strict_mode = ON
log_bin = binlog
log_slave_updates = ON
relay_log = relay
binlog_format = ROW
binlog_expire_logs_seconds = 0
sync_binlog = 1
innodb_flush_log_at_trx_commit = 1
sync_relay_log = 1
sync_master_info = 10000
sync_relay_log_info = 10000
rpl_semi_sync_master_enabled = OFF
rpl_semi_sync_master_wait_point = AFTER_SYNC
rpl_semi_sync_master_timeout = 4294967295000
rpl_semi_sync_master_wait_no_slave = ON
rpl_semi_sync_slave_enabled = ON
slave_net_timeout = 2
slave_parallel_mode = optimistic
slave_parallel_threads = 0
"""

_ECONOMY = """\
performance_schema = OFF
feedback = OFF
skip_name_resolve = ON
innodb_log_file_size = 16M
innodb_buffer_pool_dump_at_shutdown = OFF
innodb_buffer_pool_load_at_startup = OFF
max_connections = 220
max_user_connections = 200
log_bin_trust_function_creators = ON
log_warnings = 2
"""
# No site writes in it (``gtidDomainId`` begins at 1): what is in it was never anybody's history.
NOBODYS_DOMAIN = 0
_COMMON = ["--innodb-buffer-pool-size=16M", "--innodb-log-file-size=16M", "--performance-schema=OFF"]


class MariaDB(Engine):
    """A position is the last transaction of each replication domain; each site writes in a domain of its own."""

    name = "mariadb"
    product = "MariaDB"
    server = ("mariadbd", "mariadb-server-core")
    reader = ("mariadb-binlog", "mariadb-client")
    programs = (server, ("mariadb-install-db", "mariadb-server-core"), ("setpriv", "util-linux"))
    can_truncate = True
    ordered = False
    # 1866 is met without any damage: a receiver that was stopped inside a transaction goes on behind it, and with the
    # transactions of two domains in between MariaDB (10.11.19) takes the part for a whole.
    relay_log_unreadable = frozenset({1594, 1866})
    gone_from_source = frozenset({1236})
    position_fact = "gtid_binlog_pos"
    recovers_truncate = False

    read_positions = (
        "SELECT @@global.read_only r, @@global.gtid_binlog_pos b, @@global.gtid_slave_pos s,"
        " @@global.rpl_semi_sync_master_enabled e"
    )
    read_followers = "SHOW SLAVE HOSTS"

    shut_writes = "SET GLOBAL read_only = ON"

    section = "mariadbd"
    settings = _SAFETY + _ECONOMY
    source_word = "Master"
    replica_word = "Slave"
    received_column = "Gtid_IO_Pos"
    reload_tls = "FLUSH LOCAL SSL"
    applies_while_changing = False
    acknowledged_counter = "get_ack"
    keeps_the_rest = True
    begins_with = "Gtid_list"
    most_acknowledging = 1

    def history(self, text: str) -> History:
        """The last transaction of each domain."""
        return Position.parse(text)

    def positions(self, row: Row) -> tuple[bool, History, History, History]:
        """The binary log has commits that wait for an acknowledgement too."""
        logged = Position.parse(row["b"])
        everything = logged.merged(Position.parse(row["s"]))
        return bool(row["r"]), logged, everything, everything

    def parallel(self, threads: int) -> str:
        """0 is serial."""
        return f"SET GLOBAL slave_parallel_threads = {threads}"

    def follow(self, source: Endpoint, parameters: Parameters, password: str, everything: History) -> tuple[str, ...]:
        """An active that becomes a standby has its own transactions in the log only, not in the slave's position."""
        return (
            f"SET GLOBAL gtid_slave_pos = {quoted(str(everything))}",
            f"CHANGE MASTER TO MASTER_HOST={quoted(source.host)}, MASTER_PORT={source.port},"
            f" MASTER_USER={quoted(REPLICATION_USER)}, MASTER_PASSWORD={quoted(password)},"
            f" MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD={HEARTBEAT_S},"
            f" {self.channel_tls(parameters.tls)}",
        )

    def change(self, *statements: str) -> tuple[str, ...]:
        """It changes nothing while one of the threads runs."""
        return (self.stop_applier, *statements, self.start_following)

    def start_following_with(self, password: str) -> tuple[str, ...]:
        """A start with both threads stopped discards the relay log, with this or without."""
        return (self.log_in(REPLICATION_USER, password), self.start_following)

    async def gone(self, session: Session) -> History | None:
        """The first file that is still there begins with what was before it: nothing, where it is the first of all."""
        files = await session.rows("SHOW BINARY LOGS")
        return await self.before(session, str(files[0]["Log_name"])) if files else None

    def read_account(self, user: str) -> str:
        """``SHOW CREATE USER`` would have to be parsed."""
        return f"SELECT Priv AS p FROM mysql.global_priv WHERE User = {quoted(user)} AND Host = '%'"  # noqa: S608

    def account(self, row: Row) -> Account:
        """One way in, or ``auth_or``: a list of ways, of which an empty one stands for the account's own."""
        raw = json.loads(row["p"])
        own = raw.get("authentication_string", "")
        hashes = [way.get("authentication_string", own) for way in raw.get("auth_or", [{}])]
        return Account(len(hashes) > 1, raw.get("ssl_type") == 2, tuple(hashes))

    def accept_too(self, user: str, password: str, held: Account) -> tuple[str, ...]:
        """Two at most, as with MySQL: PyMySQL, for one, follows a server to a second way in and to no third.

        Where a rotation was overtaken, the oldest stays, which a site may still use. Hashes and not the password:
        MariaDB writes the statement as it is into the binary log.
        """
        ways = " OR ".join(map(_way, (_hash(password), *held.hashes[-1:])))
        return (f"ALTER USER {quoted(user)}@'%' IDENTIFIED VIA {ways}",)

    def accept_only(self, user: str, password: str) -> tuple[str, ...]:
        """One statement."""
        return (f"ALTER USER {quoted(user)}@'%' IDENTIFIED VIA {_way(_hash(password))}",)

    def resume(self, everything: History) -> tuple[str, ...]:
        """A change of a table is in the binary log a moment before it is in the slave's position.

        Killed in between, the server would apply it a second time, and gtid_strict_mode refuses that (measured).
        """
        return (f"SET GLOBAL gtid_slave_pos = {quoted(str(everything))}",) if everything else ()

    def wait_applied(self, position: History, seconds: float) -> str:
        """``MASTER_GTID_WAIT`` gives -1 when the time is over."""
        return f"SELECT MASTER_GTID_WAIT({quoted(str(position))}, {seconds:.3f}) AS r"

    def own_writes(self, logged: History, parameters: Parameters) -> int:
        """``read_only`` lets administrators through: what they write is in the site's own domain."""
        last = Position.parse(str(logged)).last.get(parameters.gtid_domain_id)
        return 0 if last is None else last.sequence

    def log_skipped(self, logged: History, everything: History) -> tuple[str, ...]:
        """A domain whose newest transaction was filtered gets a write of the driver's under that transaction's name.

        Else the binary log of the next active would end before what it says to have, and who is built from it alone
        would never reach that.
        """
        held, all_of_it = Position.parse(str(logged)), Position.parse(str(everything))
        found: list[str] = []
        for gtid in all_of_it:
            if gtid.domain in all_of_it.domains_beyond(held):
                found.append(
                    f"SET SESSION gtid_domain_id = {gtid.domain}, SESSION server_id = {gtid.server},"
                    f" SESSION gtid_seq_no = {gtid.sequence}"
                )
                found.append("INSERT INTO graf.probe VALUES ('skipped', 1) ON DUPLICATE KEY UPDATE number = number + 1")
        return tuple(found)

    def own_settings(self, parameters: Parameters) -> str:
        """The domain that this site writes in; with a scope, who is logged and what is applied."""
        lines = [f"gtid_domain_id = {parameters.gtid_domain_id}"]
        if (scope := parameters.scope) is not None:
            lines.append(f"init_connect = {ENTER}")
            lines.append("replicate_do_table = graf.probe")
            lines += [f"replicate_wild_do_table = {escaped(name)}.%" for name in scope.databases]
            lines += [f"replicate_do_table = {database}.{table}" for database, table in scope.tables]
        return "\n".join(lines) + "\n"

    def arguments(self, truncate: bool, *, continues: bool) -> tuple[str, ...]:
        """A replica by role cuts its tail off at recovery, a source keeps it."""
        role = (f"--init-rpl-role={'SLAVE' if truncate else 'MASTER'}",)
        return role if continues else (*role, f"--gtid-domain-id={NOBODYS_DOMAIN}")

    def after_recovery(self, parameters: Parameters) -> tuple[str, ...]:
        """Sessions take it over when they are opened."""
        return (f"SET GLOBAL gtid_domain_id = {parameters.gtid_domain_id}",)

    def make_template(self, parameters: Parameters, layout: Layout, sql: str) -> None:
        """``mariadb-install-db``, then the statements in bootstrap mode."""
        user = pwd.getpwuid(os.geteuid()).pw_name
        as_root = ["--user=root"] if os.geteuid() == 0 else []
        # Each server removes temporary tables that it finds in /tmp when it starts, those of another one too.
        temporary = layout.root / "tmp"
        temporary.mkdir(exist_ok=True, mode=0o700)
        common = [*_COMMON, f"--tmpdir={temporary}"]
        bootstrap_run(
            [
                program("mariadb-install-db", "mariadb-server-core"),
                "--no-defaults",
                f"--datadir={layout.template}",
                "--auth-root-authentication-method=socket",
                f"--auth-root-socket-user={user}",
                "--skip-test-db",
                *as_root,
                *common,
            ],
            "",
        )
        bootstrap_run(
            [program(*self.server), "--no-defaults", "--bootstrap", f"--datadir={layout.template}", *as_root, *common],
            sql,
        )

    def users(self, password: str) -> tuple[str, ...]:
        """Bootstrap mode starts without grant tables."""
        return (
            "FLUSH PRIVILEGES;",
            "DELETE FROM mysql.global_priv WHERE User = '';",
            f"CREATE USER {REPLICATION_USER}@'%' IDENTIFIED BY {quoted(password)};",
            f"GRANT REPLICATION SLAVE, BINLOG MONITOR, SLAVE MONITOR ON *.* TO {REPLICATION_USER}@'%';",
        )


def _hash(password: str) -> str:
    """As ``PASSWORD()`` gives it."""
    once = hashlib.sha1(password.encode()).digest()  # noqa: S324 - the product's own
    return "*" + hashlib.sha1(once).hexdigest().upper()  # noqa: S324


def _way(hashed: str) -> str:
    return f"mysql_native_password USING {quoted(hashed)}"

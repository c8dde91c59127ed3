"""The component's parameters: typed, each mistake reported with field, cause and fix."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graf_driver_sdk.errors import InvalidParametersError
from graf_driver_sdk.types import FieldProblem

from graf_driver_mysql import methods
from graf_driver_mysql import scope as scopes
from graf_driver_mysql.scope import Scope
from graf_driver_mysql.text import LONGEST_PASSWORD, unusable
from graf_driver_mysql.tls import DEFAULT_DIR, TlsFiles

DEFAULT_DATA_DIR = "/var/lib/graf/mysql"
DEFAULT_SOCKET_DIR = "/run/graf/mysql"
DEFAULT_CREDENTIALS_DIR = "/etc/graf/mysql"
REPLICATION_USER = "graf_repl"
HEARTBEAT_S = 0.1  # the source's sign of life on an idle connection; it is also how it notices a dead standby
ENGINE_NAMES = ("mariadb", "mysql")
MODES = ("lossless", "async")
MOST_RPO_S = 7 * 86400
SOCKET_NAME = "mariadb.sock"
COPY_PORT_OFFSET = 10000
BINLOG_KEEP_HOURS = 168
BINLOG_MAX_MIB = 10240
EXPIRY = ("binlogKeepHours", "binlogMaxMiB")

KNOWN = {
    "replicationAddress", "port", "bindAddress", "serverId", "gtidDomainId", "dataDir", "socketDir",
    "credentialsDir", "initSql", "application", "bufferPoolMiB", "parallelThreads", "engine",
    "scope", "tls", "applicationGraceS", "copyAboveMiB", "bootstrap", "copyPort", "severalStandbys",
    "mode", "rpoSeconds", "binlogKeepHours", "binlogMaxMiB",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")


@dataclass(frozen=True, slots=True)
class Parameters:
    """What this site's server needs to know. Paths are inside the driver's container."""

    replication_address: str
    server_id: int
    gtid_domain_id: int
    port: int = 3306
    bind_address: str = "0.0.0.0"  # noqa: S104 - the gate of the network driver decides who gets in
    data_dir: Path = Path(DEFAULT_DATA_DIR)
    socket_dir: Path = Path(DEFAULT_SOCKET_DIR)
    credentials_dir: Path = Path(DEFAULT_CREDENTIALS_DIR)
    init_sql: Path | None = None
    application_database: str | None = None
    application_user: str | None = None
    buffer_pool_mib: int = 32
    parallel_threads: int = 4
    engine: str = "mariadb"
    scope: Scope | None = None  # None: the whole server
    tls: TlsFiles | None = None  # None: in the clear
    copy_above_mib: int = 64  # a longer log is not replayed from its beginning where a copy can be made
    bootstrap: str = methods.AUTO  # or the name of a method (methods.py)
    copy_port: int = 13306  # where the driver of another site gets a copy from
    application_grace_s: int = 3600  # the application's old password is accepted for so long
    mode: str = "lossless"  # async: no commit waits for another site
    rpo_s: float | None = None  # in mode async: writes of so many seconds may be missing where it is promoted
    binlog_keep_hours: int = 0  # older files go when nobody needs them; 0: not for their age
    binlog_max_mib: int = 0  # above, files go that a site needs which is away; 0: no limit
    several_standbys: bool = False  # the group has more than two sites: acknowledging needs a permit (acks.py)

    @property
    def asynchronous(self) -> bool:
        """Whether no commit waits for another site, whoever is active."""
        return self.mode == "async"

    @property
    def socket(self) -> Path:
        """The server's unix socket: the driver's way in."""
        return self.socket_dir / SOCKET_NAME

    @property
    def replication_password_file(self) -> Path:
        """Password of the user that replicates and asks for positions; the same at every site."""
        return self.credentials_dir / "replication-password"

    @property
    def application_password_file(self) -> Path:
        """Password of the application's user; the same at every site."""
        return self.credentials_dir / "application-password"

    @property
    def local_password_file(self) -> Path:
        """Password of the site's own accounts (``scope.local``)."""
        return self.credentials_dir / "local-password"

    @property
    def password_files(self) -> tuple[Path, ...]:
        """Those that are needed."""
        found = [self.replication_password_file]
        if self.application_user is not None:
            found.append(self.application_password_file)
        if self.scope is not None and self.scope.local:
            found.append(self.local_password_file)
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where another site's server is reached for replication."""

    site: str
    host: str
    port: int
    copy_port: int = 0


def default_copy_port(port: int) -> int:
    """Far from the server's own: the next number is often another server's."""
    return port + COPY_PORT_OFFSET if port + COPY_PORT_OFFSET <= 65535 else port - COPY_PORT_OFFSET


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.problems: list[FieldProblem] = []

    def problem(self, field: str, cause: str, fix: str) -> None:
        self.problems.append(FieldProblem(field, cause, fix))

    def integer(self, field: str, low: int, high: int, default: int | None = None) -> int:
        value = self.raw.get(field, default)
        if value is None:
            self.problem(field, "is missing", f"set a whole number from {low} to {high}")
            return low
        # protobuf's Struct knows only doubles: 20.0 is the number 20.
        if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
            self.problem(field, f"{value!r} is not a whole number", f"set a number from {low} to {high}")
            return low
        if not low <= int(value) <= high:
            self.problem(field, f"{int(value)} is out of range", f"set a number from {low} to {high}")
            return low
        return int(value)

    def address(self, field: str, default: str | None = None) -> str:
        value = self.raw.get(field, default)
        try:
            return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
        except ValueError:
            cause = "is missing" if value is None else f"{value!r} is not an IP address"
            self.problem(field, cause, "set this site's address on the replication network, e.g. 198.18.0.20")
            return "127.0.0.1"

    def path(self, field: str, default: str) -> Path:
        value = self.raw.get(field, default)
        if not isinstance(value, str) or not value.startswith("/"):
            self.problem(field, f"{value!r} is not an absolute path", f"set a path, e.g. {default}")
            return Path(default)
        return Path(value)

    def boolean(self, field: str) -> bool:
        value = self.raw.get(field, False)
        if not isinstance(value, bool):
            self.problem(field, f"{value!r} is not true or false", "leave it out for false")
            return False
        return value

    def choice(self, field: str, names: tuple[str, ...]) -> str:
        value = self.raw.get(field, names[0])
        if value not in names:
            self.problem(field, f"{value!r} is not one of {', '.join(names)}", f"leave it out for {names[0]}")
            return names[0]
        return str(value)


def parse(raw: Mapping[str, Any]) -> Parameters:
    """Reads the parameters of this site; raises InvalidParametersError with every problem."""
    reader = _Reader(raw)
    for field in sorted(set(raw) - KNOWN):
        reader.problem(field, "is not a parameter of the mysql driver", f"remove it; known: {', '.join(sorted(KNOWN))}")
    database, user = _application(reader)
    socket_dir = reader.path("socketDir", DEFAULT_SOCKET_DIR)
    if len(str(socket_dir / SOCKET_NAME)) > 100:
        reader.problem("socketDir", "is too long for a unix socket", "choose a path of at most 80 characters")
    port = reader.integer("port", 1, 65535, 3306)
    init_sql = reader.path("initSql", "/") if "initSql" in raw else None
    if init_sql is not None and not init_sql.is_file():
        reader.problem("initSql", f"{init_sql} is not a file here", "mount the file into the driver's container")
    parameters = Parameters(
        replication_address=reader.address("replicationAddress"),
        server_id=reader.integer("serverId", 1, 2**32 - 1),
        gtid_domain_id=reader.integer("gtidDomainId", 1, 2**32 - 1),
        port=port,
        bind_address=reader.address("bindAddress", "0.0.0.0"),  # noqa: S104
        data_dir=reader.path("dataDir", DEFAULT_DATA_DIR),
        socket_dir=socket_dir,
        credentials_dir=reader.path("credentialsDir", DEFAULT_CREDENTIALS_DIR),
        init_sql=init_sql,
        application_database=database,
        application_user=user,
        buffer_pool_mib=reader.integer("bufferPoolMiB", 8, 1 << 20, 32),
        parallel_threads=reader.integer("parallelThreads", 0, 64, 4),
        engine=reader.choice("engine", ENGINE_NAMES),
        scope=scopes.read(raw.get("scope"), reader.problem),
        tls=_tls(reader),
        copy_above_mib=reader.integer("copyAboveMiB", 0, 1 << 30, 64),
        bootstrap=reader.choice("bootstrap", methods.NAMES),
        copy_port=reader.integer("copyPort", 1, 65535, default_copy_port(port)),
        application_grace_s=reader.integer("applicationGraceS", 0, 30 * 86400, 3600),
        mode=reader.choice("mode", MODES),
        rpo_s=_rpo(reader),
        several_standbys=reader.boolean("severalStandbys"),
    )
    keep_hours, max_mib = _expiry(reader, parameters)
    parameters = replace(parameters, binlog_keep_hours=keep_hours, binlog_max_mib=max_mib)
    _check_scope(reader, parameters)
    _check_bootstrap(reader, parameters)
    _check_secrets(reader, parameters)
    if reader.problems:
        raise InvalidParametersError(tuple(reader.problems))
    return parameters


def _application(reader: _Reader) -> tuple[str | None, str | None]:
    raw = reader.raw.get("application")
    if raw is None:
        return None, None
    if not isinstance(raw, Mapping) or set(raw) != {"database", "user"}:
        reader.problem("application", "is not {database, user}", "set both names and nothing else")
        return None, None
    for key in ("database", "user"):
        if not isinstance(raw[key], str) or not _NAME.fullmatch(raw[key]):
            reader.problem(
                f"application.{key}",
                f"{raw[key]!r} is not a plain name",
                "use letters, digits and underscores, at most 32, not starting with a digit",
            )
            return None, None
    return raw["database"], raw["user"]


def _check_scope(reader: _Reader, parameters: Parameters) -> None:
    """What a scope cannot be together with: refused, because it would only seem to be kept."""
    scope = parameters.scope
    if scope is None:
        return
    if parameters.engine != "mariadb" and scope.local:
        cause = "MySQL lets no account pass super_read_only, and whoever passes read_only would be in the binary log"
        reader.problem("scope.local", cause, "use MariaDB, or leave it out")
    database, user = parameters.application_database, parameters.application_user
    if database is not None and database not in scope.all_databases:
        reader.problem("application.database", f"{database} is not in scope ({scope})", "put it into the scope")
    if user is not None and user in scope.local_users:
        reader.problem("scope.local", f"{user} is the application's user", "the site's own accounts have other names")
    if parameters.init_sql is not None and scope.tables:
        reader.problem(
            "initSql",
            "cannot be run again for single tables: a rebuild begins with what it makes",
            "create the tables as the application's user, or put whole databases into the scope",
        )


def _check_bootstrap(reader: _Reader, parameters: Parameters) -> None:
    asked, engine = parameters.bootstrap, parameters.engine
    if parameters.copy_port == parameters.port:
        reader.problem("copyPort", f"{parameters.port} is the server's own port", "choose another one")
    if asked in (methods.AUTO, methods.Method.LOG):
        return
    if asked in methods.PHYSICAL.values() and asked != methods.PHYSICAL[engine]:
        reader.problem("bootstrap", f"{engine} has no {asked}", f"use {methods.PHYSICAL[engine]}, dump, log or auto")
    elif parameters.scope is not None:
        reader.problem("bootstrap", f"{asked} replaces the whole server, of which a part is in scope", "leave it out")


def _rpo(reader: _Reader) -> float | None:
    """The convention of all drivers whose data is copied asynchronously: see the driver contract."""
    value = reader.raw.get("rpoSeconds")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MOST_RPO_S:
        reader.problem("rpoSeconds", f"{value!r} is no number of seconds", f"set 1 to {MOST_RPO_S}")
        return None
    if reader.raw.get("mode", MODES[0]) != "async":
        reader.problem("rpoSeconds", "is for mode async", "leave it out, or set mode: async: lossless loses nothing")
    return float(value)


def _expiry(reader: _Reader, parameters: Parameters) -> tuple[int, int]:
    """By default the log expires, except where a site can be bootstrapped by nothing else."""
    only = "a part of a server" if parameters.scope is not None else ""
    if parameters.bootstrap == methods.Method.LOG:
        only = "bootstrap: log"
    keep_hours = reader.integer(EXPIRY[0], 0, 87600, 0 if only else BINLOG_KEEP_HOURS)
    max_mib = reader.integer(EXPIRY[1], 0, 1 << 30, 0 if only else BINLOG_MAX_MIB)
    for field, value in zip(EXPIRY, (keep_hours, max_mib), strict=True):
        if only and value:
            cause = f"a site is bootstrapped by the log alone ({only}): one that is away would never get it any more"
            reader.problem(field, cause, "leave it out: the log stays whole")
    return keep_hours, max_mib


def _tls(reader: _Reader) -> TlsFiles | None:
    """Where the files are. Validate looks into them; a server is fenced and activated whatever is in them."""
    raw = reader.raw.get("tls")
    if raw is None:
        return None
    if not isinstance(raw, Mapping) or not set(raw) <= {"ca", "cert", "key"}:
        reader.problem("tls", "is not {ca, cert, key}", "set paths, or {} for a Secret at " + DEFAULT_DIR)
        return None
    inner = _Reader(raw)
    files = TlsFiles(
        ca=inner.path("ca", f"{DEFAULT_DIR}/ca.crt"),
        cert=inner.path("cert", f"{DEFAULT_DIR}/tls.crt"),
        key=inner.path("key", f"{DEFAULT_DIR}/tls.key"),
    )
    for problem in inner.problems:
        reader.problem(f"tls.{problem.field}", problem.cause, problem.fix)
    return files


def _check_secrets(reader: _Reader, parameters: Parameters) -> None:
    for path in parameters.password_files:
        try:
            password = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            reader.problem("credentialsDir", f"cannot read {path}: {error.strerror}", "mount the Secret there")
            continue
        except UnicodeDecodeError:
            reader.problem("credentialsDir", f"{path} is not text", "put a password of printable ASCII into the Secret")
            continue
        if not password:
            reader.problem("credentialsDir", f"{path} is empty", "put a password into the Secret")


def password_problems(parameters: Parameters) -> list[FieldProblem]:
    """Passwords that would not work everywhere. For Validate alone: whoever serves already is fenced all the same."""
    found = []
    for path in parameters.password_files:
        longest = LONGEST_PASSWORD[parameters.engine] if path == parameters.replication_password_file else 0
        if why := unusable(path.read_text(encoding="utf-8").strip(), longest):
            cause = f"the password in {path} cannot be used: {why}"
            found.append(FieldProblem("credentialsDir", cause, "put another one into the Secret"))
    return found


def peer_endpoint(site: str, raw: Mapping[str, Any]) -> Endpoint:
    """Where the component at another site is reached; raises InvalidParametersError."""
    reader = _Reader(raw)
    host = reader.address("replicationAddress")
    port = reader.integer("port", 1, 65535, 3306)
    copy_port = reader.integer("copyPort", 1, 65535, default_copy_port(port))
    if reader.problems:
        raise InvalidParametersError(
            tuple(FieldProblem(f"peers[{site}].{p.field}", p.cause, p.fix) for p in reader.problems)
        )
    return Endpoint(site, host, port, copy_port)


def peer_server_id(site: str, raw: Mapping[str, Any]) -> int:
    """By which number the server at another site acknowledges; raises InvalidParametersError."""
    reader = _Reader(raw)
    number = reader.integer("serverId", 1, 2**32 - 1)
    if reader.problems:
        raise InvalidParametersError(
            tuple(FieldProblem(f"peers[{site}].{p.field}", p.cause, p.fix) for p in reader.problems)
        )
    return number


def standby_problems(own: Parameters, peers: Mapping[str, Mapping[str, Any]]) -> tuple[FieldProblem, ...]:
    """With more than one standby, acknowledgements have to be told apart, and by all of them."""
    problems = []
    if len(peers) > 1 and not own.several_standbys and not own.asynchronous:
        cause = f"is not set, and there are {len(peers)} other sites ({', '.join(sorted(peers))})"
        problems.append(FieldProblem("severalStandbys", cause, "set it to true at every site and restart the drivers"))
    for site, raw in sorted(peers.items()):
        if bool(raw.get("severalStandbys", False)) is not own.several_standbys:
            has = "does not have it" if own.several_standbys else "has it"
            problems.append(FieldProblem("severalStandbys", f"site {site} {has}", "set the same at all sites"))
    return tuple(problems)


def peer_conflicts(own: Parameters, peers: Mapping[str, Mapping[str, Any]]) -> tuple[FieldProblem, ...]:
    """Identities that must differ between sites and do not."""
    problems = list(standby_problems(own, peers))
    checks: tuple[tuple[str, Callable[[Parameters], int]], ...] = (
        ("serverId", lambda p: p.server_id),
        ("gtidDomainId", lambda p: p.gtid_domain_id),
    )
    for site, raw in sorted(peers.items()):
        for field, value in checks:
            if raw.get(field) == value(own):
                problems.append(FieldProblem(field, f"site {site} has the same one", "give each site its own number"))
        theirs = raw.get("engine", ENGINE_NAMES[0])
        if theirs != own.engine:
            problems.append(FieldProblem("engine", f"site {site} has {theirs!r}", "use one product at all sites"))
        if (mode := raw.get("mode", MODES[0])) != own.mode:
            problems.append(FieldProblem("mode", f"site {site} has {mode!r}", "set the same at all sites"))
        scope = scopes.read(raw.get("scope"), lambda *_: None)
        if _scope_text(scope) != _scope_text(own.scope):
            problems.append(
                FieldProblem("scope", f"site {site} has {_scope_text(scope)}", "list the same at all sites")
            )
        if (raw.get("tls") is None) is not (own.tls is None):
            has = "none" if raw.get("tls") is None else "one"
            problems.append(FieldProblem("tls", f"site {site} has {has}", "set it at all sites or at none"))
    return tuple(problems)


def _scope_text(scope: Scope | None) -> str:
    return "the whole server" if scope is None else str(scope)

"""What graf-driver-sanity needs to know of mysql, with two real servers: `make mysql-sanity`.

MariaDB's, or with `GRAF_SANITY_ENGINE=mysql` those of the MySQL that `tools/mysql_server.sh` got: 9, or with
`GRAF_SANITY_MYSQL=8.4` the long-term release. With `GRAF_SANITY_SCOPE=1` one database of each is the component and
another one is the site's own. What the servers wrote goes at the end, unless `GRAF_SANITY_KEEP=1` asks for it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pymysql
from graf_driver_sanity.config import Budget, Config, Invalid, Side

ENGINE = os.environ.get("GRAF_SANITY_ENGINE", "mariadb")
SERIES = os.environ.get("GRAF_SANITY_MYSQL", "9")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graf"
MYSQL = CACHE / ("mysql-server" if SERIES == "9" else f"mysql-server-{SERIES}") / "bin"
if ENGINE == "mysql":
    if not (MYSQL / "mysqld").is_file():
        raise FileNotFoundError(f"{MYSQL}/mysqld is missing: run `tools/mysql_server.sh {SERIES}`")
    os.environ["PATH"] = f"{MYSQL}:{os.environ['PATH']}"
SCOPED = os.environ.get("GRAF_SANITY_SCOPE") == "1"
SCOPE = {"databases": ["app"], "local": [{"database": "sitelog", "user": "sitelog"}]}
PASSWORD = "it-is-a-secret-of-mysql"
# Short, as a unix socket's path has 107 bytes, and hundreds of megabytes: gone with the kit, whatever the outcome.
BASE = Path(tempfile.mkdtemp(prefix="gsm-", dir="/tmp"))


@atexit.register
def clean_up() -> None:
    """Removes both sites, or says where they are when somebody wants to look at them."""
    if os.environ.get("GRAF_SANITY_KEEP") == "1":
        print(f"both sites are kept in {BASE}", file=sys.stderr)  # noqa: T201 - for the person at the terminal
        return
    ends = time.monotonic() + 10
    while any(running(BASE / name / "server.pid") for name in PORTS):  # a server ends a moment after its driver
        if time.monotonic() > ends:
            print(f"a server still runs in {BASE}; end it and remove the folder", file=sys.stderr)  # noqa: T201
            return
        time.sleep(0.05)
    shutil.rmtree(BASE)


def running(pid_file: Path) -> bool:
    """Whether the server of this file lives, and is not another process that got its number."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return str(BASE).encode() in Path("/proc", pid_file.read_text().strip(), "cmdline").read_bytes()
    return False


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


PORTS = {"east": free_port(), "west": free_port()}
COPY_PORTS = {"east": free_port(), "west": free_port()}


def side(name: str, number: int) -> Side:
    """One site's driver and server."""
    credentials = BASE / "credentials"
    credentials.mkdir(exist_ok=True)
    for what in ("replication", "application", "local"):
        (credentials / f"{what}-password").write_text(PASSWORD + "\n")
    parameters: dict[str, Any] = {
        "replicationAddress": "127.0.0.1",
        "bindAddress": "127.0.0.1",
        "port": PORTS[name],
        "copyPort": COPY_PORTS[name],
        "serverId": number,
        "gtidDomainId": number,
        "dataDir": str(BASE / name),
        "socketDir": str(BASE / f"s-{name}"),
        "credentialsDir": str(credentials),
        "application": {"database": "app", "user": "app"},
        "engine": ENGINE,
        **({"scope": SCOPE} if SCOPED else {}),
    }
    command = (sys.executable, "-c", "from graf_driver_mysql.main import main; raise SystemExit(main())")
    return Side(name, command=command, parameters=parameters)


def _client(site: str) -> Any:
    return pymysql.connect(
        host="127.0.0.1", port=PORTS[site], user="app", password=PASSWORD, database="app", autocommit=True,
        ssl_disabled=True, connect_timeout=10, read_timeout=20, write_timeout=20,
    )  # fmt: skip


def write(site: str, value: str) -> None:
    """A client's write."""
    with _client(site) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS sanity (value VARCHAR(190) PRIMARY KEY) ENGINE=InnoDB")
        cursor.execute("INSERT INTO sanity VALUES (%s)", (value,))


def read(site: str, value: str) -> str:
    """All values that are there."""
    with _client(site) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT value FROM sanity")
        return " ".join(row[0] for row in cursor.fetchall())


def break_server(site: str, value: str) -> None:
    """kill -9 of the server, behind the driver's back."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int((BASE / site / "server.pid").read_text()), 9)


def wipe(site: str, value: str) -> None:
    """The disk is another one: no server, no data."""
    process = Path("/proc", (BASE / site / "server.pid").read_text().strip())
    break_server(site, value)
    ends = time.monotonic() + 10
    while process.exists():  # until its parent, the driver, knows
        if time.monotonic() > ends:
            raise TimeoutError(f"{process} still runs 10 s after its end")
        time.sleep(0.01)
    (BASE / site / "data").rename(BASE / site / f"lost-{time.monotonic_ns()}")


def archived(site: str, archive: str) -> str:
    """Every value whose bytes are in a file of the archive: in a table, in a log or in the readable copy."""
    found: set[bytes] = set()
    for path in Path(archive).rglob("*"):
        if path.is_file():
            found.update(re.findall(rb"sanity-\d+-\d+-\d+", path.read_bytes()))
    return b" ".join(sorted(found)).decode()


def config() -> Config:
    """Both sites."""
    east, west = side("east", 20), side("west", 30)
    return Config(
        name=f"mysql on {ENGINE}{', a part of the server' if SCOPED else ''}",
        component="db",
        site=east,
        peer=west,
        unreachable_peer={**west.parameters, "port": free_port()},
        invalid=(
            Invalid("port", {"port": "x"}),
            Invalid("serverId", {"serverId": -1}),
            Invalid("dataDir", {"dataDir": "not/absolute"}),
        ),
        secrets=(PASSWORD,),
        hooks={"write": write, "read": read, "wipe": wipe, "break": break_server, "archived": archived},
        budget=Budget(start_s=60, transition_s=60, call_s=20, status_s=5),
    )

"""Two real MariaDB servers on loopback, each managed by a driver of its own, and clients that remember."""

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_mysql import bootstrap
from graf_driver_mysql.driver import MysqlDriver
from graf_driver_mysql.layout import Layout
from graf_driver_mysql.parameters import parse
from graf_driver_mysql.programs import MissingProgramError, program
from graf_driver_sdk.types import ComponentKey, EnsureRole, Health, Peer, Role, Spec, Status

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
MYSQL_PROGRAM = CACHE / "graf" / "mysql-server" / "bin" / "mysqld"
PASSWORD = "it's a \\ secret"


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


async def until(what: str, condition: Callable[[], Any], timeout_s: float = 30.0) -> float:
    """Waits, bounded, for a condition (maybe a coroutine); says what it waited for; returns seconds waited."""
    start = time.monotonic()
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return time.monotonic() - start
        if time.monotonic() - start > timeout_s:
            raise AssertionError(f"waited {timeout_s} s in vain for: {what}")
        await asyncio.sleep(0.005)


@dataclass
class Load:
    """Writers that insert unique numbers and remember what was acknowledged."""

    acknowledged: set[int] = field(default_factory=set)
    attempted: int = 0
    threads: list[threading.Thread] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, connect: Callable[[], Any], writers: int = 4) -> None:
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._write, args=(connect, self.stopping)) for _ in range(writers)]
        for thread in self.threads:
            thread.start()

    def _write(self, connect: Callable[[], Any], stopping: threading.Event) -> None:
        try:
            with connect() as connection, connection.cursor() as cursor:
                while not stopping.is_set():
                    with self.lock:
                        self.attempted += 1
                        number = self.attempted
                    cursor.execute(f"INSERT INTO t VALUES ({number})")
                    self.acknowledged.add(number)
        except (pymysql.MySQLError, OSError):
            return

    async def stop(self) -> None:
        self.stopping.set()
        await self.ended()

    async def ended(self) -> None:
        for thread in self.threads:
            await asyncio.to_thread(thread.join, 20)
            assert not thread.is_alive(), "a writer still hangs 20 s after its server's end"


class Site:
    """One site: a driver in this process and the server below it."""

    def __init__(
        self,
        name: str,
        number: int,
        port: int,
        base: Path,
        sockets: Path,
        credentials: Path,
        engine: str = "mariadb",
        scope: dict[str, Any] | None = None,
        copy_port: int | None = None,
    ) -> None:
        self.name = name
        self.engine = engine
        self.password = PASSWORD
        self.port = port
        self.root = base / name
        self.socket = sockets / name / "mariadb.sock"
        self.parameters: dict[str, Any] = {
            "replicationAddress": "127.0.0.1",
            "bindAddress": "127.0.0.1",
            "port": float(port),
            "serverId": float(number),
            "gtidDomainId": float(number),
            "dataDir": str(self.root),
            "socketDir": str(sockets / name),
            "credentialsDir": str(credentials),
            "application": {"database": "app", "user": "app"},
            "engine": engine,
            **({} if scope is None else {"scope": scope}),
            **({} if copy_port is None else {"copyPort": float(copy_port)}),
        }
        self.spec = Spec(ComponentKey("vcu-db", "db", name), self.parameters)
        self.driver = MysqlDriver()
        self.other: Site = self
        self.third: tuple[Site, ...] = ()

    @property
    def component(self) -> Any:
        return self.driver._of(self.spec).component

    @property
    def standby(self) -> Any:
        return self.component.standby

    def peer(self, role: Role = Role.ACTIVE) -> Peer:
        return Peer(self.name, role, self.parameters)

    async def once(self, role: Role, epoch: int, *sites: str, other: Role = Role.UNSPECIFIED) -> Any:
        if role is Role.STANDBY:
            other = Role.ACTIVE
        peers = (self.other.peer(other), *(site.peer(Role.STANDBY) for site in self.third))
        request = EnsureRole(self.spec, role, epoch, peers, frozenset(sites))
        return await self.driver.ensure_role(request)

    async def ensure(self, role: Role, epoch: int, *sites: str, other: Role = Role.UNSPECIFIED) -> float:
        """Calls until completed; returns seconds."""
        last: list[Any] = []

        async def done() -> bool:
            last[:] = [await self.once(role, epoch, *sites, other=other)]
            return bool(last[0].completed)

        try:
            return await until(f"{self.name} as {role.name}", done)
        except AssertionError as error:
            raise AssertionError(f"{error}: {last}") from None

    async def status(self) -> Status:
        return await self.driver.status(self.spec)

    async def promotable(self) -> None:
        async def can() -> bool:
            return (await self.status()).promotable

        try:
            await until(f"{self.name} is promotable", can)
        except AssertionError as error:
            raise AssertionError(f"{error}: {await self.status()}") from None

    def client(self) -> Any:
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="app",
            password=PASSWORD,
            database="app",
            autocommit=True,
            ssl_disabled=True,
            read_timeout=30,  # a commit that hangs is told as such, and where
        )

    def local(self, database: str | None = "sitelog") -> Any:
        """A session of the site's own account, where there is a scope."""
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="sitelog",
            password=PASSWORD,
            database=database,
            autocommit=True,
            ssl_disabled=True,
        )

    def sql(self, statement: str) -> list[Any]:
        """As the administrator, beside the driver."""
        connection = pymysql.connect(unix_socket=str(self.socket), user="root", autocommit=True, ssl_disabled=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def numbers(self) -> set[int]:
        return {row[0] for row in self.sql("SELECT n FROM app.t")}

    def position(self) -> str:
        name = {"mariadb": "gtid_binlog_pos", "mysql": "gtid_executed"}[self.engine]
        return str(self.sql(f"SELECT @@global.{name}")[0][0])

    def create_table(self) -> None:
        with self.client() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (n BIGINT PRIMARY KEY) ENGINE=InnoDB")

    def kill(self) -> None:
        """kill -9 from outside, as a fault does."""
        self.component.backend.server._process.kill()

    async def fenced_and_running(self, epoch: int) -> None:
        """Fenced, and its server started again without a role."""

        async def idle() -> bool:
            await self.once(Role.FENCED, epoch)
            return (await self.status()).health is Health.HEALTHY

        try:
            await until(f"{self.name}'s fenced server runs again", idle)
        except AssertionError as error:
            raise AssertionError(f"{error}: {(await self.status()).message}") from None

    async def dead(self) -> None:
        await until(f"{self.name}'s server is dead", lambda: not self.component.backend.server.alive)

    async def crash(self) -> None:
        self.kill()
        await self.dead()

    async def restart_driver(self) -> None:
        """The Pod restarts: the driver's memory is gone, the disk is not."""
        await self.driver.close()
        self.driver = MysqlDriver()


@dataclass
class Lab:
    """Two sites and the clients' memory."""

    east: Site
    west: Site
    load: Load = field(default_factory=Load)
    until: Any = staticmethod(until)

    async def up(self) -> None:
        """East active with both in the synchronous set, west its promotable standby."""
        await self.east.ensure(Role.ACTIVE, 1, "east")
        await self.west.ensure(Role.STANDBY, 1)
        await self.east.ensure(Role.ACTIVE, 1, "east", "west")
        self.east.create_table()
        await self.west.promotable()


@dataclass
class ThreeLab:
    """Three sites and the clients' memory."""

    east: Site
    west: Site
    north: Site
    load: Load = field(default_factory=Load)
    until: Any = staticmethod(until)

    async def up(self) -> None:
        """East active with west in the synchronous set, north beside it; both follow and are promotable."""
        await self.east.ensure(Role.ACTIVE, 1, "east")
        for site in (self.west, self.north):
            await self.follow(site, self.east, 1)
        await self.east.ensure(Role.ACTIVE, 1, "east", "west")
        self.east.create_table()
        await self.west.promotable()
        await self.north.promotable()
        last = self.east.position()
        await until("the table at both", lambda: self.west.position() == self.north.position() == last)

    async def follow(self, site: Site, active: Site, epoch: int) -> None:
        """Makes a site the standby of another one, as a controller does once it is."""
        self.turn(site, active)
        await site.ensure(Role.STANDBY, epoch)

    def turn(self, site: Site, active: Site) -> None:
        """Whom a site is told to be active."""
        site.other = active
        site.third = tuple(one for one in (self.east, self.west, self.north) if one not in (site, active))


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bootstrapped data directory and the credentials, made once."""
    try:
        program("mariadbd", "mariadb-server-core")
    except MissingProgramError as error:
        pytest.fail(f"{error} (apt-get install mariadb-server-core mariadb-client-core)")
    base = tmp_path_factory.mktemp("mariadb")
    credentials = base / "credentials"
    credentials.mkdir()
    (credentials / "replication-password").write_text(PASSWORD + "\n")
    (credentials / "application-password").write_text(PASSWORD + "\n")
    (credentials / "local-password").write_text(PASSWORD + "\n")
    made = parse(Site("made", 1, 3306, base, base, credentials).parameters)
    bootstrap.ensure_data(made, Layout(made.data_dir))
    shutil.rmtree(made.data_dir / "data")
    return made.data_dir, credentials


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Notes a measured figure in the test's report; `pytest -s` shows it."""

    def note(text: str) -> None:
        record_property("measured", text)
        sys.stderr.write(f"\n  measured: {text}\n")

    return note


@pytest.fixture(scope="session")
def mysql_template(template: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same for MySQL, whose server comes from `make setup` and not from the machine's own packages."""
    if not MYSQL_PROGRAM.is_file():
        pytest.fail(f"{MYSQL_PROGRAM} is missing: run `make setup` (tools/mysql_server.sh)")
    base = tmp_path_factory.mktemp("mysql")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{MYSQL_PROGRAM.parent}:{os.environ['PATH']}")
        made = parse(Site("made", 1, 3306, base, base, template[1], "mysql").parameters)
        bootstrap.ensure_data(made, Layout(made.data_dir))
    shutil.rmtree(made.data_dir / "data")
    return made.data_dir, template[1]


@pytest.fixture
async def lab(tmp_path: Path, template: tuple[Path, Path]) -> AsyncIterator[Lab]:
    async with two_sites(tmp_path, template, "mariadb") as built:
        yield built


SCOPE: dict[str, Any] = {
    "databases": ["app"],
    "tables": ["shop.orders"],
    "local": [{"database": "sitelog", "user": "sitelog"}],
}


@pytest.fixture(scope="session")
def scoped_template(template: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same for a server of which a part is replicated."""
    base = tmp_path_factory.mktemp("scoped")
    made = parse(Site("made", 1, 3306, base, base, template[1], scope=SCOPE).parameters)
    bootstrap.ensure_data(made, Layout(made.data_dir))
    shutil.rmtree(made.data_dir / "data")
    return made.data_dir, template[1]


@pytest.fixture
async def scoped_lab(tmp_path: Path, scoped_template: tuple[Path, Path]) -> AsyncIterator[Lab]:
    """The same lab, with one database and one table in scope."""
    async with two_sites(tmp_path, scoped_template, "mariadb", SCOPE) as built:
        yield built


MYSQL_SCOPE: dict[str, Any] = {"databases": ["app"], "tables": ["shop.orders"]}


@pytest.fixture
async def mysql_scoped_lab(
    tmp_path: Path, mysql_template: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lab]:
    """The same with MySQL, whose sites have no accounts of their own."""
    monkeypatch.setenv("PATH", f"{MYSQL_PROGRAM.parent}:{os.environ['PATH']}")
    made = parse(Site("made", 1, 3306, tmp_path, tmp_path, mysql_template[1], "mysql", MYSQL_SCOPE).parameters)
    bootstrap.ensure_data(made, Layout(made.data_dir))
    shutil.rmtree(made.data_dir / "data")
    async with two_sites(tmp_path, (made.data_dir, mysql_template[1]), "mysql", MYSQL_SCOPE) as built:
        yield built


@pytest.fixture
async def three_lab(tmp_path: Path, template: tuple[Path, Path]) -> AsyncIterator[ThreeLab]:
    async with three_sites(tmp_path, template, "mariadb") as built:
        yield built


@pytest.fixture
async def mysql_three_lab(
    tmp_path: Path, mysql_template: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ThreeLab]:
    monkeypatch.setenv("PATH", f"{MYSQL_PROGRAM.parent}:{os.environ['PATH']}")
    async with three_sites(tmp_path, mysql_template, "mysql") as built:
        yield built


@pytest.fixture
async def mysql_lab(
    tmp_path: Path, mysql_template: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Lab]:
    """The same lab with MySQL."""
    monkeypatch.setenv("PATH", f"{MYSQL_PROGRAM.parent}:{os.environ['PATH']}")
    async with two_sites(tmp_path, mysql_template, "mysql") as built:
        yield built


@contextlib.asynccontextmanager
async def two_sites(
    base: Path, template: tuple[Path, Path], engine: str, scope: dict[str, Any] | None = None
) -> AsyncIterator[Lab]:
    async with _sites(base, template, engine, scope, {"east": 20, "west": 30}) as sites:
        sites[0].other, sites[1].other = sites[1], sites[0]
        built = Lab(sites[0], sites[1])
        try:
            yield built
        finally:
            built.load.stopping.set()


@contextlib.asynccontextmanager
async def three_sites(base: Path, template: tuple[Path, Path], engine: str) -> AsyncIterator[ThreeLab]:
    async with _sites(base, template, engine, None, {"east": 20, "west": 30, "north": 40}) as sites:
        for site in sites:
            site.parameters["severalStandbys"] = True
        built = ThreeLab(sites[0], sites[1], sites[2])
        built.turn(built.east, built.west)
        built.turn(built.west, built.east)
        built.turn(built.north, built.east)
        try:
            yield built
        finally:
            built.load.stopping.set()
            for thread in built.load.threads:
                thread.join(0.1)


@contextlib.asynccontextmanager
async def _sites(
    base: Path, template: tuple[Path, Path], engine: str, scope: dict[str, Any] | None, numbers: dict[str, int]
) -> AsyncIterator[list[Site]]:
    made, credentials = template
    async with contextlib.AsyncExitStack() as stack:
        # Not below tmp_path: a unix socket's path has 107 bytes.
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graf-mysql-", dir="/tmp")))
        ports = free_ports(2 * len(numbers))
        sites = [
            Site(name, number, port, base, sockets, credentials, engine, scope, copy_port)
            for (name, number), port, copy_port in zip(
                numbers.items(), ports[: len(numbers)], ports[len(numbers) :], strict=True
            )
        ]
        for site in reversed(sites):
            shutil.copytree(made, site.root)
            stack.push_async_callback(_end, site)
        yield sites


async def _end(site: Site) -> None:
    await site.driver.close()  # the one that it has by then

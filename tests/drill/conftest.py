"""A real MariaDB server on loopback, and values that the tests of the drill share."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

USER, PASSWORD, DATABASE = "app", "secret", "appdb"


@dataclass
class Server:
    """A server that can be killed and started again."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    "mariadbd",
                    "--no-defaults",
                    "--user=root",
                    f"--datadir={self.folder / 'data'}",
                    f"--socket={self.folder / 's'}",
                    f"--port={self.port}",
                    "--bind-address=127.0.0.1",
                    "--innodb-buffer-pool-size=8M",
                    "--performance-schema=OFF",
                    "--skip-name-resolve",
                ],
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        end = time.monotonic() + 30
        while not self._answers():
            assert time.monotonic() < end, f"mariadbd did not start: {(self.folder / 'log').read_text()}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.folder / "s"))
            except OSError:
                return False
            return bool(probe.recv(1))

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def admin(self, *statements: str) -> None:
        connection = pymysql.connect(unix_socket=str(self.folder / "s"), user="root", autocommit=True)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()


@pytest.fixture
def mariadb(tmp_path: Path) -> Iterator[Server]:
    assert shutil.which("mariadbd"), "mariadbd is missing: make setup installs it (package mariadb-server)"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "db"
    folder.mkdir()
    made = subprocess.run(
        ["mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={folder / 'data'}", "--skip-test-db"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    server = Server(folder, port)
    server.start()
    server.admin(
        f"CREATE DATABASE {DATABASE}",
        f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'",
        f"GRANT ALL PRIVILEGES ON {DATABASE}.* TO {USER}@'%'",
        "DELETE FROM mysql.global_priv WHERE User = ''",
        "FLUSH PRIVILEGES",
    )
    yield server
    if server.process is not None:
        server.kill()

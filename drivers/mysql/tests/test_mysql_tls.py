"""Between the sites everything is TLS that both verify, or there is no connection."""

import contextlib
import importlib.util
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pymysql
import pytest
from graf_driver_mysql.parameters import peer_endpoint
from graf_driver_mysql.sql import SqlError
from graf_driver_sdk.types import Peer, Role

pytestmark = pytest.mark.mariadb

_spec = importlib.util.spec_from_file_location("certificates", Path(__file__).with_name("certificates.py"))
certificates = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(certificates)

USER = "graf_repl"


def secured(lab: Any, folder: Path) -> Any:
    """Gives both sites certificates of one authority, before their first start."""
    certificates.authority(folder)
    for site in (lab.east, lab.west):
        site.parameters["tls"] = certificates.identity(folder, site.name)
    return lab


@pytest.fixture(params=["lab", pytest.param("mysql_lab", marks=pytest.mark.mysql_long)])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """With MariaDB, and with MySQL."""
    return secured(request.getfixturevalue(request.param), tmp_path / "group")


def write(site: Any, text: str) -> None:
    with site.client() as connection, connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO word VALUES ('{text}')")


def words(site: Any) -> set[str]:
    return {row[0] for row in site.sql("SELECT w FROM app.word")}


class Relay(threading.Thread):
    """Passes connections on to a port and keeps all bytes, both ways. A thread: the tests' clients block the loop."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.target = port
        self.heard = bytearray()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self.listener.accept()
                there = socket.create_connection(("127.0.0.1", self.target))
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=self._one_way, args=ends, daemon=True).start()

    def _one_way(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                self.heard.extend(chunk)
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


async def replicated_words(lab: Any) -> bytes:
    """Everything that passed between the sites while a row was written at east and read at west."""
    relay = Relay(lab.east.port)
    parameters = {**lab.east.parameters, "port": float(relay.port)}
    lab.east.peer = lambda role=Role.ACTIVE: Peer("east", role, parameters)
    await lab.up()
    with lab.east.client() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE word (w VARCHAR(60) PRIMARY KEY) ENGINE=InnoDB")
    write(lab.east, "the-subscriber-key")
    await lab.until("the row at west", lambda: words(lab.west) == {"the-subscriber-key"})
    await lab.west.driver.close()
    relay.listener.close()
    return bytes(relay.heard)


@pytest.mark.mysql_long
async def test_without_tls_the_relay_hears_the_rows(lab: Any) -> None:
    """The control of the next test: it would find the row if it were in the clear."""
    assert b"the-subscriber-key" in await replicated_words(lab)


@pytest.mark.mysql_long
async def test_neither_rows_nor_questions_pass_in_the_clear(both: Any) -> None:
    heard = await replicated_words(both)
    assert len(heard) > 4000
    for text in (b"the-subscriber-key", b"SELECT", b"gtid_", b"binlog.0"):
        assert text not in heard


async def test_the_channel_is_verified_tls_and_the_user_is_refused_without(both: Any, tmp_path: Path) -> None:
    await both.up()
    row = await both.west.component.backend.control.row(both.west.component.backend.engine.read_replica)
    word = both.west.component.backend.engine.source_word
    assert (row[f"{word}_SSL_Allowed"], row[f"{word}_SSL_Verify_Server_Cert"]) == ("Yes", "Yes")
    session = await both.west.component.backend.remote_session(_endpoint(both.east), timeout_s=2.0)
    assert (await session.row("SHOW STATUS LIKE 'Ssl_cipher'"))["Value"].startswith("TLS_")
    session.close()

    def connect(**options: Any) -> Any:
        return pymysql.connect(host="127.0.0.1", port=both.east.port, user=USER, password=both.east.password, **options)

    def refused_in_the_clear() -> bool:
        try:
            connect(ssl_disabled=True).close()
        except pymysql.err.OperationalError as error:
            return "Access denied" in str(error)
        return False

    await both.until("the account to require a certificate", refused_in_the_clear)
    certificates.authority(tmp_path / "others")
    stranger = certificates.identity(tmp_path / "others", "stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(both.east.parameters["tls"]["ca"])
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):  # TLS, and no certificate
        connect(ssl=context)
    context.load_cert_chain(stranger["cert"], stranger["key"])
    with pytest.raises((pymysql.err.OperationalError, ssl.SSLError)):  # of another authority
        connect(ssl=context)

    # A failover, and the old active follows over TLS too.
    await both.east.crash()
    await both.west.ensure(Role.ACTIVE, 2, "west")
    await both.east.ensure(Role.STANDBY, 2)
    await both.west.ensure(Role.ACTIVE, 2, "west", "east")
    row = await both.east.component.backend.control.row(both.west.component.backend.engine.read_replica)
    assert row[f"{word}_SSL_Allowed"] == "Yes"


def _endpoint(site: Any) -> Any:
    return peer_endpoint(site.name, site.parameters)


@pytest.mark.mysql_long
@pytest.mark.parametrize("what", ["another authority", "another address", "no TLS at all"])
async def test_a_site_that_cannot_be_verified_is_not_followed(lab: Any, tmp_path: Path, what: str) -> None:
    secured(lab, tmp_path / "group")
    if what == "another authority":
        lab.east.parameters["tls"] = certificates.identity(certificates.authority(tmp_path / "other"), "east")
    elif what == "another address":
        lab.east.parameters["tls"] = certificates.identity(tmp_path / "group", "east", "198.18.0.20")
    else:
        del lab.east.parameters["tls"]
    await lab.east.ensure(Role.ACTIVE, 1, "east")
    lab.east.create_table()
    errors: list[str] = []

    async def told() -> bool:
        progress = await lab.west.once(Role.STANDBY, 1)
        assert not progress.completed
        status = await lab.west.status()
        errors[:] = [status.message]
        return "SSL" in status.message or "TLS" in status.message

    await lab.until("west says why", told)
    with pytest.raises(SqlError, match=r"verif|certificate|no TLS"):
        await lab.west.component.backend.remote_session(_endpoint(lab.east))
    assert not (await lab.west.status()).promotable


async def test_validate_refuses_files_that_peers_would_refuse(lab: Any, tmp_path: Path) -> None:
    group, other = certificates.authority(tmp_path / "group"), certificates.authority(tmp_path / "other")
    good, foreign = certificates.identity(group, "east"), certificates.identity(other, "foreign")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not PEM")

    async def problems(tls: Any, peer_tls: Any = good) -> list[str]:
        lab.east.parameters["tls"] = tls
        lab.west.parameters["tls"] = peer_tls
        found = await lab.east.driver.validate(lab.east.spec, (lab.west.peer(),))
        return [f"{one.field}: {one.cause}" for one in found]

    assert await problems(good) == []
    assert "tls.key: cannot read /nowhere: No such file" in (await problems({**good, "key": "/nowhere"}))[0]
    assert "tls: " in (await problems({**good, "ca": str(garbage)}))[0]
    assert "mismatch" in (await problems({**good, "key": foreign["key"]}))[0].lower()
    expired = certificates.identity(group, "old", expired=True)
    assert "has expired" in (await problems(expired))[0]
    elsewhere = certificates.identity(group, "elsewhere", "198.18.0.20")
    assert "not valid for '127.0.0.1'" in (await problems(elsewhere))[0]
    assert (await problems({**foreign, "ca": good["ca"]}))[0].startswith("tls.cert: ")
    locked = tmp_path / "locked.key"
    certificates.openssl("ec", "-in", good["key"], "-aes256", "-passout", "pass:x", "-out", str(locked))
    assert "passphrase" in (await problems({**good, "key": str(locked)}))[0]
    assert "tls: site west has none" in (await problems(good, None))[0]
    assert "tls.ca: 'relative' is not an absolute path" in (await problems({**good, "ca": "relative"}))[0]
    assert "is not {ca, cert, key}" in (await problems({"certificate": "/x"}))[0]

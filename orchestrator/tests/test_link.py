"""The streams of the sites: identity by certificate, and nothing else."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from graf_orchestrator import link as link_module
from graf_orchestrator.link import LinkError, SiteLinkServer
from graf_orchestrator.state import State

from graf.shell.proto import manager_pb2 as pb
from graf.shell.proto import manager_pb2_grpc as pb_grpc
from graf.shell.tls import channel_credentials, channel_options


def until(what: str, check: Callable[[], Any]) -> Any:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if result := check():
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited 10 s for {what}")


class Authority:
    """A CA that writes directories as the Secret graf-tls is mounted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        self.certificate = self.sign(self.key, None)

    def sign(self, key: ec.EllipticCurvePrivateKey, dns: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        subject = self.name if dns is None else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns)])
        builder = (
            x509.CertificateBuilder()
            .issuer_name(self.name)
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=dns is None, path_length=None), critical=True)
        )
        if dns is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, dns: str) -> Path:
        target = self.directory / dns
        target.mkdir(parents=True)
        key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
        (target / "ca.crt").write_bytes(self.certificate.public_bytes(pem))
        (target / "tls.crt").write_bytes(self.sign(key, dns).public_bytes(pem))
        (target / "tls.key").write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return target


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "pki")


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def server(authority: Authority, state: State, monkeypatch: pytest.MonkeyPatch) -> Iterator[SiteLinkServer]:
    monkeypatch.setattr(link_module, "KNOWN_WITHIN_S", 0.3)
    started = SiteLinkServer(
        state, "127.0.0.1:0", authority.issue("manager.graf.dev"), lambda: frozenset({"east", "west"})
    )
    started.start()
    yield started
    started.stop()


class Client:
    """A site's end of the stream, blocking."""

    def __init__(self, server: SiteLinkServer, tls: Path) -> None:
        self.channel = grpc.secure_channel(
            f"127.0.0.1:{server.port}", channel_credentials(tls), options=channel_options("manager.graf.dev")
        )
        self.closed = False
        self.outgoing: list[pb.SiteMessage] = []
        self.call = pb_grpc.ManagerLinkStub(self.channel).Connect(self._messages())

    def _messages(self) -> Iterator[pb.SiteMessage]:
        yield pb.SiteMessage(hello=pb.SiteHello(incarnation="i1", version="v1"))
        while not self.closed:
            while self.outgoing:
                yield self.outgoing.pop(0)
            time.sleep(0.01)

    def close(self) -> None:
        self.closed = True
        self.call.cancel()
        self.channel.close()


def test_a_site_is_who_its_certificate_says(server: SiteLinkServer, authority: Authority, state: State) -> None:
    east = Client(server, authority.issue("east.voter.graf.dev"))
    east.outgoing.append(pb.SiteMessage(record=pb.Record(id="r1", group="g")))
    east.outgoing.append(pb.SiteMessage(report=pb.SiteReport(wall_ms=7)))
    link = until("the report", lambda: (found := state.links().get("east")) and found.report and found)
    assert (link.connected, link.incarnation, link.report.wall_ms) == (True, "i1", 7)
    assert [(site, record.id) for site, record in state.take_records()] == [("east", "r1")]
    assert server.send("east", pb.ManagerMessage(record_ack=pb.RecordAck(id="r1")))
    assert next(east.call).record_ack.id == "r1"
    assert not server.send("west", pb.ManagerMessage())
    east.close()
    until("the end of the stream", lambda: not state.links()["east"].connected)


@pytest.mark.parametrize("dns", ["north.voter.graf.dev", "operator.graf.dev", "a.east.voter.graf.dev"])
def test_a_certificate_that_is_not_a_known_sites_is_refused_and_logged(
    server: SiteLinkServer, authority: Authority, state: State, dns: str, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Client(server, authority.issue(dns))
    with caplog.at_level(logging.WARNING), pytest.raises(grpc.RpcError) as caught:
        next(stranger.call)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert [record.fields["identity"] for record in caplog.records if hasattr(record, "fields")] == [[dns]]
    assert state.links() == {}
    stranger.close()


def test_a_certificate_of_another_authority_is_refused(
    server: SiteLinkServer, tmp_path: Path, authority: Authority, state: State
) -> None:
    forged = Authority(tmp_path / "other").issue("east.voter.graf.dev")
    (forged / "ca.crt").write_bytes((authority.directory / "manager.graf.dev" / "ca.crt").read_bytes())
    stranger = Client(server, forged)
    with pytest.raises(grpc.RpcError) as caught:
        next(stranger.call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert state.links() == {}
    stranger.close()


def test_a_site_that_dials_again_replaces_its_older_stream(
    server: SiteLinkServer, authority: Authority, state: State
) -> None:
    tls = authority.issue("east.voter.graf.dev")
    old = Client(server, tls)
    until("the first stream", lambda: state.links().get("east"))
    new = Client(server, tls)
    until("the second stream", lambda: state.links()["east"].generation == 2)
    with pytest.raises(StopIteration):
        next(old.call)
    assert state.links()["east"].connected
    assert server.send("east", pb.ManagerMessage(record_ack=pb.RecordAck(id="x")))
    assert next(new.call).record_ack.id == "x"
    old.close()
    new.close()


def test_a_taken_port_is_told_with_what_to_do(server: SiteLinkServer, authority: Authority, state: State) -> None:
    tls = authority.directory / "manager.graf.dev"
    with pytest.raises(LinkError, match=f"cannot listen on 127.0.0.1:{server.port}.*free the port"):
        SiteLinkServer(state, f"127.0.0.1:{server.port}", tls, frozenset).start()

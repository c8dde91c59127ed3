"""A driver over TCP: who may call it, who it must prove to be, and certificates that change under way."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from graf_driver_fake.driver import FakeDriver
from graf_driver_sanity import Config, run
from graf_driver_sanity.config import Budget, Tls, side
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.server import DriverServer, Limits
from graf_driver_sdk.testing import eventually
from graf_driver_sdk.tls import server_credentials
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.v1 import driver_pb2_grpc

from graf.api.values import Role, Stage
from graf.controller.components import Component, Wanted
from graf.controller.dialing import Dial, Dialer
from graf.controller.driver_pki import LIFETIME, RENEW_AFTER, DriverPki, Pem
from graf.controller.groups import ComponentWiring
from graf.core.view import ComponentConfig


class Clock:
    def __init__(self) -> None:
        self.now = datetime.datetime.now(datetime.UTC)

    def __call__(self) -> datetime.datetime:
        return self.now


def mount(pem: Pem, directory: Path) -> Path:
    """A Secret as kubelet mounts it."""
    directory.mkdir(exist_ok=True)
    for name, content in (("ca.crt", pem.ca), ("tls.crt", pem.certificate), ("tls.key", pem.key)):
        (directory / name).write_bytes(content)
    return directory


@contextlib.asynccontextmanager
async def serving(work: Path, tls: Path) -> AsyncIterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    guard = EpochGuard(work / "state")
    server = DriverServer(FakeDriver(), guard, address, Limits(), server_credentials(tls))
    await server.start()
    try:
        yield address
    finally:
        await server.stop()


async def answer(dial: Dial, timeout_s: float = 20.0) -> str:
    """The driver's name, or why there is none."""
    async with dial.open(()) as channel:
        try:
            info = await driver_pb2_grpc.IdentityStub(channel).GetInfo(pb.GetInfoRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return str(info.name)


async def test_the_conformance_kit_reaches_a_driver_over_tls(tmp_path: Path) -> None:
    pki = DriverPki(tmp_path / "pki", "east")
    client = mount(pki.client(), tmp_path / "client")
    async with serving(tmp_path, mount(pki.driver("demo"), tmp_path / "tls")) as address:
        site = side("east", address, Tls(client, "demo.driver.graf.dev"))
        report = await run(Config(site), only={"identity-name", "role-fenced-to-active"})
        assert (report.failures, report.passed) == ([], ["identity-name", "role-fenced-to-active"])
        budget = Budget(start_s=0.5)
        for wrong in (side("east", address), side("east", address, Tls(client, "other.driver.graf.dev"))):
            report = await run(Config(wrong, budget=budget), only={"identity-name"})
            assert not report.could_start
            assert "does not answer" in report.failures[0].seen
            assert "--tls-dir" in report.failures[0].fix


async def test_the_controller_is_answered_and_nobody_else(tmp_path: Path) -> None:
    pki, foreign = DriverPki(tmp_path / "pki", "east"), DriverPki(tmp_path / "other", "east")
    tls = mount(pki.driver("demo"), tmp_path / "tls")
    async with serving(tmp_path, tls) as address:
        assert await answer(Dial(address, pki.client(), "demo.driver.graf.dev")) == "fake.graf.dev"
        assert await answer(Dial(address, foreign.client(), "demo.driver.graf.dev")) == "UNAVAILABLE"
        stranger = Pem(pki.ca, foreign.client().certificate, foreign.client().key)
        assert await answer(Dial(address, stranger, "demo.driver.graf.dev")) == "UNAVAILABLE"
        another_driver = pki.driver("other")
        assert await answer(Dial(address, another_driver, "demo.driver.graf.dev")) == "UNAVAILABLE"
        assert await answer(Dial(address, pki.client(), "other.driver.graf.dev")) == "UNAVAILABLE"
        assert await answer(Dial(address)) == "UNAVAILABLE", "nobody is answered without TLS"


async def test_new_certificates_are_taken_without_a_restart_of_the_driver(tmp_path: Path) -> None:
    old, new = DriverPki(tmp_path / "old", "east"), DriverPki(tmp_path / "new", "east")
    tls = mount(old.driver("demo"), tmp_path / "tls")
    async with serving(tmp_path, tls) as address:
        assert await answer(Dial(address, old.client(), "demo.driver.graf.dev")) == "fake.graf.dev"
        mount(new.driver("demo"), tls)
        assert await answer(Dial(address, new.client(), "demo.driver.graf.dev")) == "fake.graf.dev"
        (tls / "tls.key").write_text("")  # half replaced
        assert await answer(Dial(address, new.client(), "demo.driver.graf.dev")) == "fake.graf.dev"


def test_certificates_are_replaced_long_before_they_end_and_kept_over_restarts(tmp_path: Path) -> None:
    clock = Clock()
    pki = DriverPki(tmp_path, "east", clock)
    first, client = pki.driver("demo"), pki.client()
    assert (pki.driver("demo"), pki.client()) == (first, client)
    assert DriverPki(tmp_path, "east", clock).driver("demo") == first
    clock.now += RENEW_AFTER + datetime.timedelta(minutes=1)
    assert pki.driver("demo") != first
    assert pki.client() != client
    assert RENEW_AFTER < LIFETIME / 2
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0


def test_a_lost_authority_is_followed_by_another_one_and_new_certificates(tmp_path: Path) -> None:
    first = DriverPki(tmp_path, "east").driver("demo")
    (tmp_path / "ca.key").write_text("broken")
    again = DriverPki(tmp_path, "east")
    assert again.ca != first.ca
    assert again.driver("demo").certificate != first.certificate


@pytest.mark.timeout(60)
async def test_a_component_changes_to_another_address_when_it_is_told(tmp_path: Path) -> None:
    pki = DriverPki(tmp_path / "pki", "east")
    tls = mount(pki.driver("demo"), tmp_path / "tls")
    dialer = Dialer(tmp_path, tmp_path / "addresses.json", pki)
    async with serving(tmp_path, tls) as address:
        component = Component(
            "vcu-db",
            "east",
            ComponentConfig("db", Stage.DATA),
            ComponentWiring("db", "demo", {}, {}),
            lambda: dialer.dial("demo"),
            lambda: 0,
            lambda: None,
        )
        try:
            await eventually("the socket that is not there to be told", lambda: component.last_error, 20)
            dialer.told({"demo": address})
            await eventually("the driver to be heard over TLS", lambda: component.status is not None, 20)
            component.want(Wanted(Role.STANDBY, 1, "west"))
            await eventually("the role to be given over TLS", lambda: component.settled, 20)
            assert Dialer(tmp_path, tmp_path / "addresses.json", pki).dial("demo").target == address
        finally:
            await component.close()
            await asyncio.sleep(0)

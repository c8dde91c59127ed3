"""A driver that dies, hangs or answers nonsense: its component is Unknown with the reason, and is taken up again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf.api.values import Role, Stage
from graf.controller import components, watching
from graf.controller.calls import CallFailedError
from graf.controller.components import Component, Wanted
from graf.controller.dialing import Dial
from graf.controller.driver_reports import capability_names
from graf.controller.groups import ComponentWiring
from graf.core.view import ComponentConfig, Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GARBAGE = b"\xff\xff\xff\xff"
HEALTHY = pb.ComponentStatus(role=pb.ROLE_STANDBY, health=pb.HEALTH_HEALTHY, promotable=True)
DONE = pb.EnsureRoleResponse(progress=pb.Progress(completed=True)).SerializeToString()


@dataclass
class RawDriver:
    """Answers with bytes, as a driver in any language could; None is no answer at all."""

    status: bytes | None = HEALTHY.SerializeToString()
    ensured: bytes = DONE
    watched: int = 0
    asked: int = 0
    resynced: pb.ResyncResponse | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, status: bytes | None) -> None:
        self.status = status
        self.changed.set()

    async def get_info(self, _request: bytes, _context: Any) -> bytes:
        return pb.GetInfoResponse(name="raw.test", vendor_version="1").SerializeToString()

    async def ensure_role(self, _request: bytes, _context: Any) -> bytes:
        self.asked += 1
        return self.ensured

    async def watch_status(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        self.watched += 1
        while True:
            self.changed.clear()
            if self.status is not None:
                yield self.status
            await self.changed.wait()

    async def resync(self, _request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        answer, self.resynced = self.resynced, None
        if answer is None:
            await context.abort(grpc.StatusCode.INTERNAL, "the active site cannot be reached")
        return answer.SerializeToString()

    async def assess(self, _request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.abort(grpc.StatusCode.INTERNAL, "its log is gone")

    async def serve(self, socket: Path) -> grpc.aio.Server:
        server = grpc.aio.server()
        unary = grpc.unary_unary_rpc_method_handler
        package = "graf.driver.v1"
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(f"{package}.Identity", {"GetInfo": unary(self.get_info)}),
                grpc.method_handlers_generic_handler(
                    f"{package}.Component",
                    {
                        "EnsureRole": unary(self.ensure_role),
                        "Resync": unary(self.resync),
                        "Assess": unary(self.assess),
                        "WatchStatus": grpc.unary_stream_rpc_method_handler(self.watch_status),
                    },
                ),
            )
        )
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        return server


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[RawDriver]:
    raw = RawDriver()
    server = await raw.serve(tmp_path / "raw.sock")
    yield raw
    await server.stop(None)


@pytest.fixture
async def component(driver: RawDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Component]:
    monkeypatch.setattr(watching, "SILENCE_STEP_S", 0.05)
    made = Component(
        "vcu-db",
        "east",
        ComponentConfig("db", Stage.DATA, synchronous=True),
        ComponentWiring("db", "raw", {}, {"west": {}}),
        lambda: Dial(f"unix:{tmp_path}/raw.sock"),
        lambda: 0,
        lambda: None,
    )
    yield made
    await made.close()


async def until(what: str, condition: Any, timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, f"waited {timeout_s} s in vain for: {what}"
        await asyncio.sleep(0.005)


def health(component: Component) -> Health:
    return component.view(time.monotonic_ns()).health


def with_(**fields: Any) -> bytes:
    status = pb.ComponentStatus()
    status.CopyFrom(HEALTHY)
    for name, value in fields.items():
        setattr(status, name, value)
    return status.SerializeToString()


NONSENSE = {
    "bytes that are no message": GARBAGE,
    "a health that nobody knows": with_(health=77),
    "no health": with_(health=0),
    "a role that nobody knows": with_(role=77),
    "a lag that is no number": with_(lag_seconds=float("nan")),
    "an endless lag": with_(lag_seconds=float("inf")),
}


@pytest.mark.parametrize("status", NONSENSE.values(), ids=NONSENSE.keys())
async def test_a_nonsense_status_makes_the_component_unknown_until_sense_is_told_again(
    component: Component, driver: RawDriver, status: bytes
) -> None:
    await until("the first status", lambda: health(component) is Health.HEALTHY)
    driver.tell(status)
    await until("the component to be Unknown", lambda: health(component) is Health.UNKNOWN)
    assert "makes no sense" in component.last_error
    assert "makes no sense" in component.view(time.monotonic_ns()).promotable_reason
    assert not component.view(time.monotonic_ns()).promotable
    driver.tell(HEALTHY.SerializeToString())
    await until("the component to be known again", lambda: health(component) is Health.HEALTHY)
    assert component.last_error == ""


async def test_a_driver_that_hangs_is_unknown_with_the_reason_and_asked_anew(
    component: Component, driver: RawDriver
) -> None:
    await until("the first status", lambda: health(component) is Health.HEALTHY)
    driver.tell(None)
    await until("the component to be Unknown", lambda: health(component) is Health.UNKNOWN)
    assert "hangs" in component.last_error
    assert not component.last_error.startswith("db")  # whoever shows it names the component
    assert component.view(time.monotonic_ns()).troubled_since_ns is not None
    await until("another stream", lambda: driver.watched > 2)
    driver.tell(HEALTHY.SerializeToString())
    await until("the component to be known again", lambda: health(component) is Health.HEALTHY)


@pytest.mark.parametrize(
    "answer", [GARBAGE, pb.EnsureRoleResponse().SerializeToString()], ids=["no message", "no progress"]
)
async def test_a_nonsense_answer_to_a_role_is_told_and_the_driver_asked_again(
    component: Component, driver: RawDriver, answer: bytes
) -> None:
    driver.ensured = answer
    component.want(Wanted(Role.STANDBY, 1, "west"))
    await until("the driver to be asked again", lambda: driver.asked > 1)
    assert not component.settled
    assert "makes no sense" in component.last_error
    driver.ensured = DONE
    await until("the role", lambda: component.settled)
    assert component.last_error == ""


async def test_a_driver_that_asks_for_weeks_of_patience_is_asked_again_all_the_same(
    component: Component, driver: RawDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(components, "RETRY_LAST_S", 0.05)
    driver.ensured = pb.EnsureRoleResponse(progress=pb.Progress(retry_after_ms=2**32 - 1)).SerializeToString()
    component.want(Wanted(Role.STANDBY, 1, "west"))
    await until("the driver to be asked again", lambda: driver.asked > 1)


async def test_a_driver_that_is_not_there_is_told_and_taken_up_when_it_comes(tmp_path: Path) -> None:
    socket = tmp_path / "late.sock"
    late = Component(
        "vcu-db",
        "east",
        ComponentConfig("db", Stage.DATA),
        ComponentWiring("db", "late", {}, {}),
        lambda: Dial(f"unix:{socket}"),
        lambda: 0,
        lambda: None,
    )
    try:
        await until("the reason", lambda: late.last_error != "")
        assert health(late) is Health.UNKNOWN
        server = await RawDriver().serve(socket)
        await until("the component to be known", lambda: health(late) is Health.HEALTHY)
        await server.stop(None)
        await until("the component to be Unknown", lambda: health(late) is Health.UNKNOWN)
    finally:
        await late.close()


def test_capabilities_are_told_in_the_words_of_a_driver_class() -> None:
    numbers = [pb.CAPABILITY_SYNCHRONOUS, pb.CAPABILITY_GATE, pb.CAPABILITY_UNSPECIFIED, 77]
    assert capability_names(numbers) == ["GATE", "SYNCHRONOUS"]


async def test_a_resync_that_fails_shows_why_and_no_longer_how_far_it_was(
    component: Component, driver: RawDriver
) -> None:
    driver.resynced = pb.ResyncResponse(progress=pb.Progress(message="copied 1 of 500 GB", retry_after_ms=1))
    told: list[str] = []

    def pending(message: str, _archive: str) -> None:
        told.append(message)
        assert component.last_error == message

    await until("the first status", lambda: health(component) is Health.HEALTHY)
    with pytest.raises(CallFailedError):
        await component.resync("west", 1, rebuild=False, timeout_s=30.0, on_pending=pending)
    assert told == ["copied 1 of 500 GB"]
    assert component.last_error == "Resync failed with INTERNAL: the active site cannot be reached"
    with pytest.raises(CallFailedError):
        await component.assess("west", 30.0)
    assert component.last_error == "Assess failed with INTERNAL: its log is gone"

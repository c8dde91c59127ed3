"""Calls with an old epoch against drivers that refuse, accept, or are not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from graf_driver_sdk.v1 import driver_pb2, driver_pb2_grpc

from graf.crd.group import RedundancyGroup
from graf.lab.drill.stale import try_stale_epoch

EXAMPLE = Path(__file__).parents[2] / "gitops" / "example" / "groups" / "vcu-db.yaml"


@pytest.fixture
def group() -> RedundancyGroup:
    return RedundancyGroup.model_validate(yaml.safe_load(EXAMPLE.read_text()))


@contextmanager
def driver(folder: Path, name: str, answer: Callable[[Any, grpc.ServicerContext], Any]) -> Iterator[None]:
    class Servicer(driver_pb2_grpc.ComponentServicer):
        def EnsureRole(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
            return answer(request, context)

    pool = ThreadPoolExecutor(2)
    server = grpc.server(pool)
    driver_pb2_grpc.add_ComponentServicer_to_server(Servicer(), server)  # type: ignore[abstract]
    server.add_insecure_port(f"unix:{folder / name}.sock")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait(5)
        pool.shutdown()


def refuse(_: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "epoch 1 is lower than 3")


def accept(_: Any, __: grpc.ServicerContext) -> Any:
    return driver_pb2.EnsureRoleResponse()


def test_a_guard_that_refuses_is_counted_as_refused(group: RedundancyGroup, tmp_path: Path) -> None:
    with driver(tmp_path, "mysql", refuse), driver(tmp_path, "network", refuse):
        calls = try_stale_epoch(group, "east", tmp_path, 1)
    assert (calls.accepted, calls.refused, calls.unreachable) == (0, 2, 0)
    assert "epoch 1 is lower than 3" in calls.details[0]


def test_a_driver_without_a_guard_is_found_out(group: RedundancyGroup, tmp_path: Path) -> None:
    with driver(tmp_path, "mysql", refuse), driver(tmp_path, "network", accept):
        calls = try_stale_epoch(group, "east", tmp_path, 1)
    assert (calls.accepted, calls.refused) == (1, 1)


def test_the_call_is_one_that_would_move_the_site_if_it_were_accepted(group: RedundancyGroup, tmp_path: Path) -> None:
    seen = []

    def note(request: Any, context: grpc.ServicerContext) -> None:
        seen.append(request)
        refuse(request, context)

    with driver(tmp_path, "mysql", note):
        try_stale_epoch(group, "west", tmp_path, 7)
    assert seen[0].role == driver_pb2.ROLE_ACTIVE
    assert seen[0].epoch == 7
    assert seen[0].spec.site == "west"
    assert seen[0].spec.parameters["replicationAddress"] == "198.18.0.30"
    assert [peer.site for peer in seen[0].peers] == ["east"]


def test_no_driver_and_no_answer_prove_nothing(group: RedundancyGroup, tmp_path: Path) -> None:
    def fail(_: Any, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.INTERNAL, "broken")

    with driver(tmp_path, "mysql", fail):
        calls = try_stale_epoch(group, "east", tmp_path, 1)
    assert (calls.accepted, calls.refused, calls.unreachable) == (0, 0, 2)


def test_a_busy_component_is_asked_again(group: RedundancyGroup, tmp_path: Path) -> None:
    tries = []

    def busy_twice(request: Any, context: grpc.ServicerContext) -> None:
        tries.append(request)
        if len(tries) < 3:
            context.abort(grpc.StatusCode.ABORTED, "another call is in flight")
        refuse(request, context)

    with driver(tmp_path, "mysql", busy_twice):
        calls = try_stale_epoch(group, "east", tmp_path, 1)
    assert calls.refused == 1
    assert len(tries) == 3

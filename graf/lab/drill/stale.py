"""Calls with an epoch that is over, as a controller that woke up late would make them. Every one must be refused."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graf.crd.group import GroupComponent, RedundancyGroup
from graf.lab.drill.model import StaleCalls

if TYPE_CHECKING:
    from graf_driver_sdk.v1 import driver_pb2

CALL_TIMEOUT_S = 2.0
BUSY_TRIES = 20
BUSY_PAUSE_S = 0.1


def try_stale_epoch(group: RedundancyGroup, site: str, sockets: Path, epoch: int) -> StaleCalls:
    """Asks every driver of a site to become ACTIVE under `epoch`, which must be lower than the group's.

    A refusal by the guard is FAILED_PRECONDITION; only an OK is an acceptance. Anything else (no driver, no answer)
    proves nothing either way and is counted as not delivered.
    """
    calls = StaleCalls()
    for component in group.spec.components:
        outcome, detail = _try_one(group, component, site, sockets / f"{component.driver_class}.sock", epoch)
        text = f"{site}/{component.name} epoch {epoch}: {detail}"
        calls = calls.plus(StaleCalls(outcome == "accepted", outcome == "refused", outcome == "unreachable", (text,)))
    return calls


def parameters_at(component: GroupComponent, site: str) -> dict[str, Any]:
    """A component's parameters at a site: those of all sites, overridden by its own."""
    return {**component.parameters, **component.site_parameters.get(site, {})}


def _request(group: RedundancyGroup, component: GroupComponent, site: str, epoch: int) -> driver_pb2.EnsureRoleRequest:
    from graf_driver_sdk.v1 import driver_pb2

    request = driver_pb2.EnsureRoleRequest(
        spec=driver_pb2.ComponentSpec(group=group.name, component=component.name, site=site),
        role=driver_pb2.ROLE_ACTIVE,
        epoch=epoch,
        synchronous_set=[site],
        lease_deadline_ns=time.monotonic_ns() + 200_000_000,
    )
    request.spec.parameters.update(parameters_at(component, site))
    for other in group.spec.site_names:
        if other != site:
            peer = request.peers.add(site=other, role=driver_pb2.ROLE_UNSPECIFIED)
            peer.parameters.update(parameters_at(component, other))
    return request


def _try_one(group: RedundancyGroup, component: GroupComponent, site: str, socket: Path, epoch: int) -> tuple[str, str]:
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # the drill forks; its channels do not outlive a call
    import grpc
    from graf_driver_sdk.v1 import driver_pb2_grpc

    if not socket.exists():
        return "unreachable", "no driver socket"
    request = _request(group, component, site, epoch)
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        stub = driver_pb2_grpc.ComponentStub(channel)
        for _ in range(BUSY_TRIES):
            try:
                stub.EnsureRole(request, timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                code, detail = error.code(), error.details()
            else:
                return "accepted", "accepted"
            if code is grpc.StatusCode.FAILED_PRECONDITION:
                return "refused", f"refused, {detail}"
            if code is not grpc.StatusCode.ABORTED:
                return "unreachable", f"{code.name}, {detail}"
            time.sleep(BUSY_PAUSE_S)  # another call of the component is in flight; the contract says: try again
    return "unreachable", "the component was busy all the time"

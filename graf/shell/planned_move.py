"""Asking for a planned move and following it: one RedundancyOperation, created and read, by whoever asks."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from graf.crd.base import NAMESPACE, ObjectMeta
from graf.crd.operation import FINAL_STATES, GroupRef, RedundancyOperation, RedundancyOperationSpec
from graf.ports.group_api import ApiError, ApiFault, GroupApi

BEGIN_WITHIN_S = 60
POLL_S = 0.3


def request_switchover(api: GroupApi, group: str, target: str, reason: str) -> str:
    """Creates the operation and returns its name. It is refused when it has not begun within a minute."""
    now = datetime.now(UTC)
    name = f"switchover-{group[:30]}-{now:%Y%m%d%H%M%S}-{secrets.token_hex(2)}"
    api.create_operation(
        RedundancyOperation(
            metadata=ObjectMeta(name=name, namespace=NAMESPACE),
            spec=RedundancyOperationSpec(
                type="Switchover",
                group_ref=GroupRef(name=group),
                target=target,
                not_after=(now + timedelta(seconds=BEGIN_WITHIN_S)).strftime("%Y-%m-%dT%H:%M:%SZ"),
                reason=reason,
            ),
        )
    )
    return name


def follow(
    api: GroupApi,
    name: str,
    timeout_s: float,
    on_change: Callable[[RedundancyOperation], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> RedundancyOperation:
    """Reads the operation until it has ended, at most `timeout_s`; returns it as last read, ended or not.

    An API server that does not answer for a while is waited for: the operation goes on without it.
    """
    end = clock() + timeout_s
    last: RedundancyOperation | None = None
    while True:
        try:
            operation = api.operation(name)
        except ApiError as problem:
            if problem.fault is not ApiFault.UNREACHABLE or clock() >= end:
                raise
        else:
            if last is None or operation.status != last.status:
                on_change(operation)
            last = operation
            state = operation.status.state if operation.status else "Pending"
            if state in FINAL_STATES or clock() >= end:
                return operation
        sleep(POLL_S)

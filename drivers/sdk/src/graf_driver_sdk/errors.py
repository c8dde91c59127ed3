"""What a driver raises, and how each error reaches the caller.

The table of `driver.proto` in Python: each class is one row. Every message says what failed, where, why, and what to do
next; `reason` is the same for machines. Anything else that a driver raises becomes INTERNAL, without its details.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import grpc

from graf_driver_sdk.types import FieldProblem


class DriverError(Exception):
    """Base of the errors that the contract knows. Raised by itself: the driver failed and knows why (INTERNAL).

    Attributes:
        code: gRPC status that the caller sees.
        reason: short, stable word for machines, e.g. "stale-epoch".
        could_still_be_running: what the caller must assume, see the table in driver.proto.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    could_still_be_running: ClassVar[bool] = True
    reason: str = "driver-failed"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class InvalidParametersError(DriverError):
    """Parameters (or arguments) are unusable: the caller reports them and does not retry. Nothing was changed."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    could_still_be_running = False
    reason = "invalid-parameters"

    def __init__(self, problems: Iterable[FieldProblem], where: str = "parameters") -> None:
        self.problems = tuple(problems)
        listed = "; ".join(f"{p.field}: {p.cause} (fix: {p.fix})" for p in self.problems)
        super().__init__(f"{where} cannot be used: {listed}")


class PreconditionError(DriverError):
    """The state forbids it; nothing was begun. The caller reads the status again and decides anew."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    could_still_be_running = False
    reason = "precondition"


class StaleEpochError(PreconditionError):
    """The epoch is lower than the highest ever seen."""

    reason = "stale-epoch"

    def __init__(self, message: str, *, asked: int = 0, highest: int = 0) -> None:
        super().__init__(message)
        self.asked = asked
        self.highest = highest


class EpochStateError(PreconditionError):
    """The durable epoch cannot be read or written, so no role may be changed."""

    reason = "epoch-state"


class NeedsResyncError(PreconditionError):
    """The data must be resynced before this role can be taken."""

    reason = "needs-resync"


class NotActiveError(PreconditionError):
    """Only the active component can do this, and this one is not."""

    reason = "not-active"


class LeaseOverError(PreconditionError):
    """The lease deadline of the call has passed: nothing was opened."""

    reason = "lease-over"


class BusyError(DriverError):
    """Another call for this component is in flight: the caller waits for it and calls again."""

    code = grpc.StatusCode.ABORTED
    could_still_be_running = True
    reason = "busy"


class UnsupportedError(DriverError):
    """An optional capability that was not declared: the caller does without it."""

    code = grpc.StatusCode.UNIMPLEMENTED
    could_still_be_running = False
    reason = "unsupported"

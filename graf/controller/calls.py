"""Calls of a driver, and the one question that matters when they fail: could it still be running?"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable

Response = TypeVar("Response")


REASON_KEY = "graf-reason"
NEEDS_RESYNC = "needs-resync"

# What gRPC says in words of its own that help nobody.
_WORDS = {grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time: the driver hangs or is overloaded"}


class CallFailedError(Exception):
    """A driver call failed, or its answer makes no sense.

    Attributes:
        component: Whose call it was.
        told: What failed and why, for where the component is named already.
        reason: The driver's stable word for it (``graf-reason``), "" without one.
        could_still_be_running: Whether the effect may still come; the role is then Unknown.
    """

    def __init__(self, component: str, call: str, code: grpc.StatusCode, detail: str, reason: str = "") -> None:
        self.component = component
        self.told = f"{call} failed with {code.name}: {detail}"
        super().__init__(f"{component}: {self.told}")
        self.code = code
        self.reason = reason
        self.could_still_be_running = code not in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.UNIMPLEMENTED,
        )


def nonsense(component: str, call: str, why: str) -> CallFailedError:
    """An answer that came and cannot be meant."""
    return CallFailedError(component, call, grpc.StatusCode.INTERNAL, f"the driver's answer makes no sense: {why}")


async def answer_of(component: str, name: str, call: Awaitable[Response]) -> Response:
    """Waits for an answer.

    Raises:
        CallFailedError: there is none, or it cannot be read.
    """
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        detail = _WORDS.get(error.code()) or error.details() or ""
        said = dict(error.trailing_metadata() or ()).get(REASON_KEY, "")
        raise CallFailedError(component, name, error.code(), detail, str(said)) from error
    if answer is None:  # what gRPC gives when the bytes are no message
        raise nonsense(component, name, "it cannot be read")
    return answer

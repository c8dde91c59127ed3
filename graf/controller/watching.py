"""The stream of a component's status: read as long as it lives and makes sense, asked for anew otherwise."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import TYPE_CHECKING, Any

import grpc
from graf_driver_sdk import convert
from graf_driver_sdk.v1 import driver_pb2 as pb
from graf_driver_sdk.v1 import driver_pb2_grpc

from graf.controller.calls import CallFailedError, answer_of, nonsense

if TYPE_CHECKING:
    from collections.abc import Callable

LOG = logging.getLogger("graf.components")

# A driver tells its status at least once a second; this much silence is a driver that hangs. Counted in steps, because
# a process that stood still itself has heard nothing and has proved nothing.
SILENCE_STEPS, SILENCE_STEP_S = 5, 1.0
AGAIN_AFTER_S = 0.1
INFO_TIMEOUT_S = 2.0


class StatusWatch:
    """Watches one component for as long as it runs; what it cannot hear it reports as lost, with the reason."""

    def __init__(
        self,
        group: str,
        component: str,
        channel: Callable[[], grpc.aio.Channel],
        spec: Callable[[], pb.ComponentSpec],
        on_info: Callable[[pb.GetInfoResponse], None],
        on_status: Callable[[pb.ComponentStatus], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._group = group
        self._component = component
        self._channel = channel
        self._spec = spec
        self._on_info, self._on_status, self._on_lost = on_info, on_status, on_lost

    async def run(self) -> None:
        """Never ends by itself: a defect here must not leave the component without anybody who looks at it."""
        while True:
            try:
                channel = self._channel()
                identity = driver_pb2_grpc.IdentityStub(channel)
                info = identity.GetInfo(pb.GetInfoRequest(), timeout=INFO_TIMEOUT_S)
                self._on_info(await answer_of(self._component, "GetInfo", info))
                await self._watch(channel)
            except CallFailedError as error:
                self._on_lost(error.told)
            except Exception as error:
                fields = {"group": self._group, "component": self._component}
                LOG.exception("watching failed", extra={"fields": fields})
                self._on_lost(f"WatchStatus failed: {type(error).__name__}: {error}")
            await asyncio.sleep(AGAIN_AFTER_S)

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        """Takes statuses until there are no more to be had, or the driver is to be reached in another way.

        Raises:
            CallFailedError: the driver ended the stream, hangs, or tells nonsense.
        """
        stream = driver_pb2_grpc.ComponentStub(channel).WatchStatus(pb.WatchStatusRequest(spec=self._spec()))
        try:
            while self._channel() is channel:
                status = await self._next(stream)
                if status is grpc.aio.EOF:
                    ended = "the driver ended the stream"
                    raise CallFailedError(self._component, "WatchStatus", grpc.StatusCode.UNAVAILABLE, ended)
                self._check(status)
                self._on_status(status)
        finally:
            stream.cancel()

    async def _next(self, stream: Any) -> Any:
        reading = asyncio.ensure_future(answer_of(self._component, "WatchStatus", stream.read()))
        try:
            for _ in range(SILENCE_STEPS):
                done, _ = await asyncio.wait({reading}, timeout=SILENCE_STEP_S)
                if done:
                    return reading.result()
        finally:
            reading.cancel()
        silence = f"no sign of life for {SILENCE_STEPS * SILENCE_STEP_S:.0f} s: the driver hangs"
        raise CallFailedError(self._component, "WatchStatus", grpc.StatusCode.DEADLINE_EXCEEDED, silence)

    def _check(self, status: pb.ComponentStatus) -> None:
        try:
            convert.status_from_pb(status)  # refuses what is no member of its enum
        except ValueError as error:
            raise nonsense(self._component, "WatchStatus", str(error)) from error
        if not math.isfinite(status.lag_seconds):
            raise nonsense(self._component, "WatchStatus", f"a lag of {status.lag_seconds} s")

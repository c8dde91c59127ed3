"""Calls: what every RPC gets alike: a deadline, the error table, one line in the log, nothing secret in an answer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc

from graf_driver_sdk import convert
from graf_driver_sdk.errors import DriverError, InvalidParametersError, StaleEpochError
from graf_driver_sdk.logs import event
from graf_driver_sdk.redact import Redactor
from graf_driver_sdk.types import FieldProblem
from graf_driver_sdk.v1 import driver_pb2 as pb

R = TypeVar("R")
Context = grpc.aio.ServicerContext[Any, Any]

REASON_KEY = "graf-reason"
PROBLEMS_KEY = "graf-problems-bin"  # a ValidateResponse
EPOCH_KEY = "graf-epoch-highest"
# gRPC refuses metadata above 8 KiB; the message and the problems share it.
_MAX_PROBLEMS_BYTES = 4096
_MAX_MESSAGE = 1024

_log = logging.getLogger("graf_driver_sdk.calls")


class Calls:
    """Runs the work of each RPC. Whatever happens in it, the caller gets a row of the table in driver.proto."""

    def __init__(self, redactor: Redactor, longest_s: float = 60.0) -> None:
        """`longest_s` is the deadline of a call that brings none, and the most that any call may ask for."""
        self._redactor = redactor
        self._longest_s = longest_s
        self._last: dict[tuple[str, str], str] = {}

    async def answer(self, name: str, about: str, context: Context, work: Callable[[], Awaitable[R]]) -> R:
        """Awaits `work` within the caller's deadline; its errors become gRPC statuses.

        Args:
            name: the RPC, for people.
            about: the component, for people.
            context: of the RPC.
            work: makes the coroutine; cancelled when the deadline passes or the caller goes away.
        """
        began_ns = time.monotonic_ns()
        timer = asyncio.timeout(self._limit_s(context))
        try:
            async with timer:
                result = await work()
        except asyncio.CancelledError:
            self._note(name, about, began_ns, "cancelled: the caller went away or its deadline passed")
            raise
        except TimeoutError as error:
            if not timer.expired():
                await self._unexpected(name, about, context, began_ns, error)
            self._note(name, about, began_ns, "deadline passed")
            await self._refuse(
                context,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                f"{name} of {about} did not end within its deadline and was cancelled half-way: its outcome is "
                f"unknown. Read the status, then call again",
                "deadline",
            )
        except DriverError as error:
            self._note(name, about, began_ns, f"{error.code.name}: {error}")
            await self._refuse(context, error.code, str(error), error.reason, *_extra(error, self._redactor))
        except Exception as error:
            await self._unexpected(name, about, context, began_ns, error)
        self._note(name, about, began_ns, "ok" if not hasattr(result, "progress") else _words(result.progress))
        return result

    def _limit_s(self, context: Context) -> float:
        left = context.time_remaining()
        if left is None or not math.isfinite(left):
            return self._longest_s
        return min(left, self._longest_s)

    async def _unexpected(self, name: str, about: str, context: Context, began_ns: int, error: Exception) -> NoReturn:
        # The text of an error that nobody foresaw may hold anything, so it goes to the log (redacted) only.
        _log.error(
            "call failed unexpectedly",
            exc_info=error,
            extra={"fields": {"call": name, "component": about, "ms": _ms_since(began_ns)}},
        )
        await self._refuse(
            context,
            grpc.StatusCode.INTERNAL,
            f"{name} of {about} failed unexpectedly ({type(error).__name__}); its outcome is unknown. The driver's "
            f"log has the details; read the status before calling again",
            "unexpected",
        )

    async def _refuse(
        self, context: Context, code: grpc.StatusCode, message: str, reason: str, *extra: tuple[str, str | bytes]
    ) -> NoReturn:
        text = self._redactor.clean(message)[:_MAX_MESSAGE]
        await context.abort(code, text, ((REASON_KEY, reason), *extra))
        raise AssertionError("abort always raises")

    def _note(self, name: str, about: str, began_ns: int, outcome: str) -> None:
        # The controller calls again and again: only what is new is worth a line at the usual level.
        news = self._last.get((name, about)) != outcome
        self._last[name, about] = outcome
        level = logging.INFO if news else logging.DEBUG
        event(_log, "call", level, call=name, component=about, outcome=outcome, ms=_ms_since(began_ns))


def _extra(error: DriverError, redactor: Redactor) -> tuple[tuple[str, str | bytes], ...]:
    if isinstance(error, StaleEpochError):
        return ((EPOCH_KEY, str(error.highest)),)
    if isinstance(error, InvalidParametersError):
        problems = [clean_problem(problem, redactor) for problem in error.problems]
        content = pb.ValidateResponse(problems=[convert.problem_to_pb(problem) for problem in problems])
        while content.ByteSize() > _MAX_PROBLEMS_BYTES:
            del content.problems[-1]
        return ((PROBLEMS_KEY, content.SerializeToString()),)
    return ()


def clean_problem(problem: FieldProblem, redactor: Redactor) -> FieldProblem:
    """The problem without secrets."""
    return FieldProblem(redactor.clean(problem.field), redactor.clean(problem.cause), redactor.clean(problem.fix))


def _words(progress: pb.Progress) -> str:
    return f"{'completed' if progress.completed else 'pending'}: {progress.message}"


def _ms_since(began_ns: int) -> int:
    return (time.monotonic_ns() - began_ns) // 1_000_000

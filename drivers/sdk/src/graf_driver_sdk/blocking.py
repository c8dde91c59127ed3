"""Blocking work off the event loop, without losing sight of it when the caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def run_blocking(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs `function` in a thread and, if cancelled, waits for it to end before the cancellation goes on.

    A thread cannot be stopped. Were the cancellation to go on at once, the component's lane would be free while the
    thread still acts, and the next call would act beside it. So `function` must have time-outs of its own.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    cancelled = await outlast(work)
    if cancelled is not None:
        if not work.cancelled():
            work.exception()  # retrieved, so that the loop does not complain
        raise cancelled
    return work.result()


async def outlast(work: asyncio.Future[T]) -> asyncio.CancelledError | None:
    """Waits until `work` is done, also when cancelled; its result or failure is left for the caller.

    Returns:
        The cancellation that came meanwhile, of the caller or of the work, which the caller raises in the end.
    """
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError as error:
            cancelled = error  # ours, or the work's own: `done` tells
        except Exception:
            break  # the work's own failure
    return cancelled

"""Faults that tests script into the fake: what a bad driver does to its caller."""

from __future__ import annotations

import asyncio
import enum
import os
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Final

from graf_driver_sdk.errors import DriverError
from graf_driver_sdk.types import ComponentKey

CALLS: Final = (
    "EnsureRole", "RenewLease", "Quiesce", "Unquiesce", "AwaitPosition", "Assess", "Resync", "Status",
)  # fmt: skip


class FaultKind(enum.Enum):
    """What goes wrong."""

    SLOW = "slow"  # does it, after `seconds`
    HANG = "hang"  # never answers
    ERROR = "error"  # fails, and says so
    CRASH = "crash"  # raises what nobody foresaw
    LIE = "lie"  # claims to have done it, and has not
    NONSENSE = "nonsense"  # answers with values that the contract does not know
    DIE = "die"  # kill -9 of the driver itself


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of one call; `times` None means each time."""

    kind: FaultKind
    seconds: float = 1.0
    times: int | None = None


class FaultPlayer:
    """Plays faults, and counts how often each was played."""

    def __init__(self) -> None:
        self.played: Counter[tuple[ComponentKey, str]] = Counter()

    async def play(self, key: ComponentKey, call: str, fault: Fault | None) -> FaultKind | None:
        """Does what can be done before the call; LIE and NONSENSE are returned, for the call itself to do."""
        if fault is None or (fault.times is not None and self.played[key, call] >= fault.times):
            return None
        self.played[key, call] += 1
        match fault.kind:
            case FaultKind.SLOW:
                await asyncio.sleep(fault.seconds)
            case FaultKind.HANG:
                await asyncio.Event().wait()
            case FaultKind.ERROR:
                raise DriverError(f"{call} of {key} fails because a fault is scripted; remove it from its faults")
            case FaultKind.CRASH:
                raise ZeroDivisionError(f"scripted crash of {call}")
            case FaultKind.DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            case FaultKind.LIE | FaultKind.NONSENSE:
                return fault.kind
        return None

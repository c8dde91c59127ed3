"""What every way of announcing a service address is to the backend: one class per mode implements ``Announcer``.

The backend keeps the lease and the gate, which are the same for all; an announcer only tells the world where the
address is. The order is the backend's as well: the gate is open before anything is announced, and shut before
anything is withdrawn. So an announcer that fails, hangs or lies sends clients to a shut gate, and nowhere else.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from graf_driver_sdk.types import ComponentKey

from graf_driver_network.address import ensure_address
from graf_driver_network.parameters import Parameters


class RefusedError(Exception):
    """The state forbids it; calling again without a change does not help."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a role, or the announcement for it, has come."""

    completed: bool
    message: str
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of an announcement, without what was asked for.

    Attributes:
        announced: those who should hear it have been told, as far as can be read back.
        problem: why nothing can be announced, or known; empty when all is well.
        detail: where the announcement stands, for people.
        facts: the same for the status.
        lingers_ms: how long users may keep an older answer, as the servers say.
    """

    announced: bool
    problem: str = ""
    detail: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    lingers_ms: int = 0


@dataclass(slots=True)
class Held:
    """One component of this process.

    Attributes:
        announced_epoch: it shall be announced for this epoch, as long as its gate is open for it.
        drained_epoch: it was announced for this epoch, and goes on as the last choice for a moment.
    """

    key: ComponentKey
    parameters: Parameters
    gated: bool = False
    announced_epoch: int | None = None
    drained_epoch: int | None = None
    withdrawal: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The service address."""
        return str(self.parameters.service_address)


class Announcer(abc.ABC):
    """One way of telling users where the service address is. One instance serves all components of its mode.

    Invariant: what is announced has ``held.announced_epoch`` and an open gate, or is on its way out.
    """

    wait_s: ClassVar[float] = 0.1
    """How long standing down waits for :meth:`withdraw`. The gate is shut before."""

    def check(self, held: Held, epoch: int) -> None:  # noqa: B027 - a hook; most modes need none
        """Before anything is touched.

        Raises:
            RefusedError: this epoch cannot be announced.
        """

    def conflicts(self, parameters: Parameters, others: Sequence[Parameters]) -> list[str]:
        """Why these parameters cannot stand beside those of the other components of this mode, as sentences."""
        return []

    def proves_withdrawal(self, held: Held) -> bool:
        """Whether a site is only fenced when the withdrawal is seen."""
        return False

    def take_address(self, held: Held, deadline_ns: int) -> None:
        """Makes the address usable at this node, before the gate opens.

        Raises:
            AddressError: it cannot be held.
        """
        ensure_address(held.parameters.service_address, held.parameters.interface)

    def renewed(self, held: Held, deadline_ns: int) -> None:  # noqa: B027 - a hook; most modes need none
        """The lease lasts longer. Called with each renewal: it must not wait for anything."""

    def rest_address(self, held: Held) -> None:
        """The address' place while this site serves nothing.

        Raises:
            AddressError: it cannot be changed.
        """
        ensure_address(held.parameters.service_address, held.parameters.interface)

    def needs_address(self, gate_open: bool) -> bool:
        """Whether the node must hold the address now; a site without it is unhealthy."""
        return True

    @abc.abstractmethod
    async def announce(self, held: Held) -> Outcome:
        """Begins or continues; completed when those who should hear it have been told. The gate is open."""

    @abc.abstractmethod
    async def withdraw(self, held: Held, why: str) -> Outcome:
        """Begins or continues; the gate is shut."""

    @abc.abstractmethod
    async def observe(self, held: Held) -> Seen:
        """What is announced now. Quick, changes nothing."""

    async def tend(self) -> None:  # noqa: B027 - a hook; most modes need none
        """Called every 0.25 s, for what has to follow a change outside (a Secret). Raises nothing."""

    async def close(self) -> None:  # noqa: B027 - a hook; most modes need none
        """Ends what belongs to this process alone."""

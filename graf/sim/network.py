"""The wide-area network between locations: delay, loss, duplicates, disorder, cuts in one direction or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from graf.sim.kernel import Kernel, Process


@dataclass(slots=True)
class Modes:
    """How badly the network behaves now; faults change it."""

    slower: int = 1
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False

    @property
    def clean(self) -> bool:
        """Whether messages arrive as if nothing were wrong."""
        return self.slower == 1 and not self.loss and not self.duplicate and not self.reorder


class Network:
    """Messages between processes, each at a location.

    Streams keep order, as the real ones do, unless the fault `reorder` is on. A message to a process that has
    meanwhile died is gone. What an earlier incarnation of the sender had under way is void once the receiver has heard
    the new one: the new stream replaces the old.
    """

    def __init__(self, kernel: Kernel, draw: random.Random, latency_ns: tuple[int, int]) -> None:
        self._kernel = kernel
        self._draw = draw
        self._low, high = latency_ns
        self._spread = max(high - self._low, 1)
        self.modes = Modes()
        self.cuts: dict[tuple[str, str], int] = {}
        self.replication_cuts: dict[tuple[str, str], int] = {}
        self._last: dict[tuple[str, str], int] = {}
        self._heard: dict[tuple[str, str], int] = {}

    def latency_ns(self) -> int:
        """One draw of the delay between two locations."""
        return (self._low + int(self._draw.random() * self._spread)) * self.modes.slower

    def open(self, src: str, dst: str) -> bool:
        """Whether packets get from one location to another."""
        return (src, dst) not in self.cuts

    def both_ways(self, one: str, other: str) -> bool:
        """Whether a connection can be held between two locations."""
        return not self.cuts or (self.open(one, other) and self.open(other, one))

    def replicates(self, one: str, other: str) -> bool:
        """Whether two databases can hold a connection."""
        return self.both_ways(one, other) and (one, other) not in self.replication_cuts

    def cut(self, pairs: Iterable[tuple[str, str]], table: dict[tuple[str, str], int] | None = None) -> None:
        """Cuts directions; cuts of several faults add up."""
        chosen = self.cuts if table is None else table
        for pair in pairs:
            chosen[pair] = chosen.get(pair, 0) + 1

    def mend(self, pairs: Iterable[tuple[str, str]], table: dict[tuple[str, str], int] | None = None) -> None:
        """Takes one cut of each direction back."""
        chosen = self.cuts if table is None else table
        for pair in pairs:
            left = chosen.get(pair, 0) - 1
            if left > 0:
                chosen[pair] = left
            else:
                chosen.pop(pair, None)

    def send(self, src: Process, dst: Process, receive: Callable[..., None], *message: Any) -> None:
        """Sends a message; `receive(src name, *message)` is called at the receiver."""
        pair = (src.name, dst.name)
        if pair in self.cuts or not dst.alive:
            return
        modes = self.modes
        copies = 1
        if modes.loss and self._draw.random() < modes.loss:
            return
        if modes.duplicate and self._draw.random() < modes.duplicate:
            copies = 2
        for _ in range(copies):
            arrives = self._kernel.now + self.latency_ns()
            if not modes.reorder:
                arrives = max(arrives, self._last.get(pair, 0) + 1)
                self._last[pair] = arrives
            self._kernel.at(arrives, dst, self._arrive, pair, src.incarnation, receive, message)

    def _arrive(
        self, pair: tuple[str, str], incarnation: int, receive: Callable[..., None], message: tuple[Any, ...]
    ) -> None:
        if pair in self.cuts or self._heard.get(pair, 0) > incarnation:
            return
        self._heard[pair] = incarnation
        receive(pair[0], *message)

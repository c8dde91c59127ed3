"""One event heap, processes that can die or stand still, and what was seen of a run."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PPM = 1_000_000
_LOW = (1 << 32) - 1


class Process:
    """Something that runs code, has a monotonic clock of its own rate, and can die or stand still.

    Invariant: no event of an earlier incarnation is ever run, and none at all while it is paused or dead.
    """

    def __init__(self, kernel: Kernel, name: str, clock: Clock) -> None:
        self.kernel = kernel
        self.name = name
        self.clock = clock
        self.alive = True
        self.paused = False
        self.incarnation = 1
        self.deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    @property
    def runs(self) -> bool:
        """Whether it does anything now."""
        return self.alive and not self.paused

    def after(self, delay_ns: int, fn: Callable[..., None], *args: Any) -> None:
        """Runs something later in real time, unless the process has died by then."""
        self.kernel.at(self.kernel.now + delay_ns, self, fn, *args)

    def after_local(self, delay_ns: int, fn: Callable[..., None], *args: Any) -> None:
        """The same by the process's own clock."""
        self.after(self.clock.real_ns(delay_ns), fn, *args)

    def die(self) -> None:
        """Everything volatile is gone; `deferred` events go with it."""
        self.alive = False
        self.paused = False
        self.deferred.clear()

    def born(self) -> None:
        """A new incarnation."""
        self.alive = True
        self.incarnation += 1

    def pause(self) -> None:
        """Stands still: time goes on."""
        self.paused = True

    def resume(self) -> None:
        """Goes on; what came meanwhile is handled now."""
        if not self.paused:
            return
        self.paused = False
        deferred, self.deferred = self.deferred, []
        for fn, args in deferred:
            self.kernel.at(self.kernel.now, self, fn, *args)


class Clock:
    """The monotonic clock of a machine: its own origin, its own rate."""

    __slots__ = ("_kernel", "_rate_ppm", "_since", "_value", "stopped")

    def __init__(self, kernel: Kernel, fast_ppm: int, origin_ns: int) -> None:
        self._kernel = kernel
        self._rate_ppm = PPM + fast_ppm
        self._since = kernel.now
        self._value = origin_ns
        self.stopped = False

    def __call__(self) -> int:
        """Now, in nanoseconds of this clock."""
        if self.stopped:
            return self._value
        return self._value + (self._kernel.now - self._since) * self._rate_ppm // PPM

    def real_ns(self, local_ns: int) -> int:
        """Real time, rounded up, in which this clock advances by `local_ns`."""
        return -(-local_ns * PPM // self._rate_ppm)

    def stop(self) -> None:
        """A whole virtual machine is paused."""
        self._value, self._since, self.stopped = self(), self._kernel.now, True

    def go_on(self) -> None:
        """It goes on as if nothing had been."""
        self._since, self.stopped = self._kernel.now, False


# Its number, who runs it in which incarnation, and what to call with what.
_Event = tuple[int, "Process | None", int, "Callable[..., None]", tuple[Any, ...]]


class Kernel:
    """Time and the heap.

    The heap holds points in time, and `_due` what is due at each, in the order in which it was asked for: plain
    integers are compared much faster than entries would be.

    Attributes:
        counts: How often each thing was reached: faults, rules, reasons, branches.
        story: Lines for people, None when nobody listens.
        most_events: After that many, `overrun` is called: something goes round and round without an end.
    """

    def __init__(self, story: list[str] | None = None) -> None:
        self.now = 0
        # The hash in two halves: 64 bits and more are no machine integer for a Python interpreter.
        self._high, self._low = 0xCBF29CE4, 0x84222325
        self.events = 0
        self.most_events = 1 << 62
        self.overrun: Callable[[], None] = lambda: None
        self.counts: dict[str, int] = {}
        self.story = story
        self._heap: list[int] = []
        self._due: dict[int, list[_Event]] = {}
        self._sequence = 0
        self._kinds: dict[int, int] = {}

    def at(self, when_ns: int, owner: Process | None, fn: Callable[..., None], *args: Any) -> None:
        """Runs something at a point in time, in the owner's present incarnation only."""
        self._sequence += 1
        event = (self._sequence, owner, owner.incarnation if owner is not None else 0, fn, args)
        due = self._due.get(when_ns)
        if due is None:
            self._due[when_ns] = [event]
            heappush(self._heap, when_ns)
        else:
            due.append(event)

    def run(self, until_ns: int) -> None:
        """Runs all events up to a point in time."""
        heap, due, kinds = self._heap, self._due, self._kinds
        while heap and heap[0] <= until_ns:
            self.now = when = heap[0]
            sequence, owner, incarnation, fn, args = due[when].pop(0)
            if not due[when]:
                del due[when]
                heappop(heap)
            if owner is not None:
                if not owner.alive or owner.incarnation != incarnation:
                    continue
                if owner.paused:
                    owner.deferred.append((fn, args))
                    continue
            # The same object for every instance; never in an order that counts. Hashing the code itself takes long.
            kind = id(fn.__code__)
            number = kinds.get(kind)
            if number is None:
                number = kinds[kind] = len(kinds) + 1
            self.mark(when * 31 + sequence * 7 + number)
            self.events += 1
            if self.events > self.most_events:
                self.overrun()
            fn(*args)
        self.now = max(self.now, until_ns)

    @property
    def trace(self) -> int:
        """Hash of everything that happened, the same for the same seed and code."""
        return self._high << 32 | self._low

    def mark(self, value: int) -> None:
        """Mixes something that happened into the trace: FNV-1a, whose prime is 2**40 + 0x1B3, modulo 2**64."""
        low = self._low ^ (value & _LOW)
        product = low * 0x1B3
        self._high = ((self._high ^ (value >> 32)) * 0x1B3 + (product >> 32) + (low << 8)) & _LOW
        self._low = product & _LOW

    def count(self, key: str) -> None:
        """Something was reached."""
        counts = self.counts
        counts[key] = counts.get(key, 0) + 1

    def tell(self, who: str, what: str) -> None:
        """A line of the story; call it only when `story` is not None, so that text costs nothing otherwise."""
        if self.story is not None:
            self.story.append(f"{self.now / 1e9:10.3f} s  {who:<10} {what}")

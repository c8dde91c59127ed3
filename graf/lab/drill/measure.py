"""Arithmetic on acknowledgements: gaps, rates, what is lost. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import pairwise

from graf.lab.drill.model import MS, SECOND, Ack, Gap, MeasuredWindow, RecordedOperation, Window

LEAD_NS = 15 * SECOND
TAIL_NS = 5 * SECOND


def ack_times(acks: Iterable[Ack]) -> list[int]:
    """Times of all acknowledgements over all connections, in order."""
    return sorted(ack.acked_ns for ack in acks)


def longest_gap(times: Sequence[int], start_ns: int, end_ns: int) -> Gap:
    """Longest interval between consecutive acknowledgements that touches the window.

    An interval that began before the window counts from its true beginning: the last acknowledgement before the
    fault is where the users' outage begins. An interval that is still open at the end
    of the window counts up to there: no acknowledgement at all must never look like no gap.

    Args:
        times: Acknowledgement times in order, nanoseconds.
        start_ns: Begin of the window.
        end_ns: End of the window.
    """
    if end_ns <= start_ns:
        raise ValueError(f"window must not be empty, got {start_ns}..{end_ns}")
    first = bisect_left(times, start_ns)
    last = bisect_right(times, end_ns)
    points = list(times[first:last])
    points.insert(0, times[first - 1] if first > 0 else start_ns)
    # Cut at the window's end on purpose: what follows belongs to the next window, which starts from its own last
    # acknowledgement and so sees the whole interval.
    points.append(end_ns)
    best = Gap(points[0], points[0])
    for before, after in pairwise(points):
        if after - before > best.end_ns - best.start_ns:
            best = Gap(before, after)
    return best


def measure_window(times: Sequence[int], window: Window) -> MeasuredWindow:
    """The window with its longest gap."""
    gap = longest_gap(times, window.start_ns, window.end_ns)
    return MeasuredWindow(window.name, window.start_ns, window.end_ns, gap.ms, window.limit_ms, window.counts)


def rate_per_second(times: Sequence[int], start_ns: int, end_ns: int) -> float:
    """Acknowledgements per second in `[start, end)`."""
    if end_ns <= start_ns:
        return 0.0
    return (bisect_left(times, end_ns) - bisect_left(times, start_ns)) / ((end_ns - start_ns) / SECOND)


def histogram(times: Sequence[int], start_ns: int, end_ns: int, bin_ms: int) -> list[int]:
    """Acknowledgements per bin of `bin_ms`, from `start_ns` to `end_ns`."""
    width = bin_ms * MS
    bins = [0] * max(1, -(-(end_ns - start_ns) // width))
    for at in times[bisect_left(times, start_ns) : bisect_left(times, end_ns)]:
        bins[(at - start_ns) // width] += 1
    return bins


def lost_ids(acks: Iterable[Ack], present: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Acknowledged ids that a site does not have, in order."""
    return sorted({(ack.client, ack.seq) for ack in acks} - present)


def operation_windows(
    operations: Sequence[RecordedOperation], wall_to_mono_ns: int, start_ns: int, end_ns: int
) -> list[tuple[int, int, int]]:
    """Where to look for each operation's gap: `(recorded at, from, to)` in monotonic nanoseconds.

    A record is made when its operation is done, so the outage lies before it. Two operations share a boundary half
    way between their records.

    Args:
        operations: In order of time.
        wall_to_mono_ns: Add to a wall-clock time to get the monotonic one (same machine, same moment).
        start_ns: Nothing before this belongs to any operation: the fault, or the request.
        end_ns: End of the measurement.
    """
    at = [operation.wall_ms * MS + wall_to_mono_ns for operation in operations]
    windows = []
    for index, moment in enumerate(at):
        after_previous = (at[index - 1] + moment) // 2 if index else start_ns
        before_next = (moment + at[index + 1]) // 2 if index + 1 < len(at) else end_ns
        low = max(start_ns, after_previous, moment - LEAD_NS)
        high = min(end_ns, before_next, moment + TAIL_NS)
        windows.append((moment, low, max(high, low + 1)))
    return windows

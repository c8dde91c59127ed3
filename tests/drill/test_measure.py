"""Gaps, rates and losses from acknowledgements."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graf.lab.drill import measure
from graf.lab.drill.model import MS, SECOND, Ack, RecordedOperation


def ms(*values: int) -> list[int]:
    return [value * MS for value in values]


def test_the_gap_is_the_longest_interval_between_consecutive_acknowledgements() -> None:
    gap = measure.longest_gap(ms(0, 10, 20, 500, 510), 0, 510 * MS)
    assert (gap.start_ns, gap.end_ns, gap.ms) == (20 * MS, 500 * MS, 480.0)


def test_an_outage_counts_from_the_last_acknowledgement_before_the_fault() -> None:
    assert measure.longest_gap(ms(0, 90, 400), 100 * MS, 400 * MS).ms == 310.0


def test_no_acknowledgement_after_the_fault_is_a_gap_up_to_the_end_and_never_none() -> None:
    assert measure.longest_gap(ms(0, 90), 100 * MS, 5_000 * MS).ms == 4910.0


def test_no_acknowledgement_at_all_is_a_gap_as_long_as_the_window() -> None:
    assert measure.longest_gap([], 100 * MS, 5_000 * MS).ms == 4900.0


def test_an_outage_that_goes_on_over_a_boundary_is_seen_whole_by_the_next_window() -> None:
    times = ms(0, 100, 900)
    assert measure.longest_gap(times, 0, 500 * MS).ms == 400.0
    assert measure.longest_gap(times, 500 * MS, 1_000 * MS).ms == 800.0


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        measure.longest_gap([], 5, 5)


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=60).map(sorted))
def test_the_gap_equals_the_naive_maximum(times: list[int]) -> None:
    end = times[-1] + 1
    expected = max(b - a for a, b in zip(times, [*times[1:], end], strict=True))
    gap = measure.longest_gap(times, times[0], end)
    assert gap.end_ns - gap.start_ns == expected


def test_the_rate_counts_only_the_interval() -> None:
    assert measure.rate_per_second(ms(0, 100, 200, 900, 1_500), 0, SECOND) == 4.0
    assert measure.rate_per_second([], 0, 0) == 0.0


def test_the_histogram_loses_no_acknowledgement() -> None:
    assert measure.histogram(ms(0, 5, 19, 20, 99), 0, 100 * MS, 20) == [3, 1, 0, 0, 1]


def test_only_acknowledged_ids_must_exist() -> None:
    acks = [Ack(0, 1, 0, 1), Ack(0, 2, 0, 1), Ack(1, 1, 0, 1)]
    assert measure.lost_ids(acks, {(0, 1), (1, 1), (3, 9)}) == [(0, 2)]
    assert measure.lost_ids([], set()) == []


def operation(wall_ms: int) -> RecordedOperation:
    return RecordedOperation("Failover", "east", "west", 1, 2, wall_ms, {})


def test_two_operations_share_the_time_between_them_and_none_reaches_before_the_fault() -> None:
    windows = measure.operation_windows([operation(2_000), operation(10_000)], 0, 1_500 * MS, 12_000 * MS)
    assert windows == [
        (2_000 * MS, 1_500 * MS, 6_000 * MS),
        (10_000 * MS, 6_000 * MS, 12_000 * MS),
    ]


def test_each_operation_gets_its_own_gap() -> None:
    times = ms(*range(0, 2_000, 10), *range(2_700, 8_000, 10), *range(8_100, 12_000, 10))
    found = measure.operation_windows([operation(2_710), operation(8_110)], 0, 2_000 * MS, 12_000 * MS)
    gaps = [measure.longest_gap(times, low, high).ms for _, low, high in found]
    assert gaps == [710.0, 110.0]

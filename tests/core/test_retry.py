"""How long a site waits that wins in vain: longer each time, never longer than the last wait, anew with every news."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from graf.core.retry import FIRST_REST_TTLS, LAST_REST_TTLS, REMEMBERED, Tries, told_of
from graf.core.view import ComponentView, Health

WHOLE = ComponentView("files", Health.HEALTHY, promotable=True)


def in_vain(times: int, told: str = "whole", why: str = "it cannot be mounted") -> Tries:
    tries = Tries()
    for epoch in range(times):
        tries = tries.asked(told).failed(epoch, why)
    return tries


def test_each_wait_is_twice_as_long_up_to_the_last_one() -> None:
    waits = [in_vain(times).rest_ttls("whole") for times in range(1, 9)]
    assert waits == [FIRST_REST_TTLS, 6, 12, 24, 48, 96, LAST_REST_TTLS, LAST_REST_TTLS]
    assert replace(in_vain(9), count=10**12).rest_ttls("whole") == LAST_REST_TTLS


def test_another_status_is_tried_after_the_first_wait() -> None:
    assert in_vain(6).rest_ttls("whole, and mounted anew") == FIRST_REST_TTLS


def test_figures_are_no_news() -> None:
    aged = [replace(WHOLE, promotable_reason=f"the newest copy is {age} s old") for age in (7, 1042)]
    assert told_of(aged[:1]) == told_of(aged[1:])
    assert told_of([WHOLE]) != told_of([replace(WHOLE, promotable=False)])


@given(st.lists(st.tuples(st.text("ab", max_size=2), st.text("cd", max_size=2)), max_size=40))
def test_whatever_is_told_a_wait_is_within_its_bounds(told: list[tuple[str, str]]) -> None:
    tries = Tries()
    for epoch, (status, why) in enumerate(told):
        tries = tries.asked(status).failed(epoch, why)
        assert FIRST_REST_TTLS <= tries.rest_ttls(status) <= LAST_REST_TTLS


def test_a_driver_that_tells_something_else_each_time_is_not_tried_for_ever_as_if_it_was_new() -> None:
    tries = Tries()
    for epoch in range(REMEMBERED + 9):
        tries = tries.asked("x" * epoch).failed(epoch, "y" * epoch)
    assert tries.rest_ttls("z") == LAST_REST_TTLS
    assert len(tries.in_vain) <= REMEMBERED + 1

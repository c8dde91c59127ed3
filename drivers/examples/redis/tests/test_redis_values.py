"""Parameters and histories, without a server."""

from __future__ import annotations

import pytest
from graf_driver_redis.history import Histories, Position, histories, verdict
from graf_driver_redis.parameters import parse
from graf_driver_sdk.types import Verdict

OLD, NEW = "a" * 40, "b" * 40


def at(history: str, offset: int, before: tuple[str, int] | None = None, *, empty: bool = False) -> Histories:
    return Histories(Position(history, offset), None if before is None else Position(*before), empty)


@pytest.mark.parametrize(
    ("local", "active", "lost", "expected"),
    [
        (at(OLD, 10), at(OLD, 10), False, Verdict.CLEAN),
        (at(OLD, 9), at(OLD, 10), False, Verdict.BEHIND),
        (at(OLD, 11), at(OLD, 10), False, Verdict.DIVERGED),
        (at(OLD, 10), at(NEW, 50, (OLD, 10)), False, Verdict.BEHIND),
        (at(OLD, 11), at(NEW, 50, (OLD, 10)), False, Verdict.DIVERGED),
        (at(OLD, 1), at(NEW, 50), False, Verdict.DIVERGED),
        (at(OLD, 0, empty=True), at(NEW, 50), False, Verdict.EMPTY),
        (at(OLD, 10), at(OLD, 10), True, Verdict.DIVERGED),
    ],
)
def test_the_verdict_compares_ids_and_offsets(
    local: Histories, active: Histories, lost: bool, expected: Verdict
) -> None:
    assert verdict(local, active, lost) is expected


def test_the_second_offset_is_of_the_first_byte_that_is_not_there() -> None:
    info = {
        "role": "master",
        "master_replid": NEW,
        "master_repl_offset": 50,
        "master_replid2": OLD,
        "second_repl_offset": 11,
    }
    assert histories(info, 1) == at(NEW, 50, (OLD, 10))
    assert histories({**info, "second_repl_offset": -1}, 0) == at(NEW, 50, empty=True)


def test_a_position_is_read_as_it_was_written() -> None:
    assert Position.parse(str(Position(OLD, 12))) == Position(OLD, 12)
    assert Position.parse("12") is None


def test_every_problem_of_the_parameters_is_named() -> None:
    _, problems = parse({"address": "east", "port": 0.0, "dataDir": "x", "colour": "red"})
    assert [problem.field for problem in problems] == ["colour", "address", "port", "dataDir", "passwordFile"]

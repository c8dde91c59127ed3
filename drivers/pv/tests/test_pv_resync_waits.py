"""A resync is done with all that was written before it: it waits for the word of an active that speaks now and then."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from graf_driver_pv.client import Head
from graf_driver_pv.parameters import Mode
from graf_driver_pv.position import Position
from graf_driver_pv.record import Record
from graf_driver_pv.resync import Returning
from graf_driver_sdk.types import ComponentKey, Peer, ResyncStrategy, Role

ACTIVE = Peer("west", Role.ACTIVE, {})
NEWEST = Position(3, 7)


class PastWaitingError(Exception):
    """It goes on with what the active has now."""


def returning(mode: Mode) -> tuple[Returning, list[bool]]:
    component = SimpleNamespace(
        active=None,
        follower=None,
        record=Record(),
        key=ComponentKey("vcu", "pv", "east"),
        parameters=SimpleNamespace(mode=mode),
        upstream=lambda _: None,
    )
    made, stale = Returning(cast(Any, component)), [True]

    async def head(*_: object) -> Head:
        return Head(
            epoch=3,
            newest=NEWEST,
            newest_begun_wall_ms=1,
            behind_s=0.0,
            asked_ns=1,
            base=NEWEST,
            lineage={},
            stale=stale[0],
        )

    async def go_on(*_: object) -> None:
        raise PastWaitingError

    made._head = head  # type: ignore[assignment,method-assign]
    made._make_room = go_on  # type: ignore[assignment,method-assign]
    return made, stale


async def asked(made: Returning) -> str:
    return (await made.resync(ACTIVE, ResyncStrategy.FOLLOW, 3)).progress.message


async def test_what_the_active_has_not_confirmed_is_waited_for_however_long_it_takes() -> None:
    made, stale = returning(Mode.CONTINUOUS)
    assert "is making a generation" in await asked(made)
    assert made._task is not None
    made._task.begun_s -= 600.0
    assert await asked(made) == "waiting for 600 s until west confirms what it has"
    stale[0] = False
    with pytest.raises(PastWaitingError):
        await asked(made)


async def test_a_scheduled_copy_is_not_waited_for_until_the_next_one() -> None:
    made, _ = returning(Mode.SCHEDULED)
    assert "is making a generation" in await asked(made)
    assert made._task is not None
    made._task.begun_s -= 600.0
    with pytest.raises(PastWaitingError):
        await asked(made)

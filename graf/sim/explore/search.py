"""Breadth first through every state within the bounds; the first violation found has the fewest steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.sim.explore.story import Story
from graf.sim.explore.values import Result, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.sim.explore.world import State, World

REPORT_EVERY = 5_000


def search(
    name: str,
    world: World,
    most_states: int,
    on_progress: Callable[[int, int, int], None] | None = None,
    visited: dict[State, State | None] | None = None,
) -> Result:
    """Visits every reachable state, or stops at the first violation.

    Args:
        name: Of the configuration.
        world: What follows from what.
        most_states: Where to stop, as incomplete.
        on_progress: Is told states, transitions and depth now and then.
        visited: Is filled with every state and the one that it was first reached from.
    """
    parents: dict[State, State | None] = {} if visited is None else visited
    parents[world.first] = None
    level, depth, transitions = [world.first], 0, 0
    told = REPORT_EVERY
    while level:
        found: list[State] = []
        for state in level:
            for event, after, broken in world.followers(state):
                transitions += 1
                if broken:
                    steps = Story(world).of(path(parents, state), (event, after, broken))
                    return Result(name, False, len(parents), transitions, depth + 1, Violation(broken, steps))
                if after not in parents:
                    parents[after] = state
                    found.append(after)
            if len(parents) >= told:
                told = len(parents) + REPORT_EVERY
                if on_progress is not None:
                    on_progress(len(parents), transitions, depth)
            if len(parents) > most_states:
                return Result(name, False, len(parents), transitions, depth)
        level = found
        depth += bool(found)
    return Result(name, True, len(parents), transitions, depth)


def path(parents: dict[State, State | None], state: State) -> list[State]:
    """The states from the first one to this one."""
    way = [state]
    while (before := parents[way[-1]]) is not None:
        way.append(before)
    return way[::-1]

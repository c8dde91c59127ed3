"""One seed, from its settings to its outcome; how a failing one is made short."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from graf.sim.monitors import InvariantError
from graf.sim.settings import Settings, copied, drawn
from graf.sim.world import World

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        invariant: Id of the first invariant that was violated, empty when none was.
        violation: What was seen, for people.
        trace: Hash of everything that happened.
        simulated_ns: Length of the run in its own time.
        counts: How often each thing was reached.
        faults: What was begun: (number, when, name, target).
        story: Lines for people, empty unless asked for.
    """

    seed: int
    invariant: str
    violation: str
    trace: int
    simulated_ns: int
    events: int
    counts: dict[str, int]
    faults: tuple[tuple[int, int, str, str], ...]
    story: tuple[str, ...] = field(default=())


def play(settings: Settings, *, tell: bool = False) -> Outcome:
    """Plays one run. The same settings and code give the same outcome, everywhere."""
    story: list[str] | None = [] if tell else None
    world = World(settings, story)
    invariant = violation = ""
    try:
        world.play()
    except InvariantError as error:
        invariant, violation = error.invariant, str(error)
        if story is not None:
            world.kernel.tell("VIOLATION", violation)
    kernel = world.kernel
    return Outcome(
        seed=settings.seed,
        invariant=invariant,
        violation=violation,
        trace=kernel.trace,
        simulated_ns=kernel.now,
        events=kernel.events,
        counts=kernel.counts,
        faults=tuple(world.faults.injected),
        story=tuple(story or ()),
    )


def play_seed(seed: int, *, tell: bool = False, copies: bool = False) -> Outcome:
    """Plays a seed with the settings that it draws; with `copies` for a group whose data is only copied."""
    return play(copied(drawn(seed)) if copies else drawn(seed), tell=tell)


def shrink(
    settings: Settings, invariant: str, on_try: Callable[[Settings, bool], None] = lambda _s, _f: None
) -> Settings:
    """A run that violates the same invariant with as few faults, and in as short a time, as leaving them out shows.

    Halves of the faults first, then one after the other (delta debugging, Zeller 2002); then the end of the run.

    Args:
        settings: A run that violates `invariant`.
        invariant: Its id.
        on_try: Told of each attempt and whether it still failed.
    """

    def fails(candidate: Settings) -> bool:
        outcome = play(candidate)
        failed = outcome.invariant == invariant
        on_try(candidate, failed)
        return failed

    numbers = [number for number, _when, _name, _target in play(settings).faults]
    chunk = max(len(numbers) // 2, 1)
    while numbers:
        shorter = False
        for start in range(0, len(numbers), chunk):
            candidate = replace(settings, skip=settings.skip | frozenset(numbers[start : start + chunk]))
            if fails(candidate):
                settings = candidate
                numbers = numbers[:start] + numbers[start + chunk :]
                shorter = True
                break
        if shorter:
            chunk = min(chunk, max(len(numbers) // 2, 1))
        elif chunk == 1:
            break
        else:
            chunk = max(chunk // 2, 1)
    for part in (0.25, 0.5, 0.75):
        candidate = replace(settings, active_ns=int(settings.active_ns * part))
        if fails(candidate):
            return candidate
    return settings

"""Ablation: plant one bug after the other and see whether the monitors notice, and after how many seeds."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from graf.sim.bugs import BUGS, BY_NAME, UNSEEN
from graf.sim.run import play
from graf.sim.settings import SITES, WITNESSES, Settings, copied, drawn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from graf.sim.bugs.bug import Bug

SEEDS = 3_000


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one bug; plain values, so that it travels between processes.

    Attributes:
        caught: A monitor failed with the bug, and the same run is green without it.
        seed: The seed that shows it, -1 when none did.
        seeds: How many were played until then.
        violation: What was seen; for a bug that was not caught, what came instead.
    """

    bug: str
    summary: str
    caught: bool
    invariant: str
    seed: int
    seeds: int
    violation: str


def settings_of(bug: Bug, seed: int) -> Settings:
    """The run in which a bug may show.

    Without `needs` it is the seed's own. With them the seed's world has those faults alone, one soon after the other
    and for as long as any run has them: a safeguard that answers to a rare meeting of faults is called upon more often.
    """
    settings = replace(drawn(seed), lossless=bug.lossless)
    if bug.copied:
        settings = copied(settings)
    heartbeat_ns = settings.timing.heartbeat_ns
    if bug.script:
        end = max(planned.at + planned.lasts for planned in bug.script)
        return replace(
            settings,
            sites=SITES[:2],
            witnesses=WITNESSES[:1],
            spare_witnesses=WITNESSES[1:3],
            automatic=True,
            faults=tuple(dict.fromkeys(planned.fault for planned in bug.script)),
            active_ns=int(end * heartbeat_ns),
            script=bug.script,
        )
    if not bug.needs:
        return settings
    return replace(
        settings,
        faults=bug.needs,
        spare_witnesses=WITNESSES[len(settings.witnesses) :][:2] if "change-voters" in bug.needs else (),
        active_ns=70 * heartbeat_ns,
        fault_gap_ns=5 * heartbeat_ns,
    )


def seeds_of(bug: Bug, first: int = 0) -> Iterator[int]:
    """The seeds that are played for a bug, in order. Faults that are to meet are played in small worlds, as a rule."""
    for seed in count(first):
        settings = drawn(seed)
        if bug.large and (len(settings.sites) < 3 or len(settings.voters) < 5 or not settings.automatic):
            continue
        if bug.needs and not bug.large and len(settings.sites) > 3:
            continue
        yield seed


def ablate_bug(name: str, seeds: int = SEEDS, first: int = 0) -> Result:
    """Plays seeds with one bug until a monitor of what the bug breaks notices it."""
    bug = BY_NAME[name]
    left, red = islice(seeds_of(bug, first), seeds), ""
    played = 0
    while True:
        caught = None
        with bug.plant():  # once, not for every seed: a patch costs PyPy its compiled code
            for seed in left:
                played += 1
                outcome = play(settings_of(bug, seed))
                if outcome.invariant in bug.invariants:
                    caught = outcome
                    break
        if caught is None:
            return Result(name, bug.summary, False, "", -1, played, red)
        sane = play(settings_of(bug, caught.seed))
        if not sane.invariant:
            return Result(name, bug.summary, True, caught.invariant, caught.seed, played, caught.violation)
        red = red or f"seed {caught.seed} is red without the bug too: {sane.violation}"


def ablate(
    names: Iterable[str] = (),
    seeds: int = SEEDS,
    on_progress: Callable[[Result], None] = lambda _result: None,
    each: Callable[[Callable[[str], Result], list[str]], Iterable[Result]] = map,
) -> list[Result]:
    """Plants the named bugs, all by default, and returns what came of each, in the order of the names.

    Args:
        names: Which bugs.
        seeds: How many seeds are played for a bug at most.
        on_progress: Told of each bug as it is done.
        each: Applies a function to all names; `imap` of a pool of processes does it on several cores.
    """
    results = []
    for result in each(partial(ablate_bug, seeds=seeds), list(names) or [bug.name for bug in BUGS]):
        results.append(result)
        on_progress(result)
    return results


def summary(results: Iterable[Result]) -> dict[str, Any]:
    """The figures, as `graf sim ablate --json` prints them."""
    results = list(results)
    caught = [result.seeds for result in results if result.caught]
    return {
        "bugs": len(results),
        "caught": len(caught),
        "median_seeds": statistics.median(caught) if caught else None,
        "max_seeds": max(caught, default=None),
        "missed": [result.bug for result in results if not result.caught],
        "not_expected": {bug.name: bug.unseen for bug in UNSEEN},
        "results": [asdict(result) for result in results],
    }


def windows(results: Iterable[Result]) -> dict[str, int]:
    """Per bug that was caught, the seed that shows it: what a fast test plays."""
    return {result.bug: result.seed for result in results if result.caught}

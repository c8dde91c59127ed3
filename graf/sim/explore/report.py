"""Runs configurations and broken variants, and what they report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graf.sim.explore import search as searching
from graf.sim.explore.configurations import BOUNDS, MOST_STATES
from graf.sim.explore.recovery import Recovery
from graf.sim.explore.story import Story
from graf.sim.explore.values import Result, Violation
from graf.sim.explore.variants import VARIANTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.sim.explore.configurations import Configuration
    from graf.sim.explore.variants import Variant

    Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class Report:
    """What the search through one configuration found, and how long it took when somebody measured it."""

    configuration: Configuration
    result: Result
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every state was visited and every invariant holds."""
        return self.result.complete and self.result.violation is None

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        violation = self.result.violation
        return {
            "name": self.result.configuration,
            "bounds": dict(self.configuration.bounds),
            "complete": self.result.complete,
            "states": self.result.states,
            "transitions": self.result.transitions,
            "depth": self.result.depth,
            "seconds": round(self.seconds, 1),
            "violation": violation.invariant if violation else None,
            "steps": list(violation.steps) if violation else [],
        }


@dataclass(frozen=True, slots=True)
class VariantReport:
    """What became of a broken variant."""

    variant: Variant
    result: Result

    @property
    def caught(self) -> bool:
        """Whether an invariant that it is meant to break was broken."""
        violation = self.result.violation
        return violation is not None and violation.invariant.startswith(self.variant.breaks)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        violation = self.result.violation
        return {
            "name": self.variant.name,
            "what": self.variant.what,
            "caught": self.caught,
            "configuration": self.result.configuration,
            "states": self.result.states,
            "violation": violation.invariant if violation else None,
            "steps": list(violation.steps) if violation else [],
        }


def configurations(bounds: str = "normal") -> tuple[Configuration, ...]:
    """The configurations of `quick`, `normal` or `deep` bounds."""
    return BOUNDS[bounds]


def variants() -> tuple[Variant, ...]:
    """All broken variants."""
    return VARIANTS


def run(configuration: Configuration, on_progress: Progress | None = None, most_states: int = MOST_STATES) -> Report:
    """Goes through every state of a configuration; where voters change, it also asks whether each one can recover."""
    world = configuration.world()
    visited: dict[Any, Any] = {}
    result = searching.search(configuration.name, world, most_states, on_progress, visited)
    if result.complete and configuration.kind == "voters":
        stuck = Recovery(world).stuck(visited)
        if stuck is not None:
            steps = Story(world).through(searching.path(visited, stuck))
            text = "liveness: no site can win from here any more, with all faults over and every message arriving"
            result = Result(
                result.configuration,
                result.complete,
                result.states,
                result.transitions,
                result.depth,
                Violation(text, (*steps, f"=> {text}")),
            )
    return Report(configuration, result)


def run_variant(variant: Variant, on_progress: Progress | None = None, most_states: int = MOST_STATES) -> VariantReport:
    """Looks for the shortest counterexample of a broken variant."""
    world = variant.configuration.world(variant.patch)
    result = searching.search(variant.configuration.name, world, most_states, on_progress)
    return VariantReport(variant, result)


def summary(reports: list[Report], broken: list[VariantReport]) -> dict[str, Any]:
    """The whole answer of `graf sim explore --json`."""
    return {
        "complete": all(r.result.complete for r in reports),
        "states": sum(r.result.states for r in reports),
        "transitions": sum(r.result.transitions for r in reports),
        "violations": sum(1 for r in reports if r.result.violation is not None),
        "configurations": [r.as_json() for r in reports],
        "variants": [v.as_json() for v in broken],
    }

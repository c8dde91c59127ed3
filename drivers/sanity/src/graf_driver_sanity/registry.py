"""The checks: each has an id, names the requirements that it proves, and says what it needs to be run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from graf_driver_sdk.types import Capability

if TYPE_CHECKING:
    from graf_driver_sanity.harness import Harness

Body = Callable[["Harness"], Awaitable[None]]


class Violation(Exception):  # noqa: N818 - a finding, not an error of the kit
    """The driver broke a requirement; the text says what was seen."""


class CannotCheck(Exception):  # noqa: N818
    """The check cannot be run here; the text is the reason of the skip."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        id: stable, e.g. "epoch-stale-refused-by-quiesce"; the word before the first dash is its area.
        requirements: ids of what it proves; at least one.
        sentence: the behaviour, for people.
        capabilities: the driver must declare them, else the check is skipped.
        needs: what the configuration must have: "process", "peer", "hook:NAME", "invalid", "secrets", "second".
        guards: with one of these capabilities a run without this check leaves a guarantee unproved.
        unproved: what a driver could do then, and pass.
    """

    id: str
    requirements: tuple[str, ...]
    sentence: str
    body: Body
    capabilities: frozenset[Capability] = frozenset()
    needs: tuple[str, ...] = ()
    guards: frozenset[Capability] = frozenset()
    unproved: str = ""


_CHECKS: Final[dict[str, Check]] = {}


def check(
    identity: str,
    *requirements: str,
    capabilities: tuple[Capability, ...] = (),
    needs: tuple[str, ...] = (),
    sentence: str = "",
    guards: tuple[Capability, ...] = (),
    unproved: str = "",
) -> Callable[[Body], Body]:
    """Registers a check; its sentence is the docstring's first line unless given."""

    def register(body: Body) -> Body:
        words = sentence or (body.__doc__ or "").strip().partition("\n")[0]
        if identity in _CHECKS:
            raise ValueError(f"two checks are called {identity}")
        if not words or not requirements:
            raise ValueError(f"check {identity} has no sentence or names no requirement")
        if bool(guards) is not bool(unproved):
            raise ValueError(f"check {identity} guards something and does not say what, or the other way round")
        _CHECKS[identity] = Check(
            identity, requirements, words, body, frozenset(capabilities), needs, frozenset(guards), unproved
        )
        return body

    return register


def all_checks() -> tuple[Check, ...]:
    """Every check, in the order of the modules."""
    from graf_driver_sanity import checks  # the modules register their checks when they are imported

    order = {module.__name__: number for number, module in enumerate(checks.MODULES)}
    return tuple(sorted(_CHECKS.values(), key=lambda one: order[one.body.__module__]))


def expect(kept: bool, seen: str) -> None:
    """Raises a violation that says what was seen, unless the requirement was kept."""
    if not kept:
        raise Violation(seen)

"""What a planted bug is, and how it is put in and taken out again."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from graf.core import site, voter
from graf.core.contender import CONTENDER_RULES
from graf.core.holder import HOLDER_RULES
from graf.sim.voting import SimWitness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from graf.sim.settings import Planned


@dataclass(frozen=True, slots=True)
class Bug:
    """One safeguard taken out.

    Attributes:
        name: What `graf sim ablate --bug` calls it.
        summary: One sentence: which safeguard is missing.
        invariants: Ids of the invariants that may show it.
        plant: Returns the context in which the safeguard is missing.
        needs: Faults without which the safeguard is never called upon: they are the only ones of a run then.
        lossless: False for a safeguard of the lease that the synchronous set would cover: the group has none then.
        copied: The group's data is only copied: no write waits for a standby.
        large: It shows only where there are at least three sites and five voters.
        script: A meeting of faults that chance brings too seldom; what else happens is up to the seed.
        unseen: No run has shown it: what seems to hold the invariant instead. It is not expected to be caught.
    """

    name: str
    summary: str
    invariants: tuple[str, ...]
    plant: Callable[[], AbstractContextManager[None]]
    needs: tuple[str, ...] = ()
    lossless: bool = True
    copied: bool = False
    large: bool = False
    script: tuple[Planned, ...] = ()
    unseen: str = ""


@dataclass(frozen=True, slots=True)
class Patch:
    """One attribute of a module, a class or a function, and what stands there while the bug is planted."""

    owner: Any
    name: str
    value: Any

    def before(self) -> Any:
        """What stands there now, as it is stored: a property stays a property."""
        if isinstance(self.owner, type | ModuleType):
            return vars(self.owner)[self.name]
        return getattr(self.owner, self.name)


@contextmanager
def patched(*patches: Patch) -> Iterator[None]:
    """Puts the patches in, and every attribute back afterwards, whatever happens in between."""
    before = [(patch, patch.before()) for patch in patches]
    try:
        for patch in patches:
            setattr(patch.owner, patch.name, patch.value)
        yield
    finally:
        for patch, value in reversed(before):
            setattr(patch.owner, patch.name, value)


def planting(*patches: Patch) -> Callable[[], AbstractContextManager[None]]:
    """What `Bug.plant` wants, of patches that need nothing but to be put in."""
    return lambda: patched(*patches)


def without(rules: tuple[tuple[str, Any], ...], *names: str) -> tuple[tuple[str, Any], ...]:
    """The rules but for the named ones, which must be there."""
    unknown = set(names) - {name for name, _rule in rules}
    if unknown:
        raise KeyError(f"no such rule: {', '.join(sorted(unknown))}")
    return tuple(rule for rule in rules if rule[0] not in names)


def _tells_nothing(_self: SimWitness, _to: str) -> None:
    return None


# What witnesses tell keeps sites from most contests that the voters would have to refuse. Safety may not rest on it: a
# word may be late, and a witness of an earlier release tells nothing.
NOTHING_TOLD = Patch(SimWitness, "record", _tells_nothing)


def no_campaign_rule(*names: str) -> Patch:
    """Voters judge campaigns without these rules."""
    return Patch(voter.on_campaign, "__defaults__", (without(voter.CAMPAIGN_RULES, *names),))


def no_site_rule(*, holder: tuple[str, ...] = (), contender: tuple[str, ...] = ()) -> Patch:
    """Sites decide without these rules."""
    rules = (without(HOLDER_RULES, *holder), without(CONTENDER_RULES, *contender))
    return Patch(site.decide, "__defaults__", rules)

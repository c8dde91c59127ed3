"""How long a site waits that wins a group again and again and cannot serve it.

Values in, values out. What is remembered is volatile: a process that starts again begins with `Tries()`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from graf.core.view import ComponentView

# In lease times. The first wait lets another site go first; each further one is twice as long, as each further try is
# a move in the record that comes to nothing. At the longest it stays for as long as it takes: nobody else may be left.
FIRST_REST_TTLS = 3
LAST_REST_TTLS = 100
# More different words than that are no news any more.
REMEMBERED = 16

# Figures change by themselves (an age, a size) and say nothing new.
_WITHOUT_FIGURES = str.maketrans("", "", "0123456789")


@dataclass(frozen=True, slots=True)
class Tries:
    """Epochs that this site won, one after the other, and gave back because it could not serve.

    Attributes:
        count: How many, since what was told of the data, or why it was refused, was last something new.
        epoch: The newest of them.
        asked_with: What the data components told when an epoch was last asked for.
        in_vain: What they told, and why they did not open, in the tries so far, without figures.
        why: Why the newest one could not be served.
    """

    count: int = 0
    epoch: int = 0
    asked_with: str = ""
    in_vain: frozenset[str] = frozenset()
    why: str = ""

    def asked(self, told: str) -> Tries:
        """An epoch is asked for, with what the data components tell."""
        return self if told == self.asked_with else replace(self, asked_with=told)

    def failed(self, epoch: int, why: str) -> Tries:
        """It was won and is given back."""
        now = {self.asked_with, why.translate(_WITHOUT_FIGURES)}
        news = not now <= self.in_vain and len(self.in_vain) < REMEMBERED
        return replace(
            self,
            count=1 if news else self.count + 1,
            epoch=epoch,
            in_vain=self.in_vain | now if news else self.in_vain,
            why=why,
        )

    def rest_ttls(self, told: str) -> int:
        """How many lease times after the last one it asks again, with what is told now."""
        if told not in self.in_vain and len(self.in_vain) < REMEMBERED:
            return FIRST_REST_TTLS
        # The exponent is bounded too: a count that rises for weeks makes no number of a million digits.
        return min(FIRST_REST_TTLS << min(max(self.count - 1, 0), LAST_REST_TTLS.bit_length()), LAST_REST_TTLS)


def told_of(components: Iterable[ComponentView]) -> str:
    """What the drivers tell of their data, without figures: as long as it is the same, another try is no better."""
    told = (f"{c.name} {c.health.value} {c.promotable} {c.promotable_reason}" for c in components)
    return "; ".join(told).translate(_WITHOUT_FIGURES)

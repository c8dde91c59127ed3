"""Names of generations: the epoch in which one was made and its number, so that names sort as they were made. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

_NAME: Final = re.compile(r"e([0-9]{10})-([0-9]{10})")


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Name of a generation. Between two epochs the higher is newer, whatever the numbers."""

    epoch: int
    number: int

    def __str__(self) -> str:
        return f"e{self.epoch:010d}-{self.number:010d}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads a name.

        Raises:
            ValueError: it is none.
        """
        found = _NAME.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no generation's name, e.g. e0000000003-0000000012")
        return cls(int(found.group(1)), int(found.group(2)))

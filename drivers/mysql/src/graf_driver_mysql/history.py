"""What a history of transactions must answer, whichever engine wrote it. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class History(ABC):
    """A set of transactions. Two histories are compared only within one engine: anything else is a mistake here."""

    __slots__ = ()

    @abstractmethod
    def beyond(self, other: History) -> tuple[str, ...]:
        """What is here and not in ``other``, as ranges for people and for the archive."""

    @abstractmethod
    def transactions_beyond(self, other: History) -> int:
        """How many transactions are here and not in ``other``."""

    @abstractmethod
    def merged(self, other: History) -> Self:
        """Both together."""

    @abstractmethod
    def __bool__(self) -> bool:
        """Whether it has any transaction."""

    def covers(self, other: History) -> bool:
        """Whether everything of ``other`` is here too."""
        return not other.beyond(self)

    def same(self, other: History) -> Self:
        """The other one as of this kind; raises TypeError where it is of another engine."""
        if not isinstance(other, type(self)):
            raise TypeError(f"{type(other).__name__} cannot be compared with {type(self).__name__}")
        return other

"""What can go wrong for an author, in the words of the command line's error boundary."""

from __future__ import annotations


class AuthorError(Exception):
    """A scaffold that cannot be made.

    Attributes:
        what: What failed, where, why.
        next_step: What to do about it.
    """

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step

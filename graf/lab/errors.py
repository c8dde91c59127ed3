"""The one kind of error that the lab shows to a person."""

from __future__ import annotations


class LabError(Exception):
    """Something the lab cannot do: what, why, and what to do next.

    Attributes:
        what: What was tried and did not happen.
        why: The cause, as far as it is known.
        remedy: The next step, when possible a command.
    """

    def __init__(self, what: str, why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        text = self.what
        if self.why:
            text += f"\n  why:  {self.why}"
        if self.remedy:
            text += f"\n  next: {self.remedy}"
        return text

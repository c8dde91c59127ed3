"""One boundary between errors and operators: what, why, what next, and no traceback."""

from __future__ import annotations


class CliError(Exception):
    """Something the operator asked for cannot be done.

    Attributes:
        what: What failed, where, why.
        next_step: What to do about it.
        exit_code: Exit status of the command.
    """

    def __init__(self, what: str, next_step: str = "", exit_code: int = 1) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.exit_code = exit_code


def explain(error: BaseException) -> tuple[str, str]:
    """What failed and what to do next, of any error that reaches the boundary.

    Errors of this project carry both: `what` and one of `next_step`, `remedy`. Of others only the type and the text
    are known.
    """
    what = getattr(error, "what", None)
    if isinstance(what, str):
        why = getattr(error, "why", "")
        text = f"{what}: {why}" if isinstance(why, str) and why else what
        return text, str(getattr(error, "next_step", "") or getattr(error, "remedy", ""))
    return (
        f"unexpected {type(error).__name__}: {error}",
        "This is a fault of GRAF. Run again with GRAF_DEBUG=1 to see where, and report it.",
    )

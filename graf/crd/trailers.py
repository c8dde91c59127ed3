"""Messages of the commits that record decisions, and their trailers (git-interpret-trailers(1)). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRAILER = re.compile(r"^(Graf-[A-Za-z]+): ?(.*)$")


@dataclass(frozen=True, slots=True)
class DecisionTrailers:
    """What a decision's commit says to machines.

    Attributes:
        group: name of the RedundancyGroup.
        epoch: epoch after the decision.
        operation: name of the RedundancyOperation, or what was done when there was none (`Failover`).
        reason: machine-readable reasons, joined by `; `.
        record: id of the site's record; a commit that has it is not made twice.
    """

    group: str
    epoch: int
    operation: str
    reason: str
    record: str = ""


def _one_line(text: str) -> str:
    return " ".join(text.split())


def build_message(subject: str, body: str, trailers: DecisionTrailers) -> str:
    """A commit message; values are put on one line each, so that none can forge another trailer."""
    lines = [_one_line(subject), ""]
    safe = [_TRAILER.sub(r" \1: \2", line) for line in body.strip().splitlines()]
    if safe:
        lines += [*safe, ""]
    lines += [
        f"Graf-Group: {_one_line(trailers.group)}",
        f"Graf-Epoch: {trailers.epoch}",
        f"Graf-Operation: {_one_line(trailers.operation)}",
        f"Graf-Reason: {_one_line(trailers.reason)}",
    ]
    if trailers.record:
        lines.append(f"Graf-Record: {_one_line(trailers.record)}")
    return "\n".join(lines) + "\n"


def parse_message(message: str) -> DecisionTrailers | None:
    """The trailers of the last paragraph, or None when the commit is not the record of a decision."""
    paragraphs = re.split(r"\n\s*\n", message.strip())
    found: dict[str, str] = {}
    for line in paragraphs[-1].splitlines():
        if match := _TRAILER.match(line):
            found[match[1]] = match[2].strip()
    if not found.get("Graf-Epoch", "").isdigit() or "Graf-Group" not in found:
        return None
    return DecisionTrailers(
        group=found["Graf-Group"],
        epoch=int(found["Graf-Epoch"]),
        operation=found.get("Graf-Operation", ""),
        reason=found.get("Graf-Reason", ""),
        record=found.get("Graf-Record", ""),
    )

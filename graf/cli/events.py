"""`graf events GROUP`: the record of decisions, refusals and events, newest last."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from graf.crd.group import HistoryEntry, RedundancyGroup

# Below this width the reasons would be a column of syllables; they get lines of their own.
ONE_LINE_WIDTH = 130


def render(group: RedundancyGroup, limit: int, width: int) -> RenderableType:
    """The newest `limit` records: one row each, or on a narrow terminal the reasons below each."""
    entries = records(group)[-limit:]
    if width >= ONE_LINE_WIDTH:
        return _table(entries)
    parts: list[RenderableType] = []
    for entry in entries:
        at, by, kind, where, epoch, commit = _facts(entry)
        parts += [
            f"{at}  {by}  {kind}  {where}  epoch {epoch}  {commit}",
            Padding(escape(_reasons(entry)), (0, 0, 0, 4)),
        ]
    return Group(*parts)


def _table(entries: list[HistoryEntry]) -> Table:
    result = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("TIME", "BY", "TYPE", "MOVE"):
        result.add_column(column, no_wrap=True)
    result.add_column("EPOCH", justify="right", no_wrap=True)
    result.add_column("REASONS AND MESSAGE", overflow="fold", ratio=1)
    result.add_column("COMMIT", no_wrap=True)
    for entry in entries:
        *facts, commit = _facts(entry)
        result.add_row(*facts, escape(_reasons(entry)), commit)
    return result


def _facts(entry: HistoryEntry) -> tuple[str, str, str, str, str, str]:
    colour = {"Decision": "bold", "Refusal": "yellow"}.get(entry.kind, "dim")
    return (
        escape(entry.at or "-"),
        escape(entry.site or "-"),
        f"[{colour}]{escape(entry.type)}[/{colour}]",
        move(entry),
        str(entry.epoch),
        escape(entry.git_commit[:10] or ("queued" if entry.kind == "Decision" else "-")),  # only decisions are commits
    )


def _reasons(entry: HistoryEntry) -> str:
    return "; ".join([*entry.reasons, entry.message] if entry.message else entry.reasons)


def records(group: RedundancyGroup) -> list[HistoryEntry]:
    """What the group's status remembers, oldest first."""
    return list(group.status.history) if group.status else []


def move(entry: HistoryEntry) -> str:
    """`east -> west`, or the one site that it is about."""
    if entry.from_site and entry.to_site and entry.from_site != entry.to_site:
        return escape(f"{entry.from_site} -> {entry.to_site}")
    return escape(entry.to_site or entry.from_site or "-")

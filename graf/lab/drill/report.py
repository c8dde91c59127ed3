"""The reports of a drill: `report.json`, `report.md`, and `report.html` that needs nothing beside itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graf.lab.drill import svg
from graf.lab.drill.model import Raw, Result, Run, drill_json

PHASES = ("detect", "campaign", "activate", "traffic")
_COLOURS = {Result.PASS: "green", Result.FAIL: "red", Result.INVALID: "yellow"}


def write(
    out: Path, scenario: str, summary: str, profile: str, runs: list[tuple[Run, Raw]], now: datetime | None = None
) -> dict[str, Any]:
    """Writes all three and returns what `report.json` holds."""
    out.mkdir(parents=True, exist_ok=True)
    drill = drill_json(scenario, profile, [run for run, _ in runs])
    (out / "report.json").write_text(json.dumps(drill, indent=2, ensure_ascii=False) + "\n")
    context = {
        "drill": drill,
        "summary": summary,
        "written": f"{now or datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
        "key": list(svg.COLOURS.values()),
        "runs": [
            {
                "json": data,
                "timeline": svg.timeline(run, raw, svg.whole(run, raw)),
                "zoom": svg.timeline(run, raw, svg.around_fault(run, raw)),
            }
            for (run, raw), data in zip(runs, drill["runs"], strict=True)
        ],
    }
    environment = Environment(
        loader=PackageLoader("graf.lab.drill"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
    )
    for name in ("report.html", "report.md"):
        (out / name).write_text(environment.get_template(f"{name}.j2").render(context).strip() + "\n")
    return drill


def phases_table(run: Run) -> Table:
    """The operations of a run with their phases, for the terminal."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("operation", no_wrap=True)
    table.add_column("epoch", no_wrap=True)
    for column in ("client gap", "lost", *PHASES):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("commit", no_wrap=True)
    for op in run.operations:
        table.add_row(
            f"{op.type} {op.from_site} -> {op.to_site}",
            f"{op.epoch_from} -> {op.epoch_to}",
            "-" if op.rto_ms is None else f"{op.rto_ms:.0f} ms",
            str(op.rpo_writes),
            *(f"{op.phases_ms[name]:.0f} ms" if name in op.phases_ms else "-" for name in PHASES),
            op.git_commit[:10] or "none",
        )
    if not run.operations:
        table.add_row("none: nothing moved")
    return table


def show(console: Console, run: Run) -> None:
    """The result of one run: phases, figures, verdict, and why not if not."""
    console.print(phases_table(run))
    client, safety = run.client, run.safety
    console.print(
        f"  {client.acked} writes acknowledged, {client.lost} lost, longest gap {client.gap_ms_max:.0f} ms; "
        f"dual-writable {safety.dual_writable_samples}, dual-served {safety.dual_served_samples}, "
        f"stale epochs accepted {safety.stale_epoch_accepted}"
    )
    for window in run.windows:
        limit = "" if window.limit_ms is None else f", limit {window.limit_ms:.0f} ms"
        console.print(f"  {escape(window.name)}: longest gap {window.gap_ms:.0f} ms{limit}")
    console.print(f"  [bold {_COLOURS[run.result]}]{run.result}[/]")
    for reason in run.reasons:
        console.print(f"    {escape(reason)}")

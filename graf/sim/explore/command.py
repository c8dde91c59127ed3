"""`graf sim explore`: runs the check and prints it. The only module here that knows a clock or a terminal."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from graf.sim.explore import report as reporting

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.sim.explore.report import Report, VariantReport

FILE_WIDTH = 160


class Bounds(StrEnum):
    """How far the search goes."""

    QUICK = "quick"
    NORMAL = "normal"
    DEEP = "deep"


def explore(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Small bounds: seconds.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Large bounds: an hour or more, and many gigabytes.")] = False,
    only: Annotated[str, typer.Option("--only", help="Only the broken variant of this name, with its steps.")] = "",
) -> None:
    """Go through every interleaving of small groups with the real core, then show that broken cores are caught.

    Exit status 1 when an invariant does not hold, a search is incomplete or a broken variant is not caught.
    """
    if quick and deep:
        raise typer.BadParameter("--quick and --deep exclude each other")
    names = [variant.name for variant in reporting.variants()]
    if only and only not in names:
        raise typer.BadParameter(f"no variant is called {only}; there are {', '.join(names)}", param_hint="--only")
    bounds = Bounds.QUICK if quick else Bounds.DEEP if deep else Bounds.NORMAL
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=FILE_WIDTH)
    reports, broken = _run(console, bounds, only)
    if as_json:
        typer.echo(json.dumps(reporting.summary(reports, broken), indent=2))
    else:
        _print(console, reports, broken, steps=bool(only))
    if not all(r.passed for r in reports) or not all(v.caught for v in broken):
        raise typer.Exit(1)


def _run(console: Console, bounds: Bounds, only: str) -> tuple[list[Report], list[VariantReport]]:
    reports: list[Report] = []
    broken: list[VariantReport] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("")

        def told(name: str) -> Callable[[int, int, int], None]:
            def on_progress(states: int, transitions: int, depth: int) -> None:
                text = f"{name}: {states:,} states, {transitions:,} transitions, depth {depth}"
                progress.update(task, description=text)

            return on_progress

        for configuration in () if only else reporting.configurations(bounds):
            progress.update(task, description=configuration.name)
            begun = time.monotonic()
            report = reporting.run(configuration, told(configuration.name))
            reports.append(replace(report, seconds=time.monotonic() - begun))
        for variant in reporting.variants():
            if only in ("", variant.name):
                progress.update(task, description=f"broken: {variant.name}")
                broken.append(reporting.run_variant(variant, told(f"broken: {variant.name}")))
    return reports, broken


def _print(console: Console, reports: list[Report], broken: list[VariantReport], *, steps: bool) -> None:
    if reports:
        table = Table("configuration", "bounds", "states", "transitions", "depth", "seconds", "verdict")
        for report in reports:
            result = report.result
            verdict = "complete, no violation" if report.passed else "incomplete"
            table.add_row(
                result.configuration,
                ", ".join(f"{count} {what}" for what, count in report.configuration.bounds.items() if count),
                f"{result.states:,}",
                f"{result.transitions:,}",
                str(result.depth),
                f"{report.seconds:.1f}",
                verdict if result.violation is None else result.violation.invariant,
            )
        console.print(table)
    for report in reports:
        if report.result.violation is not None:
            _tell(console, report.result.configuration, report.result.violation.steps)
    table = Table("broken variant", "states", "steps", "caught by")
    for variant in broken:
        violation = variant.result.violation
        count = str(len(violation.steps) - 1) if violation is not None else "-"
        caught = violation.invariant if violation is not None else "NOT CAUGHT"
        table.add_row(variant.variant.name, f"{variant.result.states:,}", count, caught)
    console.print(table)
    for variant in broken:
        violation = variant.result.violation
        if violation is not None and (steps or not variant.caught):
            _tell(console, f"{variant.variant.name}: {variant.variant.what}", violation.steps)


def _tell(console: Console, title: str, steps: tuple[str, ...]) -> None:
    console.print(f"\n[bold]{title}[/bold]")
    for step in steps:
        console.print(step, markup=False, highlight=False)

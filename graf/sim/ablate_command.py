"""`graf sim ablate`: plant every bug and see that the monitors notice."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from graf.sim.ablate import SEEDS, Result, ablate, summary, windows
from graf.sim.bugs import BUGS, BY_NAME, UNSEEN

EXIT_MISSED = 1
EXIT_USAGE = 2
FILE_WIDTH = 200


def ablate_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON; progress goes to stderr.")
    ] = False,
    bug: Annotated[list[str] | None, typer.Option("--bug", help="Only this bug; may be given several times.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds are played for a bug at most.")] = SEEDS,
    workers: Annotated[int, typer.Option("--workers", min=1, help="How many bugs are tried at once.")] = os.cpu_count()
    or 1,
    write_windows: Annotated[
        Path | None, typer.Option("--windows", help="Write the table of seeds that the tests play.", dir_okay=False)
    ] = None,
) -> None:
    """Take one safeguard after the other out of the code, and see whether the simulator notices.

    A sweep that is green proves something only when it can be red: each planted bug has to be caught.
    """
    errors, names = Console(stderr=True), bug or []
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        errors.print(
            f"[red]no such bug: {', '.join(unknown)}[/red]\nThe bugs are: {', '.join(BY_NAME)}", highlight=False
        )
        raise typer.Exit(EXIT_USAGE)
    total = len(names) or len(BUGS)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("planting bugs", total=total)

        def done(result: Result) -> None:
            what = result.invariant if result.caught else "[red]missed[/red]"
            progress.update(task, advance=1, description=f"{result.bug}: {what}")

        results = _ablate(names, seeds, done, min(workers, total))
    if write_windows is not None:
        write_windows.write_text(json.dumps(windows(results), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    told = summary(results)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    else:
        _print(results, told)
    raise typer.Exit(EXIT_MISSED if told["missed"] else 0)


def _ablate(names: list[str], seeds: int, done: Callable[[Result], None], workers: int) -> list[Result]:
    if workers == 1:
        return ablate(names, seeds, done)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:

        def each(plant: Callable[[str], Result], bugs: list[str]) -> Iterable[Result]:
            return pool.imap(plant, bugs)

        return ablate(names, seeds, done, each)


def _print(results: list[Result], told: dict[str, object]) -> None:
    console = Console()
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(width=FILE_WIDTH)
    table = Table(box=None, header_style="dim")
    table.add_column("BUG", no_wrap=True)
    table.add_column("WHAT IS TAKEN OUT")
    table.add_column("CAUGHT BY", no_wrap=True)
    table.add_column("SEEDS", justify="right", no_wrap=True)
    table.add_column("WHAT WAS SEEN", max_width=70)
    for result in results:
        caught = f"[green]{result.invariant}[/green]" if result.caught else "[red]missed[/red]"
        seen = result.violation.partition(": ")[2] if result.caught else result.violation
        table.add_row(result.bug, result.summary, caught, str(result.seeds), seen.partition(": ")[0])
    console.print(table)
    console.print(
        f"\n{told['caught']} of {told['bugs']} bugs caught; seeds until then: median {told['median_seeds']}, "
        f"at most {told['max_seeds']}"
    )
    if len(results) == len(BUGS):
        console.print("\nNot counted: no run has shown these yet, and what seems to be why (`--bug NAME` plants one):")
        rest = Table(box=None, show_header=False)
        for left in UNSEEN:
            rest.add_row(left.name, left.unseen)
        console.print(rest)

"""`graf sim regress`: the known disasters in the simulator, from the files that the lab runs too."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graf.scenario.model import ScenarioFile
from graf.shell.scenarios import builtin_scenarios
from graf.sim.scripted import Played, play_file

# Nobody's window: in a file or a pipe tables keep their columns.
FILE_WIDTH = 160
EXIT_NOT_PASSED = 1


class ProfileName(StrEnum):
    """Detection profiles; `default` is the one that each file names."""

    DEFAULT = "default"
    METRO = "metro"
    REGIONAL = "regional"
    WAN = "wan"


class UnknownScenarioError(Exception):
    """A name that no scenario of the simulator has; carries what to do."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no scenario {name!r} for the simulator")
        self.what = str(self)
        self.remedy = f"Give none for all of them, or some of {', '.join(known)}."


def regress(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Scenarios; without one, all.")] = None,
    profile: Annotated[
        ProfileName, typer.Option("--profile", help="Detection profile instead of the file's own.")
    ] = ProfileName.DEFAULT,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws delays, clock rates and writes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
    story: Annotated[bool, typer.Option("--story", help="Print what happened, line by line.")] = False,
) -> None:
    """Play the known disasters in the simulator. Exit status 0 only when each is as its file expects."""
    wanted = "" if profile is ProfileName.DEFAULT else str(profile)
    results = [play_file(file, wanted, seed, tell=story) for file in chosen(names or [])]
    if as_json:
        typer.echo(json.dumps([as_values(played) for played in results], indent=2))
    else:
        show(results)
    if not all(played.passed for played in results):
        raise typer.Exit(EXIT_NOT_PASSED)


def chosen(names: list[str]) -> list[ScenarioFile]:
    """The files of these names, or all that the simulator can run.

    Raises:
        UnknownScenarioError: A name is not among them.
    """
    known = {name: file for name, file in builtin_scenarios().items() if "sim" in file.worlds}
    for name in names:
        if name not in known:
            raise UnknownScenarioError(name, list(known))
    return [known[name] for name in names or known]


def as_values(played: Played) -> dict[str, object]:
    """A result for JSON."""
    seen = played.evidence
    values: dict[str, object] = {
        "name": played.name,
        "profile": played.profile,
        "passed": played.passed,
        "moves": [{"type": move.type, "from": move.origin, "to": move.target} for move in seen.moves],
        "acknowledged": played.acknowledged,
        "lost": len(seen.lost),
        "dualActive": seen.dual_active,
        "dualServed": seen.dual_served,
        "outageMs": round(seen.outage_ms),
        "simulatedMs": played.simulated_ms,
        "reasons": list(seen.reasons),
        "checks": [{"what": c.what, "passed": c.passed, "detail": c.detail} for c in played.checks],
    }
    if played.story:
        values["story"] = list(played.story)
    return values


def show(results: list[Played]) -> None:
    """One row per scenario, before it the story if there is one, below what is not as expected."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=FILE_WIDTH)
    for played in results:
        if played.story:
            console.print(f"[bold]{played.name}[/bold] ({played.profile})")
            for line in played.story:
                console.print(escape(line), highlight=False, soft_wrap=True)
            console.print()
    console.print(table(results))
    for played in results:
        for problem in played.problems:
            console.print(f"[red]{played.name}[/red]: {escape(problem)}", highlight=False)


def table(results: list[Played]) -> Table:
    """The results as a table."""
    result = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("SCENARIO", "PROFILE", "RESULT"):
        result.add_column(column, no_wrap=True)
    result.add_column("MOVES", no_wrap=True)
    for column in ("LOST", "DUAL", "OUTAGE"):
        result.add_column(column, no_wrap=True, justify="right")
    result.add_column("REASON", no_wrap=True)
    for played in results:
        seen = played.evidence
        result.add_row(
            played.name,
            played.profile,
            "[green]pass[/green]" if played.passed else "[bold red]FAIL[/bold red]",
            "\n".join(map(str, seen.moves)) or "none",
            str(len(seen.lost)),
            str(seen.dual_active),
            f"{seen.outage_ms:.0f} ms",
            "\n".join(played.held_because) or "-",
        )
    return result

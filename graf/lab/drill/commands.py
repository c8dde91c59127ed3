"""`graf drill`: list the scenarios and run one."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from graf.lab.drill.errors import DrillError
from graf.lab.drill.lab_port import DrillLab
from graf.lab.drill.model import Raw, Result, Run, verdict_of

if TYPE_CHECKING:
    from graf.lab.drill.scenarios import Scenario

app = typer.Typer(
    help="Break the lab on purpose, under load, and measure what users see.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

EXIT_NOT_PASSED = 1
INTERRUPTED = 130
LOG_WIDTH = 150


class ProfileName(StrEnum):
    """Detection profiles; `default` is the one that the scenario's file names, or that the group's policy has."""

    METRO = "metro"
    REGIONAL = "regional"
    WAN = "wan"
    DEFAULT = "default"


@app.command("list")
def list_scenarios() -> None:
    """The scenarios, with what each does."""
    from graf.lab.drill.regressions import regressions
    from graf.lab.drill.scenarios import SCENARIOS

    console = Console()
    console.print("[bold]drills[/bold]")
    console.print(_table(SCENARIOS.values()))
    console.print("\n[bold]regressions[/bold]: known disasters, each from a file that the simulator runs too")
    console.print(_table(regressions().values()))


def _table(scenarios: Iterable[Scenario]) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("SCENARIO", no_wrap=True)
    table.add_column("WHAT HAPPENS")
    table.add_column("MUST MOVE", no_wrap=True)
    for scenario in scenarios:
        table.add_row(scenario.name, scenario.summary, scenario.must_move)
    return table


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="Scenario; `graf drill list` shows them.")],
    profile: Annotated[
        ProfileName, typer.Option("--profile", help="Detection profile, set through Git.")
    ] = ProfileName.DEFAULT,
    repeat: Annotated[int, typer.Option("--repeat", min=1, max=100, help="How many runs.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json; progress goes to stderr.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the reports.")] = None,
    lab: Annotated[str, typer.Option("--lab", help="Name of the lab.")] = "lab",
    group: Annotated[str, typer.Option("--group", help="Group to protect and break.")] = "vcu-db",
) -> None:
    """Run one scenario under load and judge it. Exit status 0 only when every run passed."""
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=LOG_WIDTH)  # nobody's window: tables keep their columns in a log
    wanted = None if profile is ProfileName.DEFAULT else str(profile)
    folder = out or Path("out") / "drills" / f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{name}"
    runs, interrupted = run_drill(console, name, wanted, repeat, folder, lab, group)
    if not runs:
        raise typer.Exit(INTERRUPTED if interrupted else EXIT_NOT_PASSED)
    report = folder / "report.json"
    if as_json:
        typer.echo(json.dumps(json.loads(report.read_text()), indent=2, ensure_ascii=False))
    verdict = verdict_of([result for result, _ in runs])
    console.print(f"\n{name}: [bold]{verdict}[/bold] in {len(runs)} of {repeat} runs. Report: {folder / 'report.html'}")
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if verdict is not Result.PASS:
        raise typer.Exit(EXIT_NOT_PASSED)


def find_scenario(name: str) -> Scenario:
    """A drill or a regression by its name.

    Raises:
        DrillError: There is none; names all that there are.
    """
    from graf.lab.drill.regressions import regressions
    from graf.lab.drill.scenarios import SCENARIOS

    known = {**SCENARIOS, **regressions()}
    if name not in known:
        raise DrillError(f"there is no scenario {name!r}", remedy=f"one of {', '.join(known)}")
    return known[name]


def _check_folder(folder: Path) -> None:
    """A folder that cannot be written is better known before a site is killed than after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError as problem:
        raise DrillError(f"the reports cannot be written to {folder}", str(problem), "name another --out") from problem
    if not writable:
        raise DrillError(f"the reports cannot be written to {folder}", "it is not writable", "name another --out")


def _interrupt(_signal: int, _frame: object) -> None:
    """A drill that is asked to end takes its faults back first, as on Ctrl-C."""
    raise KeyboardInterrupt


def _only_drill_of(lab: DrillLab) -> int:
    """A lock that ends with this process: two drills at once would judge each other's faults."""
    lock = os.open(lab.lock_file(), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DrillError(
            f"another drill runs in the lab {lab.name!r}",
            "two at once would judge each other's faults",
            "wait for it to end, or bring another lab up: graf lab up --name NAME",
        ) from None
    return lock


def run_drill(
    console: Console, name: str, profile: str | None, repeat: int, folder: Path, lab_name: str, group: str
) -> tuple[list[tuple[Run, Raw]], bool]:
    """Runs a scenario `repeat` times, writing the reports after each; tells whether it was interrupted."""
    from graf.lab.drill import report
    from graf.lab.drill.adapter import RealLab
    from graf.lab.drill.engine import Drill
    from graf.lab.drill.policy import policy_in_force
    from graf.lab.drill.profile import ensure_profile
    from graf.lab.drill.progress import Progress
    from graf.lab.drill.ready import wait_ready
    from graf.lab.lab import Lab
    from graf.shell.group_api import KubeGroupApi

    scenario = find_scenario(name)
    lab = RealLab(Lab.load(lab_name))
    if not lab.kubeconfig("mgmt").is_file():
        raise DrillError(
            f"the lab {lab_name!r} is not up",
            "its management cluster has no kubeconfig yet",
            f"graf lab up --name {lab_name}",
        )
    _check_folder(folder)
    api = KubeGroupApi(lab.kubeconfig("mgmt"), "the management cluster")
    runs: list[tuple[Run, Raw]] = []
    signal.signal(signal.SIGTERM, _interrupt)
    lock = _only_drill_of(lab)
    try:
        progress = Progress(console)
        found = wait_ready(api, group, progress)  # right after `lab up` it may not have had its first activation
        sites = {site: KubeGroupApi(lab.kubeconfig(site), f"the cluster {site}") for site in found.spec.site_names}
        used = ensure_profile(lab, api, dict(sites), found, profile or scenario.profile, progress)
        with policy_in_force(lab, api, dict(sites), found, scenario.policy, progress):
            for number in range(1, repeat + 1):
                console.print(f"\n[bold]{name}[/bold] run {number} of {repeat}, profile {used}")
                progress = Progress(console)
                runs.append(Drill(lab, api, scenario, group, used, progress).run(folder / f"run-{number}"))
                report.write(folder, name, scenario.summary, used, runs)
                report.show(console, runs[-1][0])
    except KeyboardInterrupt:
        console.print("interrupted: the faults of this run have been taken back; the lab goes on")
        return runs, True
    finally:
        os.close(lock)
    return runs, False

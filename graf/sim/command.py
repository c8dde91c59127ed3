"""`graf sim`: play seeds, tell a run's story, shorten a failing one; the other commands have modules of their own."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from graf.sim.ablate_command import ablate_command
from graf.sim.campaign import HOUR_NS, Campaign, chunks, play_chunk
from graf.sim.explore.command import explore
from graf.sim.regress_command import regress
from graf.sim.run import play, play_seed, shrink
from graf.sim.settings import copied, drawn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graf.sim.campaign import Chunk
    from graf.sim.run import Outcome
    from graf.sim.settings import Settings

app = typer.Typer(
    help="Play a group through bad days, with the code of the controllers; see what the invariants say.",
    no_args_is_help=True,
)

Copies = Annotated[bool, typer.Option("--copies", help="Groups whose data is only copied (`rpo: async`).")]
Json = Annotated[bool, typer.Option("--json", help="Print data instead of words.")]


def _played(first: int, seeds: int, workers: int, copies: bool) -> Iterator[Chunk]:
    parts = list(chunks(first, seeds))
    play_part = partial(play_chunk, copies=copies)
    if workers == 1 or len(parts) == 1:
        yield from map(play_part, parts)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(play_part, parts)


@app.command("run")
def run(
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many seeds, each another world and other faults.")],
    first: Annotated[int, typer.Option("--first", min=0, help="The first seed.")] = 0,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes; 0: one for each core.")] = 0,
    copies: Copies = False,
    as_json: Json = False,
) -> None:
    """Play seeds and check every invariant. Fails on a violation, and on anything that was never reached."""
    workers = workers or multiprocessing.cpu_count()
    console = Console(stderr=as_json)
    campaign = Campaign(copies=copies)
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("seeds", total=seeds)
        for part in _played(first, seeds, workers, copies):
            campaign.add(part)
            progress.update(task, advance=part.seeds, description=f"seeds ({len(campaign.violations)} violations)")
    seconds = time.monotonic() - began
    summary = campaign.summary()
    summary["first"] = first
    summary["seconds"] = round(seconds, 1)
    summary["times_real_time_per_core"] = round(campaign.simulated_ns / 1e9 / seconds / workers)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        _print_summary(console, campaign, seconds, workers)
    if campaign.violations or campaign.unreached:
        raise typer.Exit(1)


def _print_summary(console: Console, campaign: Campaign, seconds: float, workers: int) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    speed = campaign.simulated_ns / 1e9 / seconds / workers
    groups = {"fault ": "faults", "rule ": "decisions by rules", "plan ": "plans by rules"}
    for name, text in (
        ("seeds", f"{campaign.seeds:,} in {seconds:.0f} s on {workers} core(s)"),
        ("simulated", f"{campaign.simulated_ns / HOUR_NS:,.1f} h, {speed:,.0f} times real time per core"),
        ("events", f"{campaign.events:,}"),
        *(
            (title, f"{sum(n for key, n in campaign.counts.items() if key.startswith(prefix)):,}")
            for prefix, title in groups.items()
        ),
        ("wins", f"{campaign.counts.get('win', 0) + campaign.counts.get('win joint', 0):,}"),
        ("violations", f"[bold red]{len(campaign.violations)}[/]" if campaign.violations else "[bold green]0[/]"),
        ("unreached", f"[red]{', '.join(campaign.unreached)}[/]" if campaign.unreached else "nothing"),
        ("trace hash", campaign.digest.hexdigest()[:32]),
    ):
        table.add_row(f"[bold]{name}[/]", text)
    console.print(table)
    for seed, _invariant, seen in campaign.violations[:10]:
        console.print(f"[red]seed {seed}[/] {seen}", soft_wrap=True)
    if campaign.violations:
        seed = campaign.violations[0][0]
        console.print(f"look at it: graf sim replay {seed}; make it short: graf sim shrink {seed}")
    if campaign.unreached:
        console.print("a campaign that left something unreached proves nothing about it: play more seeds")


Seed = Annotated[int, typer.Argument(min=0, help="The seed of the run.")]


@app.command("replay")
def replay(
    seed: Seed,
    skip: Annotated[str, typer.Option("--skip", help="Numbers of faults to leave out, as `shrink` gives them.")] = "",
    active_ms: Annotated[int, typer.Option("--active-ms", min=0, help="Shorten the time in which faults begin.")] = 0,
    copies: Copies = False,
    as_json: Json = False,
) -> None:
    """Tell the story of one run: faults, decisions with reasons, promises, wins, records."""
    outcome = play(_settings(seed, skip, active_ms, copies), tell=True)
    if as_json:
        typer.echo(json.dumps(_as_data(outcome), indent=2))
    else:
        _tell(Console(), outcome)
    if outcome.invariant:
        raise typer.Exit(1)


@app.command("shrink")
def shrink_command(seed: Seed, copies: Copies = False, as_json: Json = False) -> None:
    """Find the few faults that a violation needs, and tell that short story."""
    console = Console(stderr=as_json)
    outcome = play_seed(seed, copies=copies)
    if not outcome.invariant:
        console.print(f"seed {seed} violates nothing: there is nothing to make short")
        raise typer.Exit(2)
    with console.status(f"{outcome.invariant}, {len(outcome.faults)} faults") as status:

        def told(candidate: Settings, failed: bool) -> None:
            if failed:
                status.update(f"{outcome.invariant}, {len(candidate.skip)} faults left out")

        shorter = shrink(_settings(seed, "", 0, copies), outcome.invariant, told)
    found = play(shorter, tell=True)
    arguments = f"--skip {','.join(map(str, sorted(shorter.skip)))}" if shorter.skip else ""
    if shorter.active_ns != drawn(seed).active_ns:
        arguments += f" --active-ms {shorter.active_ns // 1_000_000}"
    arguments += " --copies" if copies else ""
    command = f"graf sim replay {seed} {arguments}".rstrip()
    if as_json:
        typer.echo(json.dumps({**_as_data(found), "replay": command}, indent=2))
    else:
        _tell(console, found)
        console.print(f"{len(outcome.faults)} faults became {len(found.faults)}. Again: {command}", soft_wrap=True)
    raise typer.Exit(1)


def _settings(seed: int, skip: str, active_ms: int, copies: bool) -> Settings:
    try:
        numbers = frozenset(int(number) for number in skip.split(",") if number.strip())
    except ValueError as error:
        raise typer.BadParameter(f"--skip takes numbers with commas between them, got {skip!r}") from error
    settings = replace(copied(drawn(seed)) if copies else drawn(seed), skip=numbers)
    return replace(settings, active_ns=active_ms * 1_000_000) if active_ms else settings


def _as_data(outcome: Outcome) -> dict[str, object]:
    return {
        "seed": outcome.seed,
        "invariant": outcome.invariant,
        "violation": outcome.violation,
        "trace_hash": f"{outcome.trace:016x}",
        "simulated_seconds": round(outcome.simulated_ns / 1e9, 3),
        "events": outcome.events,
        "faults": [{"number": n, "at_ms": at // 1_000_000, "fault": f, "target": t} for n, at, f, t in outcome.faults],
        "story": list(outcome.story),
    }


def _tell(console: Console, outcome: Outcome) -> None:
    settings = drawn(outcome.seed)
    timing = settings.timing
    console.print(
        f"[bold]seed {outcome.seed}[/]: {len(settings.sites)} sites, {len(settings.witnesses)} witnesses, "
        f"{settings.managers} managers; heartbeat {timing.heartbeat_ns // 1_000_000} ms, "
        f"ttl {timing.ttl_ns // 1_000_000} ms, drift {timing.drift_ppm} ppm; "
        f"{'automatic' if settings.automatic else 'manual'}, failback {settings.failback}",
        soft_wrap=True,
    )
    styles = {"FAULT": "yellow", "HEAL": "cyan", "VIOLATION": "bold red"}
    for line in outcome.story:
        who = line[14:25].strip()
        style = styles.get(who, "bold green" if " WINS " in line else "")
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
    end = f"[bold red]{outcome.violation}[/]" if outcome.invariant else "[bold green]every invariant holds[/]"
    seconds = outcome.simulated_ns / 1e9
    console.print(
        f"{end}; {seconds:.1f} s simulated, {outcome.events} events, trace {outcome.trace:016x}", soft_wrap=True
    )


app.command("regress")(regress)
app.command("ablate")(ablate_command)
app.command("explore")(explore)

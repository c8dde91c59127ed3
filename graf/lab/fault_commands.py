"""`graf lab fault ...`: faults by hand, the same that drills use."""

from __future__ import annotations

import signal
from typing import Annotated

import typer
from rich.console import Console

from graf.lab.errors import LabError
from graf.lab.faults import Direction
from graf.lab.lab import Lab
from graf.lab.topology import DEFAULT_LAB

app = typer.Typer(help="Break something, and take it back.", no_args_is_help=True)
_out = Console(soft_wrap=True)

Name = Annotated[str, typer.Option("--name", help="Name of the lab.")]
Where = Annotated[str, typer.Argument(help="mgmt, east, west or users.")]
UpDown = Annotated[str, typer.Argument(help="down or up.")]


def _do(name: str, work: object, text: str) -> None:
    """Run a fault on a lab and say what was done; errors without a traceback."""
    from graf.lab.commands import errors_told

    assert callable(work)
    with errors_told():
        result = work(Lab.load(name))
        _out.print(text.format(result=result), highlight=False, markup=False)


@app.command()
def kill(
    location: Where,
    name: Name = DEFAULT_LAB,
    silent: Annotated[bool, typer.Option(help="Cut the link first, as a power cut does.")] = False,
) -> None:
    """Kill -9 of everything at a location at one instant."""
    _do(
        name,
        lambda lab: lab.kill_site(location, silent=silent),
        f"{location}: killed {{result}} processes; back with: graf lab fault start {location}",
    )


@app.command()
def start(location: Where, name: Name = DEFAULT_LAB) -> None:
    """Boot a killed location on its old disks."""

    def work(lab: Lab) -> None:
        lab.heal(location)
        lab.start_site(location, wait=True)

    _do(name, work, f"{location}: runs")


@app.command()
def freeze(location: Where, name: Name = DEFAULT_LAB) -> None:
    """SIGSTOP all processes of a location at one instant."""
    _do(
        name,
        lambda lab: lab.freeze_site(location),
        f"{location}: stopped {{result}} processes; on with: graf lab fault thaw {location}",
    )


@app.command()
def thaw(location: Where, name: Name = DEFAULT_LAB) -> None:
    """SIGCONT all processes of a location at one instant."""
    _do(name, lambda lab: lab.thaw_site(location), f"{location}: {{result}} processes go on")


@app.command()
def partition(
    location: Where,
    name: Name = DEFAULT_LAB,
    direction: Annotated[Direction, typer.Option(help="Which frames, seen from the location.")] = Direction.BOTH,
    peer: Annotated[list[str] | None, typer.Option(help="Only towards this location; may be repeated.")] = None,
) -> None:
    """Cut a location off the wide-area network."""
    _do(
        name,
        lambda lab: lab.partition(location, direction, peers=tuple(peer or ())),
        f"{location}: cut off ({direction}); back with: graf lab fault heal {location}",
    )


@app.command()
def loss(
    location: Where,
    percent: Annotated[int, typer.Argument(help="1 to 100.")],
    name: Name = DEFAULT_LAB,
) -> None:
    """Drop a part of a location's frames at random."""
    _do(
        name,
        lambda lab: lab.loss(location, percent),
        f"{location}: loses {percent} % of its frames; back with: graf lab fault heal {location}",
    )


@app.command()
def heal(
    location: Annotated[str | None, typer.Argument(help="A location; default: all.")] = None,
    name: Name = DEFAULT_LAB,
) -> None:
    """Take partitions and losses back."""
    _do(name, lambda lab: lab.heal(location), f"{location or 'all'}: network healed")


@app.command()
def starve(
    location: Where,
    share: Annotated[float, typer.Option(help="Part of one core for the whole location.")] = 0.05,
    name: Name = DEFAULT_LAB,
) -> None:
    """Leave a location only a small part of one core."""
    _do(
        name,
        lambda lab: lab.starve(location, share),
        f"{location}: has {share} of a core; back with: graf lab fault feed {location}",
    )


@app.command()
def feed(location: Where, name: Name = DEFAULT_LAB) -> None:
    """Take `starve` back."""
    _do(name, lambda lab: lab.unstarve(location), f"{location}: has its share again")


@app.command()
def process(
    location: Where,
    pattern: Annotated[str, typer.Argument(help="Regular expression on the command line.")],
    name: Name = DEFAULT_LAB,
    number: Annotated[str, typer.Option("--signal", help="KILL, TERM, STOP, CONT, ...")] = "KILL",
) -> None:
    """Signal matching processes of a location."""
    try:
        wanted = signal.Signals["SIG" + number.upper().removeprefix("SIG")]
    except KeyError as problem:
        raise typer.BadParameter(f"there is no signal {number!r}") from problem
    _do(
        name,
        lambda lab: lab.kill_process(location, pattern, wanted),
        f"{location}: sent SIG{number} to {{result}}",
    )


@app.command()
def apiserver(location: Where, state: UpDown, name: Name = DEFAULT_LAB) -> None:
    """Take a location's API server down, or up again."""
    _do(
        name,
        lambda lab: _up_or_down(state, lambda: lab.apiserver_up(location), lambda: lab.apiserver_down(location)),
        f"{location}: API server {state}",
    )


@app.command()
def git(state: UpDown, name: Name = DEFAULT_LAB) -> None:
    """Take the Git server down, or up again."""
    _do(name, lambda lab: _up_or_down(state, lab.git_up, lab.git_down), f"Git server {state}")


def _up_or_down(state: str, up: object, down: object) -> None:
    assert callable(up)
    assert callable(down)
    if state not in ("up", "down"):
        raise LabError(f"{state!r} is no state", remedy="use down or up")
    (up if state == "up" else down)()

"""Entry of the command line: commands, sub-commands by entry point, and the one error boundary."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from graf.cli import connect as connecting
from graf.cli import drivers as drivers_view
from graf.cli import events as events_view
from graf.cli import status as status_view
from graf.cli import switchover as switchover_command
from graf.cli.console import make_console
from graf.cli.errors import CliError, explain

COMMANDS = "graf.commands"

Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig", help="Management cluster; else that of --lab, else KUBECONFIG, else the default lab's."
    ),
]
Lab = Annotated[str | None, typer.Option("--lab", help="Name of a lab whose management cluster is meant.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graf {version('graf-framework')}")
        raise typer.Exit


def build_app() -> typer.Typer:
    """The whole command line, with what the installed distributions add to it."""
    app = typer.Typer(
        name="graf",
        help="GRAF keeps a network function in service when a whole Kubernetes cluster is lost.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )

    @app.callback()
    def root(
        _show: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        """GRAF keeps a network function in service when a whole Kubernetes cluster is lost."""

    app.command("status")(status)
    app.command("switchover")(switchover)
    app.command("events")(events)
    app.command("drivers")(drivers)
    for point in sorted(entry_points(group=COMMANDS), key=lambda p: p.name):
        _mount(app, point.name, point.load)
    return app


def _mount(app: typer.Typer, name: str, load: object) -> None:
    """Adds a sub-command; one that cannot be loaded says so when it is used and leaves the others usable."""
    try:
        sub = load()  # type: ignore[operator]
    except Exception as error:
        broken = f"the command {name} cannot be loaded: {type(error).__name__}: {error}"

        @app.command(name, help="(cannot be loaded)", context_settings={"ignore_unknown_options": True})
        def unusable(_rest: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> None:
            raise CliError(broken, "Install GRAF again (`make setup`).")

        return
    app.add_typer(sub, name=name)


def status(
    group: Annotated[str | None, typer.Argument(help="Name of a group; all groups when left out.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of words.")] = False,
    kubeconfig: Kubeconfig = None,
    lab: Lab = None,
) -> None:
    """Who is active, and could the standby take over now?"""
    api = connecting.connect(kubeconfig, lab)
    groups = [api.group(group)] if group else api.groups()
    gitops = api.gitops_status()
    if as_json:
        typer.echo(json.dumps([status_view.as_json(found, gitops) for found in groups], indent=2))
        return
    if not groups:
        raise CliError(
            "the management cluster has no RedundancyGroup",
            "Groups come from Git: " + (gitops.get("message", "") or "has the manager applied the repository yet?"),
        )
    status_view.print_all(make_console(), groups, gitops)


def switchover(
    group: Annotated[str, typer.Argument(help="Name of the group.")],
    to: Annotated[str, typer.Option("--to", help="Site that it shall be active at.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "asked for by an operator",
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow it to its end.")] = True,
    kubeconfig: Kubeconfig = None,
    lab: Lab = None,
) -> None:
    """Move a group to another site, planned and without loss."""
    switchover_command.run(connecting.connect(kubeconfig, lab), make_console(), group, to, reason, wait)


def events(
    group: Annotated[str, typer.Argument(help="Name of the group.")],
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many of the newest records.")] = 20,
    kubeconfig: Kubeconfig = None,
    lab: Lab = None,
) -> None:
    """Decisions, refusals and events of a group with their reasons."""
    found = connecting.connect(kubeconfig, lab).group(group)
    console = make_console()
    if not events_view.records(found):
        console.print(f"{escape(group)} has no records yet")
        return
    console.print(events_view.render(found, limit, console.width))
    console.print("[dim]older decisions are in Git: git log --grep 'Graf-Group: " + escape(group) + "'[/dim]")


def drivers(
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of words.")] = False,
    kubeconfig: Kubeconfig = None,
    lab: Lab = None,
) -> None:
    """Drivers by class and site: version, image, capabilities, health, and who uses them."""
    api = connecting.connect(kubeconfig, lab)
    found = drivers_view.rows(api.driver_classes(), api.sites(), api.groups())
    if as_json:
        typer.echo(json.dumps(drivers_view.as_json(found), indent=2))
        return
    if not found:
        raise CliError(
            "the management cluster has no DriverClass",
            "Classes come from Git: has the manager applied the repository yet? `graf status` tells.",
        )
    console = make_console()
    console.print(drivers_view.render(found))
    for line in drivers_view.notes(found):
        console.print(f"[yellow]{escape(line)}[/yellow]")


def run(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit status. No traceback passes this."""
    try:
        build_app()(args=argv, prog_name="graf")  # wrong usage is explained and ended by typer itself
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        if os.environ.get("GRAF_DEBUG"):
            raise
        what, next_step = explain(error)
        console = Console(stderr=True, soft_wrap=True)
        console.print(f"[bold red]error[/bold red] {escape(what)}")
        if next_step:
            console.print(f"[bold]next [/bold] {escape(next_step)}")
        return getattr(error, "exit_code", 1)
    return 0


def main() -> None:
    """Entry point `graf`."""
    sys.exit(run())

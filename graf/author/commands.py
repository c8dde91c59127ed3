"""`graf driver ...`: the author's sub-commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graf.author.scaffold import check_names, create

app = typer.Typer(help="For authors of drivers.", no_args_is_help=True)


@app.callback()
def driver() -> None:
    """For authors of drivers."""


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Name of the driver, e.g. my-store; also of its folder.")],
    into: Annotated[Path, typer.Option("--into", help="Folder to make it in.")] = Path(),
    domain: Annotated[str, typer.Option("--domain", help="Yours; the driver is NAME.DOMAIN.")] = "example.org",
    lock: Annotated[bool, typer.Option("--lock/--no-lock", help="Pin every dependency (uv.lock).")] = True,
) -> None:
    """Make a driver that passes the conformance kit; then make it yours."""
    made = create(check_names(name, domain), into, lock=lock)
    typer.echo(f"{made}: a driver that passes the conformance kit with a component in memory")
    typer.echo(f"next: cd {made} && make test, then read README.md")

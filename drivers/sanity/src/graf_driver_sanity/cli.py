"""`graf-driver-sanity`: checks a driver from the command line."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from graf_driver_sanity.config import Config, ConfigError, Side, load
from graf_driver_sanity.registry import all_checks
from graf_driver_sanity.runner import STOPS, in_words, run, until_told_to_stop

app = typer.Typer(add_completion=False)


@app.command()
def check(
    config: Annotated[Path | None, typer.Option(help="YAML or Python file; see docs/how-to/check-a-driver.md.")] = None,
    endpoint: Annotated[str, typer.Option(help="A running driver: unix:/path or host:port.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the same JSON object to this file, beside the lines.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this check or area; may be repeated.")] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and end.")] = False,
) -> None:
    """Checks whether a driver keeps the contract graf.driver.v1. Status 0: it does; 1: it does not; 2: not run."""
    if list_checks:
        for one in all_checks():
            typer.echo(f"{one.id}  {', '.join(one.requirements)}  {one.sentence}")
        return
    for number in STOPS:
        signal.signal(number, _leave)
    known = {name for one in all_checks() for name in (one.id, one.id.partition("-")[0])}
    if unknown := sorted(set(only or ()) - known):  # else a typing error would pass: none of no checks failed
        typer.echo(f"graf-driver-sanity: --only {', '.join(unknown)} names no check and no area; see --list", err=True)
        raise typer.Exit(2)
    try:
        wanted = _configuration(config, endpoint)
    except ConfigError as error:
        typer.echo(f"graf-driver-sanity: {error}", err=True)
        raise typer.Exit(2) from None

    def told(identity: str, outcome: str) -> None:
        if not as_json:
            typer.echo(f"{identity:48} {outcome}")

    try:
        report = asyncio.run(until_told_to_stop(run(wanted, only or (), told)))
    except asyncio.CancelledError:
        typer.echo("graf-driver-sanity: stopped half-way; what it had started was ended", err=True)
        raise typer.Exit(2) from None
    found = json.dumps(report.as_json(), indent=2)
    typer.echo(found if as_json else in_words(report))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(found + "\n")
    raise typer.Exit(1 if report.failures else 0)


def _leave(number: int, frame: object) -> None:
    """Before the first driver and after the last there is nothing to end; a configuration's own `atexit` still runs."""
    raise SystemExit(2)


def _configuration(path: Path | None, endpoint: str) -> Config:
    if path is not None:
        return load(path, endpoint)
    if not endpoint:
        raise ConfigError("neither --config nor --endpoint was given; say which driver to check")
    return Config(site=Side("east", endpoint))


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()

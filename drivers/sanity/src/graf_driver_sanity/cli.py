"""`graf-driver-sanity`: checks a driver from the command line."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from graf_driver_sanity.config import Config, ConfigError, Tls, load, side, unknown_check
from graf_driver_sanity.registry import all_checks
from graf_driver_sanity.runner import START, STOPS, in_words, run, until_told_to_stop

app = typer.Typer(add_completion=False)


@app.command()
def check(
    config: Annotated[Path | None, typer.Option(help="YAML or Python file; see docs/how-to/check-a-driver.md.")] = None,
    endpoint: Annotated[str, typer.Option(help="A running driver: unix:/path or host:port.")] = "",
    tls_dir: Annotated[
        Path | None, typer.Option(help="For host:port with TLS: ca.crt, tls.crt and tls.key of a client.")
    ] = None,
    server_name: Annotated[str, typer.Option(help="Name in the driver's certificate, for --tls-dir.")] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Status 1 also where a guarantee that is declared was not looked at.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the same JSON object to this file, beside the lines.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this check or area; may be repeated.")] = None,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and end.")] = False,
) -> None:
    """Checks whether a driver keeps the contract graf.driver.v1.

    Status 0: no check failed; 1: one did, or with --strict a guarantee that it declares is NOT PROVED; 2: it could not
    be run.
    """
    if list_checks:
        for one in all_checks():
            typer.echo(f"{one.id}  {', '.join(one.requirements)}  {one.sentence}")
        return
    for number in STOPS:
        signal.signal(number, _leave)
    try:
        for name in only or ():  # else a typing error would pass: none of no checks failed
            if name != START and not any(name in (one.id, one.id.partition("-")[0]) for one in all_checks()):
                raise ConfigError(f"--only: {unknown_check(name)}")
        wanted = _configuration(config, endpoint, None if tls_dir is None else Tls(tls_dir, server_name))
        if out is not None:
            _can_be_written(out)  # after minutes of checks it would be too late
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
    if out is not None:  # first: whoever reads the standard output may be gone
        try:
            out.write_text(found + "\n")
        except OSError as error:
            typer.echo(f"graf-driver-sanity: {_not_written(out, error)}", err=True)
            typer.echo(found if as_json else in_words(report))
            raise typer.Exit(2) from None
    typer.echo(found if as_json else in_words(report))
    if not report.could_start and not wanted.site.startable:  # nobody is there: that says nothing of the contract
        raise typer.Exit(2)
    raise typer.Exit(1 if report.failures or (strict and not report.kept) else 0)


def _can_be_written(out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a"):
            pass
    except OSError as error:
        raise ConfigError(_not_written(out, error)) from None


def _not_written(out: Path, error: OSError) -> str:
    return f"--out: {out} cannot be written: {error.strerror}; give another file"


def _leave(number: int, frame: object) -> None:
    """Before the first driver and after the last there is nothing to end; a configuration's own `atexit` still runs."""
    raise SystemExit(2)


def _configuration(path: Path | None, endpoint: str, tls: Tls | None) -> Config:
    if tls is not None and (not endpoint or endpoint.startswith(("unix:", "/"))):
        raise ConfigError("--tls-dir is of a driver at host:port; give it as --endpoint")
    if path is not None:
        return load(path, endpoint, tls)
    if not endpoint:
        raise ConfigError("neither --config nor --endpoint was given; say which driver to check")
    return Config(site=side("east", endpoint, tls))


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()

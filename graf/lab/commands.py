"""`graf lab ...`: the lab's sub-commands."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from graf.lab import lifecycle, process
from graf.lab.errors import LabError
from graf.lab.fault_commands import app as fault_app
from graf.lab.lab import Lab
from graf.lab.made_with import Extra
from graf.lab.state import LabState, all_labs
from graf.lab.topology import CLUSTERS, DEFAULT_LAB, MANAGEMENT, USERS, Topology

app = typer.Typer(help="A lab of whole Kubernetes clusters on this machine.", no_args_is_help=True)
app.add_typer(fault_app, name="fault")
_out = Console(soft_wrap=True)
_err = Console(stderr=True, soft_wrap=True)

# A repair tells each thing it did; a first start does not.
_FEW_CHANGES = 8

Name = Annotated[str, typer.Option("--name", help="Name of the lab; several can be up at once.")]


@contextlib.contextmanager
def errors_told() -> Iterator[None]:
    """Show a lab error as what, why and next, and end with status 1; never a traceback."""
    try:
        yield
    except LabError as problem:
        _err.print(f"[red]error:[/red] {problem.what}", highlight=False)
        if problem.why:
            _err.print(f"  why:  {problem.why}", highlight=False, markup=False)
        if problem.remedy:
            _err.print(f"  next: {problem.remedy}", highlight=False, markup=False)
        raise typer.Exit(1) from problem
    except KeyboardInterrupt as problem:
        _err.print("interrupted; the same command goes on where this one stopped")
        raise typer.Exit(130) from problem


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Tell steps: on a terminal by a line that changes, else by one line each."""
    if _err.is_terminal:
        with _err.status("") as line:

            def tell(text: str) -> None:
                line.update(text)

            yield tell
    else:
        yield lambda text: _err.print(f"... {text}", highlight=False, markup=False)


@app.command()
def up(
    name: Name = DEFAULT_LAB,
    index: Annotated[int | None, typer.Option(help="Subnet 198.18.INDEX.0/24; default: the first free.")] = None,
    wait_pods: Annotated[bool, typer.Option(help="Wait until GRAF's Pods are ready.")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the Pods.")] = lifecycle.POD_TIMEOUT_S,
    volume: Annotated[bool, typer.Option("--volume", help="A new lab: the group gets a volume (driver pv).")] = False,
    scope: Annotated[bool, typer.Option("--scope", help="A new lab: the group has a part of each server.")] = False,
    workload: Annotated[
        bool, typer.Option("--workload", help="A new lab: a Deployment and its configuration move with the group.")
    ] = False,
    groups: Annotated[
        bool, typer.Option("--groups", help="A new lab: a second group, active at the other site.")
    ] = False,
) -> None:
    """Bring the lab up; on a lab that is up, repair what is missing and change nothing else."""
    wanted = ((Extra.VOLUME, volume), (Extra.SCOPE, scope), (Extra.WORKLOAD, workload), (Extra.GROUPS, groups))
    with errors_told():
        with progress() as tell:
            result = lifecycle.up(
                name,
                index=index,
                tell=tell,
                pods=wait_pods,
                pod_timeout_s=timeout,
                extras=[extra for extra, yes in wanted if yes],
            )
        total = sum(result.seconds.values())
        if result.changes:
            slow = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in result.seconds.items() if seconds >= 1)
            _out.print(f"lab [bold]{name}[/bold] is up after {total:.0f} s ({slow})", highlight=False)
            if len(result.changes) <= _FEW_CHANGES:
                _out.print("  " + "\n  ".join(result.changes), highlight=False, markup=False)
        else:
            _out.print(f"lab [bold]{name}[/bold] was up; nothing was missing", highlight=False)
        _what_to_look_at(result.topology)


def _what_to_look_at(topology: Topology) -> None:
    option = "" if topology.name == DEFAULT_LAB else f" --name {topology.name}"
    _out.print(f"\n  graf lab status{option}", highlight=False)
    _out.print(f"  graf lab kubectl{option} mgmt get redundancygroups -A", highlight=False)
    _out.print(f"  export KUBECONFIG={topology.kubeconfig(MANAGEMENT)}", highlight=False)
    _out.print(f"  git -C {topology.git_repository} log", highlight=False)
    _out.print(f"  graf lab shell users{option}          a shell where the clients are", highlight=False)
    _out.print(
        f"  graf lab fault kill east{option}      a fault; back with: graf lab fault start east", highlight=False
    )
    _out.print(f"  graf lab down{option}                 ends all of it", highlight=False)


@app.command()
def down(
    name: Name = DEFAULT_LAB,
    force: Annotated[bool, typer.Option(help="Also when the lab's record cannot be read.")] = False,
) -> None:
    """End everything that the lab started: processes, namespaces, mounts, cgroups, containers, files."""
    with errors_told():
        with progress() as tell:
            ended = lifecycle.down(name, tell=tell, force=force)
        _out.print(f"lab {name}: ended {', '.join(ended)}" if ended else f"there is no lab {name!r}", highlight=False)


@app.command()
def status(
    name: Name = DEFAULT_LAB,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what of the lab runs."""
    with errors_told():
        lab = Lab.load(name)
        rows = lifecycle.status(lab.topology)
        if as_json:
            sys.stdout.write(json.dumps({"name": name, "index": lab.topology.index, "locations": rows}) + "\n")
            return
        table = Table(title=f"lab {name}, {lab.topology.subnet}")
        for column in ("LOCATION", "ADDRESS", "NODE", "PROCESSES", "MEMORY", "REMARK"):
            table.add_column(column)
        for row in rows:
            node = "" if row["location"] == USERS else "ready" if row["node_ready"] else "not ready"
            missing = row["missing"]
            assert isinstance(missing, list)
            remark = "stopped" if row["frozen"] else _dead(missing)
            table.add_row(
                str(row["location"]),
                str(row["address"]),
                node,
                str(row["processes"]),
                f"{row['memory_mb']} MB",
                remark,
            )
        _out.print(table)
        others = [other.topology.name for other in all_labs() if other.topology.name != name]
        if others:
            _out.print(f"other labs: {', '.join(others)}", highlight=False)


def _dead(missing: list[str]) -> str:
    if not missing:
        return ""
    if "holder" in missing:
        return "does not run; graf lab fault start, or graf lab up"
    return f"does not run: {', '.join(missing)}"


@app.command()
def shell(
    location: Annotated[str, typer.Argument(help="mgmt, east, west or users.")] = MANAGEMENT,
    name: Name = DEFAULT_LAB,
) -> None:
    """Open a shell at a location, in its network and with its disks; KUBECONFIG is set."""
    with errors_told():
        lab = Lab.load(name)
        lab.topology.location(location)
        prefix = process.location_prefix(lab.topology, location)
        env = {**os.environ, "PS1": f"{location}# "}
        if location in CLUSTERS:
            from graf.lab import binaries

            env["KUBECONFIG"] = str(lab.kubeconfig(location))
            env["PATH"] = f"{binaries.located()}:{env.get('PATH', '')}"
            env["CONTAINERD_ADDRESS"] = "/run/containerd/containerd.sock"
        program = env.get("SHELL") or "/bin/sh"
        os.execvpe(prefix[0], [*prefix, program, *(["--norc"] if program.endswith("bash") else [])], env)  # noqa: S606


@app.command(context_settings={"allow_extra_args": True, "allow_interspersed_args": False})
def kubectl(
    context: typer.Context,
    location: Annotated[str, typer.Argument(help="mgmt, east or west; what follows is kubectl's.")],
    name: Name = DEFAULT_LAB,
) -> None:
    """Run kubectl against a cluster of the lab, in its own network: also while it is cut off."""
    from graf.lab import binaries

    with errors_told():
        lab = Lab.load(name)
        lab.topology.cluster(location)
        program = str(binaries.located() / "kubectl")
        enter = ["nsenter", f"--net={process.netns_path(lab.topology, location)}", "--", program]
        argv = [*enter, f"--kubeconfig={lab.kubeconfig(location)}", *context.args]
        os.execvp(argv[0], argv)  # noqa: S606


@app.command()
def kubeconfig(
    location: Annotated[str, typer.Argument(help="mgmt, east or west.")] = MANAGEMENT,
    name: Name = DEFAULT_LAB,
) -> None:
    """Print the path of a cluster's kubeconfig."""
    with errors_told():
        state = LabState.read(name)
        if state is None:
            raise LabError(f"there is no lab {name!r}", remedy=f"graf lab up --name {name}")
        state.topology.cluster(location)
        sys.stdout.write(f"{state.topology.kubeconfig(location)}\n")

"""`graf switchover GROUP --to SITE`: a planned move, followed to its end."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from graf.cli.errors import CliError
from graf.crd.group import RedundancyGroup
from graf.crd.operation import FINAL_STATES, RedundancyOperation
from graf.ports.group_api import GroupApi
from graf.shell.planned_move import follow, request_switchover

TIMEOUT_S = 240.0


def check_target(group: RedundancyGroup, target: str) -> None:
    """Refuses what cannot be meant; whether the move is safe is the group's own decision."""
    if target not in group.spec.site_names:
        raise CliError(
            f"{target} is not a site of the group {group.name}", f"Its sites are {', '.join(group.spec.site_names)}."
        )
    if group.status is not None and group.status.active_site == target:
        raise CliError(f"{group.name} is active at {target} already (epoch {group.status.epoch})", "Nothing to do.")


def run(api: GroupApi, console: Console, group_name: str, target: str, reason: str, wait: bool) -> None:
    """Asks for the move and, unless told otherwise, follows it."""
    check_target(api.group(group_name), target)
    name = request_switchover(api, group_name, target, reason)
    console.print(f"asked for [bold]{name}[/bold]: {escape(group_name)} to {escape(target)}")
    if not wait:
        console.print(f"follow it with: kubectl -n graf-system get redundancyoperation {name} -w")
        return
    shown: set[tuple[str, str]] = set()
    operation = follow(api, name, TIMEOUT_S, lambda seen: _show(console, seen, shown))
    _conclude(console, operation)


def _show(console: Console, operation: RedundancyOperation, shown: set[tuple[str, str]]) -> None:
    for step in operation.status.steps if operation.status else []:
        if (step.name, step.state) not in shown:
            shown.add((step.name, step.state))
            console.print(f"  {escape(step.name):<24} {escape(step.state):<12} {escape(step.message)}")


def _conclude(console: Console, operation: RedundancyOperation) -> None:
    status = operation.status
    state = status.state if status else "Pending"
    message = status.message if status else ""
    if state == "Succeeded" and status is not None:
        measured = "not measured" if status.rto_ms is None else f"{status.rto_ms:.0f} ms"
        lost = "" if status.rpo_writes is None else f", {status.rpo_writes} acknowledged writes lost"
        console.print(
            f"[green]moved[/green] {escape(status.from_site)} -> {escape(status.to_site)}, "
            f"epoch {status.epoch_from} -> {status.epoch_to}, measured outage {measured}{lost}, "
            f"commit {status.git_commit[:10] or 'queued'}"
        )
        return
    evidence = "; ".join(status.evidence) if status else ""
    if state not in FINAL_STATES:
        raise CliError(
            f"{operation.name} is still {state} after {TIMEOUT_S:.0f} s: {message or 'no message yet'}",
            f"It goes on by itself; look at it with kubectl -n graf-system get rop {operation.name} -o yaml.",
        )
    detail = "; ".join(part for part in (message, evidence) if part) or "no reason was given"
    raise CliError(
        f"{operation.name} ended as {state}: {detail}",
        "The group serves as before. `graf status` shows what stands in the way."
        if state in ("Refused", "RolledBack")
        else "`graf status` and `graf events` show where the group stands now.",
        exit_code=3 if state == "Refused" else 1,
    )

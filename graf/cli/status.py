"""`graf status`: who is active, how safely, and what would happen if it failed now."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

from graf.crd.group import GroupSiteStatus, RedundancyGroup, RedundancyGroupStatus

STALE_AFTER_S = 10.0


def render(group: RedundancyGroup, gitops: dict[str, str], now: datetime | None = None) -> RenderableType:
    """Everything about one group on one screen."""
    status = group.status
    if status is None:
        return (
            f"[bold]{escape(group.name)}[/bold]  has no status yet: the manager has not seen it. "
            "Look at `kubectl -n graf-system get pods` of the management cluster."
        )
    now = now or datetime.now(UTC)
    facts = Table.grid(padding=(0, 2, 0, 1))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in (*_answers(group, status), *_record(status), *_gitops(gitops)):
        facts.add_row(name, text)
    return Group(_headline(group, status), _sites(status, now), facts)


def as_json(group: RedundancyGroup, gitops: dict[str, str]) -> dict[str, Any]:
    """The same as data."""
    status = group.status
    return {
        "group": group.name,
        "status": None if status is None else status.to_dict(),
        "canTakeOver": [] if status is None else [site.name for site in _ready_standbys(status)],
        "gitops": gitops,
    }


def _headline(group: RedundancyGroup, status: RedundancyGroupStatus) -> str:
    active = status.active_site or "nobody"
    colour = "green" if status.active_site else "red"
    site = next((s for s in status.sites if s.name == status.active_site), None)
    lease = "no lease reported"
    if site is not None and site.lease_left_ms is not None and site.lease_left_ms >= 0:
        lease = f"lease {site.lease_left_ms} ms left when reported"
    preferred = "" if active in ("nobody", group.spec.preferred_site) else f", preferred is {group.spec.preferred_site}"
    who = f"active [bold {colour}]{active}[/]{preferred}"
    return f"[bold]{escape(group.name)}[/bold]  {who}  epoch {status.epoch}  {lease}"


def _sites(status: RedundancyGroupStatus, now: datetime) -> Table:
    table = Table(box=None, pad_edge=True, header_style="dim")
    for column in ("SITE", "ROLE", "EPOCH", "CONNECTED", "LEASE LEFT", "LAG", "CAN TAKE OVER", "SEEN"):
        table.add_column(column, overflow="fold")
    for site in status.sites:
        table.add_row(
            escape(site.name),
            _role(site.role),
            str(site.epoch),
            "yes" if site.connected else "[red]no[/red]",
            "-" if site.lease_left_ms is None or site.lease_left_ms < 0 else f"{site.lease_left_ms} ms",
            _lag(site),
            _takeover(site),
            _age(site.observed_at, now),
        )
    return table


def _role(role: str) -> str:
    colour = {"Active": "green", "Standby": "cyan", "Unknown": "yellow"}.get(role, "red")
    return f"[{colour}]{escape(role)}[/{colour}]"


def _lag(site: GroupSiteStatus) -> str:
    if site.role == "Active":
        return "-"
    if site.lag_transactions is not None and site.lag_transactions >= 0:
        return f"{site.lag_transactions} transactions"
    if site.lag_seconds is not None and site.lag_seconds >= 0:
        return f"{site.lag_seconds:.1f} s"
    return "[yellow]unknown[/yellow]"


def _takeover(site: GroupSiteStatus) -> str:
    if site.role == "Active":
        return "is active"
    if site.promotable and site.connected:
        return "[green]yes[/green]"
    return "[red]no[/red]"


def _words(condition: str) -> str:
    """`FailbackPending` as people write it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", condition).lower()


def _age(observed_at: str | None, now: datetime) -> str:
    if observed_at is None:
        return "[yellow]never[/yellow]"
    seconds = max(0.0, (now - datetime.fromisoformat(observed_at)).total_seconds())
    text = f"{seconds:.0f} s ago"
    return f"[yellow]{text}[/yellow]" if seconds > STALE_AFTER_S else text


def _ready_standbys(status: RedundancyGroupStatus) -> list[GroupSiteStatus]:
    return [s for s in status.sites if s.name != status.active_site and s.promotable and s.connected]


def _answers(group: RedundancyGroup, status: RedundancyGroupStatus) -> list[tuple[str, str]]:
    """The questions that people ask at night, answered in words."""
    members = status.synchronous_set.members if status.synchronous_set else []
    ready = [site.name for site in _ready_standbys(status) if site.name in members]
    if ready:
        takeover = f"[green]yes[/green], {escape(', '.join(ready))}"
        loss = _loss(group, status, ready[0])
    else:
        reasons = [
            f"{site.name}: "
            + (
                site.promotable_reason
                or ("not in the synchronous set" if site.name not in members else "not connected")
            )
            for site in status.sites
            if site.name != status.active_site
        ]
        takeover = f"[red]no[/red] ({escape('; '.join(reasons) or 'no other site')})"
        loss = "nothing by itself: the group holds. A forced failover could lose what only the active site has"
    if status.predicted_rto is not None and ready:
        about = "at least" if status.predicted_rto.at_least else "about"
        takeover += f", outage {about} {status.predicted_rto.ms} ms ({escape(status.predicted_rto.basis)})"
    lines = [
        ("take over now?", takeover),
        ("would be lost", loss),
        *_copies(group, status),
        ("synchronous set", escape(", ".join(members) or "unknown")),
    ]
    for site in status.sites:
        if site.reasons and (site.role not in ("Active", "Standby") or not status.active_site):
            lines.append((f"{escape(site.name)} says", escape("; ".join(site.reasons))))
    lines += _voters(group, status)
    for condition in status.conditions:
        if condition.status != "True" or condition.type == "FailbackPending":
            lines.append(
                (_words(condition.type), escape(f"{condition.status}, {condition.reason}: {condition.message}"))
            )
    return lines


def _loss(group: RedundancyGroup, status: RedundancyGroupStatus, site_name: str) -> str:
    """What a failover to a site that can take over would lose now."""
    data = [component.name for component in group.spec.components if component.stage == "data"]
    if not data:
        return "nothing: it holds no data"
    if status.rpo != "async":
        return "nothing: every acknowledged write is there"
    site = next(site for site in status.sites if site.name == site_name)
    lags = [report.lag_seconds for report in site.components if report.name in data]
    known = [lag for lag in lags if lag is not None]
    if len(known) < len(data):
        return "[yellow]unknown[/yellow]: no write waits for the standby, and not every component tells its lag"
    return f"up to {max(known):.1f} s of changes: no write waits for the standby"


def _copies(group: RedundancyGroup, status: RedundancyGroupStatus) -> list[tuple[str, str]]:
    """What a promotion now could lose of components whose copy is not synchronous, against what is declared."""
    lines = []
    for site in status.sites:
        reports = {component.name: component for component in site.components}
        for component in group.spec.components:
            limit_s = component.rpo_seconds(site.name)
            if limit_s is None or site.name == status.active_site:
                continue
            report = reports.get(component.name)
            lag_s = None if report is None or not site.connected else report.lag_seconds
            amount = "unknown" if lag_s is None else f"up to {lag_s:.1f} s of changes"
            text = escape(f"{amount} at {site.name} when reported; {limit_s:g} s may be lost")
            if report is not None and lag_s is not None and report.promotable:
                lines.append((f"lost of {escape(component.name)}", text))
                continue
            reason = report.promotable_reason if report is not None else "the site has not told"
            lines.append((f"lost of {escape(component.name)}", f"[red]{text}[/red]" + escape(f": {reason}")))
    return lines


def _voters(group: RedundancyGroup, status: RedundancyGroupStatus) -> list[tuple[str, str]]:
    """Which list decides; while another one is wanted also that, what it waits for and what to do."""
    kinds = {member.name: member.kind.lower() for member in group.spec.voters.members}
    told = status.voters
    names, which = list(kinds), "declared, not reported yet"
    if told is not None and told.in_force is not None:
        names, which = told.in_force.members, f"v{told.in_force.version} in force"
    voters = ", ".join(f"{name} ({kinds.get(name, 'no longer declared')})" for name in names)
    silent = [s.name for s in status.sites if not s.connected]
    text = escape(f"{which}: {voters}")
    lines = [("voters", text + (f"; no report from [red]{escape(', '.join(silent))}[/red]" if silent else ""))]
    if told is None:
        return lines
    wanted = ""
    if told.proposed is not None:
        wanted = f"v{told.proposed.version}: {', '.join(told.proposed.members)}"
    elif told.in_force is not None and told.declared_version > told.in_force.version:
        wanted = f"v{told.declared_version}: {', '.join(kinds)}"
    if wanted:
        lines.append(("voter change", f"[yellow]{escape(told.state)}[/yellow], to {escape(wanted)}"))
    if told.message:
        lines.append(("", f"[yellow]{escape(told.message)}[/yellow]"))
    return lines


def _record(status: RedundancyGroupStatus) -> list[tuple[str, str]]:
    last = status.last_operation
    if last is None:
        return [("last operation", "none yet")]
    measured = "" if last.rto_ms is None else f", measured outage {last.rto_ms:.0f} ms"
    lost = "" if last.rpo_writes is None else f", {last.rpo_writes} writes lost"
    commit = f", commit {last.git_commit[:10]}" if last.git_commit else ", not yet in Git"
    text = f"{last.type} {last.from_site or '-'} -> {last.to_site}, epoch {last.epoch_from} -> {last.epoch_to}"
    when = f" at {last.completed_at}" if last.completed_at else ""
    return [("last operation", escape(f"{text} {last.result}{when}{measured}{lost}{commit}"))]


def _gitops(gitops: dict[str, str]) -> list[tuple[str, str]]:
    """Last applied commit; a refused one with every problem; what waits to be recorded."""
    if not gitops:
        return [("git", "[yellow]the manager has not reported yet[/yellow]")]
    state = gitops.get("state", "Unknown")
    applied = gitops.get("lastApplied", "")[:10] or "nothing yet"
    when = f" at {gitops['lastAppliedAt']}" if gitops.get("lastAppliedAt") else ""
    colour = "green" if state == "Applied" else "yellow"
    lines = [("git", f"[{colour}]{escape(state)}[/{colour}], last applied commit {escape(applied + when)}")]
    if state == "Refused":
        lines.append(("refused commit", f"[red]{escape(gitops.get('lastRefused', '')[:10])}[/red]"))
        lines += [("", escape(problem)) for problem in gitops.get("problems", "").splitlines() if problem.strip()]
    elif state != "Applied" and gitops.get("message"):
        lines.append(("", escape(gitops["message"])))
    if gitops.get("notInGit"):
        lines.append(("not in git", escape(gitops["notInGit"])))
    if gitops.get("queuedDecisions", "0") != "0":
        lines.append(("not yet in git", f"[yellow]{escape(gitops['queuedDecisions'])} decisions wait[/yellow]"))
    return lines


def print_all(console: Console, groups: list[RedundancyGroup], gitops: dict[str, str]) -> None:
    """All groups, one after the other."""
    for index, group in enumerate(groups):
        if index:
            console.print()
        console.print(render(group, gitops))

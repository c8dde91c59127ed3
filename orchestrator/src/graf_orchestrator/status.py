"""The status that `kubectl get` and `graf status` show, computed from reports and records. Pure.

Two kinds of content: what changes when something happens, and what changes with every report (`VOLATILE`). The
reconcile writes the first at once and the second now and then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from graf.api.recorded import Recorded, role_of
from graf.core.planning import SiteView
from graf_orchestrator.prediction import predicted_rto
from graf_orchestrator.state import report_of
from graf_orchestrator.voters import voters_status

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graf.core.planning import RecordView
    from graf.crd.group import RedundancyGroup
    from graf.crd.policy import RedundancyPolicy
    from graf.shell.proto import manager_pb2 as pb
    from graf_orchestrator.state import SiteLink

HISTORY_LENGTH = 20
VOLATILE = frozenset(
    {
        "leaseLeftMs",
        "observedAt",
        "position",
        "lagSeconds",
        "lagTransactions",
        "lag",
        "silentMs",
        "stallMsMax",
        "lastTransitionTime",
        "predictedActivationMs",
        "predictedReachMs",
        "predictedRto",
        "rto",
    }
)


def timestamp(wall_s: float) -> str:
    """RFC 3339 with milliseconds, UTC."""
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without_volatile(value: Any) -> Any:
    """The part of a status whose change is worth a write at once."""
    if isinstance(value, dict):
        return {key: without_volatile(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [without_volatile(item) for item in value]
    return value


@dataclass(frozen=True, slots=True)
class ConditionValue:
    """A condition before it has a time."""

    type: str
    status: str
    reason: str
    message: str = ""


def conditions(
    values: Sequence[ConditionValue], old: Sequence[Mapping[str, Any]], generation: int, wall_s: float
) -> list[dict[str, Any]]:
    """Conditions with their transition times: unchanged while the status of a condition is."""
    before = {item.get("type"): item for item in old}
    result = []
    for value in values:
        previous = before.get(value.type, {})
        same = previous.get("status") == value.status and "lastTransitionTime" in previous
        result.append(
            {
                "type": value.type,
                "status": value.status,
                "reason": value.reason,
                "message": value.message,
                "observedGeneration": generation,
                "lastTransitionTime": previous["lastTransitionTime"] if same else timestamp(wall_s),
            }
        )
    return result


def site_view(name: str, group: str, link: SiteLink, now_s: float) -> SiteView:
    """A site as the planning sees it."""
    report = report_of(link, group)
    if report is None:
        return SiteView(name)
    return SiteView(
        name,
        fresh=link.fresh(now_s),
        role=report.role or "Unknown",
        epoch=report.epoch,
        promotable=report.promotable,
        promotable_reason=report.promotable_reason,
    )


def synchronous_set(group: RedundancyGroup, links: Mapping[str, SiteLink], now_s: float) -> tuple[int, int, list[str]]:
    """The newest version that a connected site knows: (epoch, counter, members)."""
    best: tuple[int, int, list[str]] = (0, 0, [])
    for site in group.spec.site_names:
        report = report_of(links[site], group.name) if site in links and links[site].fresh(now_s) else None
        if report is not None and (report.set_epoch, report.set_counter) > best[:2]:
            best = (report.set_epoch, report.set_counter, sorted(report.synchronous_set))
    return best


def _component(report: pb.ComponentReport) -> dict[str, Any]:
    status = {
        "name": report.name,
        "driverClass": report.driver_class,
        "role": report.role or "Unknown",
        "health": report.health or "Unknown",
        "epoch": report.epoch,
        "accepting": report.accepting,
        "promotable": report.promotable,
        "promotableReason": report.promotable_reason,
        "position": report.position,
        "message": report.message,
    }
    if report.lag_seconds >= 0:  # negative: not known
        status["lagSeconds"] = float(report.lag_seconds)
    if report.lag_transactions >= 0:
        status["lagTransactions"] = report.lag_transactions
    if report.predicted_activation_ms:  # 0: its driver has nothing to tell
        status["predictedActivationMs"] = report.predicted_activation_ms
    if report.predicted_reach_ms:
        status["predictedReachMs"] = report.predicted_reach_ms
    return status


def group_site(
    group: RedundancyGroup, site: str, recorded: Recorded, link: SiteLink | None, now_s: float
) -> dict[str, Any]:
    """The group at one site. A site that is silent is Unknown, whatever it said before."""
    wanted = next(item.administrative_role for item in group.spec.sites if item.name == site)
    status: dict[str, Any] = {
        "name": site,
        "administrativeRole": wanted,
        "assignedRole": role_of(site, recorded),
        "role": "Unknown",
        "connected": link is not None and link.connected,
        "ready": False,
        "promotable": False,
    }
    report = None if link is None else report_of(link, group.name)
    if link is None or report is None:
        status["promotableReason"] = "no report from the site yet"
        return status
    status["observedAt"] = timestamp(link.heard_wall_s)
    status["epoch"] = report.epoch
    status["verdict"] = report.verdict
    if not link.fresh(now_s):
        status["promotableReason"] = "the site's controller is not heard; its state is unknown"
        return status
    serving = report.role == "Active" and report.lease_left_ms >= 0
    # A planned move copies the rest first, so it is told here and is no part of what the site says of itself.
    lacking = "" if serving else _copy_too_old(group, site, report)
    able = report.promotable and not lacking
    status.update(
        role=report.role or "Unknown",
        ready=serving or (report.role == "Standby" and able),
        promotable=able,
        promotableReason=report.promotable_reason or lacking,
        phase=report.phase,
        reasons=list(report.reasons),
        components=[_component(component) for component in report.components],
    )
    if report.lease_left_ms >= 0:
        status["leaseLeftMs"] = report.lease_left_ms
    if report.role == "Standby":
        seconds = [c.lag_seconds for c in report.components if c.lag_seconds >= 0]
        transactions = [c.lag_transactions for c in report.components if c.lag_transactions >= 0]
        if seconds:
            status["lagSeconds"] = float(max(seconds))
        if transactions:
            status["lagTransactions"] = max(transactions)
    return status


def _copy_too_old(group: RedundancyGroup, site: str, report: pb.GroupReport) -> str:
    """Which component with a declared RPO may lack more here, and so keeps the site from taking over by itself."""
    told = {component.name: component for component in report.components}
    for component in group.spec.components:
        seen = told.get(component.name)
        if component.rpo_seconds(site) is not None and seen is not None and not seen.promotable:
            return f"{component.name}: {seen.promotable_reason or 'may lack more than declared'}"
    return ""


def history_entry(record: RecordView, commit: str) -> dict[str, Any]:
    """A record as the status keeps it."""
    entry: dict[str, Any] = {
        "id": record.id,
        "kind": record.kind,
        "type": record.type,
        "epoch": record.epoch,
        "epochFrom": record.epoch_from,
        "fromSite": record.from_site,
        "toSite": record.to_site,
        "operation": record.operation,
        "site": record.site,
        "reasons": list(record.reasons),
        "message": record.message,
        "phasesMs": {name: float(ms) for name, ms in record.phases_ms.items()},
        "gitCommit": commit,
    }
    if record.wall_ms:
        entry["at"] = timestamp(record.wall_ms / 1000)
    return entry


def last_operation(record: RecordView, commit: str, lossless: bool) -> dict[str, Any]:
    """The newest move, from its record."""
    move: dict[str, Any] = {
        "name": record.operation,
        "type": record.type,
        "fromSite": record.from_site,
        "toSite": record.to_site,
        "epochFrom": record.epoch_from,
        "epochTo": record.epoch,
        "result": "Succeeded",
        "gitCommit": commit,
    }
    if record.wall_ms:
        move["completedAt"] = timestamp(record.wall_ms / 1000)
    if record.rto_ms is not None:
        move["rtoMs"] = record.rto_ms
    if lossless:
        move["rpoWrites"] = 0
    return move


def merge_history(history: Sequence[Mapping[str, Any]], entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The newest records, in order, each once; a commit that is known by now is filled in."""
    merged = {item["id"]: dict(item) for item in history}
    for entry in entries:
        known = merged.get(entry["id"])
        if known is None:
            merged[entry["id"]] = dict(entry)
        elif entry.get("gitCommit"):
            known["gitCommit"] = entry["gitCommit"]
    return [merged[key] for key in sorted(merged)][-HISTORY_LENGTH:]


def able_standbys(
    recorded: Recorded, sites: Sequence[Mapping[str, Any]], members: Sequence[str]
) -> list[Mapping[str, Any]]:
    """The sites that could take over now: of the synchronous set, whose members lack no more than may be lost."""
    standbys = [site for site in sites if site["name"] != recorded.active_site]
    return [site for site in standbys if site["ready"] and site["name"] in members]


def protection(recorded: Recorded, sites: Sequence[Mapping[str, Any]], members: Sequence[str]) -> ConditionValue:
    """The condition `Protected`: whether another site could take over now, losing no more than the policy lets."""
    if not recorded.active_site:
        return ConditionValue("Protected", "False", "NotActivated", "the group was never active")
    standbys = [site for site in sites if site["name"] != recorded.active_site]
    able = [site["name"] for site in able_standbys(recorded, sites, members)]
    if able:
        return ConditionValue("Protected", "True", "StandbyReady", f"{', '.join(able)} can take over")
    reasons = [
        f"{site['name']}: "
        + (
            site.get("promotableReason")
            or ("not in the synchronous set" if site["name"] not in members else f"is {site['role']}")
        )
        for site in standbys
    ]
    unknown = all(site["role"] == "Unknown" for site in standbys)
    return ConditionValue("Protected", "Unknown" if unknown else "False", "NoStandbyReady", "; ".join(reasons))


def within_rpo(
    group: RedundancyGroup, recorded: Recorded, sites: Sequence[Mapping[str, Any]]
) -> tuple[ConditionValue, ...]:
    """The condition `WithinRpo`: whether a promotion now loses at most what is declared, of what is not synchronous.

    None for a group that declares no such component. It is each driver's own word (`promotable`): here nothing is
    measured. How much it would be is beside the component, not in the condition: it changes with every report.
    """
    beyond: list[str] = []
    unknown: list[str] = []
    limits: list[str] = []
    for site in sites:
        reports = {component["name"]: component for component in site.get("components", [])}
        for component in group.spec.components:
            limit_s = component.rpo_seconds(site["name"])
            if limit_s is None or site["name"] == recorded.active_site:
                continue
            name = f"{component.name} at {site['name']}"
            limits.append(f"{name} {limit_s:g} s")
            report = reports.get(component.name)
            if report is None or report["role"] == "Unknown":
                unknown.append(name)
            elif not report["promotable"]:
                beyond.append(f"{name} (declared {limit_s:g} s)")
    if not limits:
        return ()
    if beyond:
        message = f"a promotion may lose more than declared of {', '.join(beyond)}: the component says how much and why"
        return (ConditionValue("WithinRpo", "False", "MayLoseMore", message),)
    if unknown:
        return (ConditionValue("WithinRpo", "Unknown", "NotHeard", f"no word of {', '.join(unknown)}"),)
    return (ConditionValue("WithinRpo", "True", "LosesAtMost", f"a promotion loses at most: {', '.join(limits)}"),)


def group_status(
    group: RedundancyGroup,
    policy: RedundancyPolicy | None,
    recorded: Recorded,
    links: Mapping[str, SiteLink],
    old: Mapping[str, Any],
    extra: Sequence[ConditionValue],
    now_s: float,
    wall_s: float,
) -> dict[str, Any]:
    """The whole status of a group; `old` is the present one, whose history and times go on."""
    sites = [group_site(group, site, recorded, links.get(site), now_s) for site in group.spec.site_names]
    epoch, counter, members = synchronous_set(group, links, now_s)
    history = list(old.get("history") or [])
    protected = protection(recorded, sites, members)
    status: dict[str, Any] = {
        "observedGeneration": group.metadata.generation or 0,
        "activeSite": recorded.active_site,
        "epoch": recorded.epoch,
        "rpo": policy.spec.failover.rpo if policy is not None else "",
        "ready": f"{sum(1 for site in sites if site['ready'])}/{len(sites)}",
        "lag": _lag(sites),
        "sites": sites,
        "history": history,
    }
    if epoch:
        status["synchronousSet"] = {"epoch": epoch, "counter": counter, "members": members}
    elif old.get("synchronousSet"):
        status["synchronousSet"] = old["synchronousSet"]
    status["voters"] = voters_status(group, recorded, links, old.get("voters") or {}, now_s)
    if policy is not None and protected.status == "True":
        prediction = predicted_rto(group, policy, history, able_standbys(recorded, sites, members))
        status["predictedRto"] = prediction.as_status()
        status["rto"] = prediction.text
    else:
        status["rto"] = "unprotected" if recorded.active_site else ""
    if old.get("lastOperation"):
        status["lastOperation"] = old["lastOperation"]
    generation = group.metadata.generation or 0
    status["conditions"] = conditions(
        [*extra, protected, *within_rpo(group, recorded, sites)], old.get("conditions") or [], generation, wall_s
    )
    return status


def _lag(sites: Sequence[Mapping[str, Any]]) -> str:
    seconds = [site["lagSeconds"] for site in sites if "lagSeconds" in site]
    if not seconds:
        return ""
    transactions = max(site.get("lagTransactions", 0) for site in sites)
    return f"{max(seconds):.1f} s" + (f", {transactions} tx" if transactions > 0 else "")


def site_status(
    name: str,
    generation: int,
    links: Mapping[str, SiteLink],
    extra: Sequence[ConditionValue],
    old: Mapping[str, Any],
    now_s: float,
    wall_s: float,
) -> dict[str, Any]:
    """The status of a Site: by observer, the manager included."""
    link = links.get(name)
    connected = link is not None and link.connected
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "connected": connected,
        "reachability": [
            {
                "observer": "manager",
                "reachable": connected and link is not None and link.fresh(now_s),
                "silentMs": 0 if link is None or connected else round((wall_s - link.since_wall_s) * 1000),
                "observedAt": timestamp(wall_s),
            }
        ],
    }
    for other, seen in sorted(links.items()):
        if other == name or seen.report is None or not seen.fresh(now_s):
            continue
        for peer in seen.report.peers:
            if peer.name == name:
                status["reachability"].append(
                    {
                        "observer": other,
                        "reachable": peer.reachable,
                        "silentMs": peer.silent_ms,
                        "observedAt": timestamp(seen.heard_wall_s),
                    }
                )
    if link is not None:
        status.update(
            connectedSince=timestamp(link.since_wall_s),
            controllerVersion=link.version,
            incarnation=link.incarnation,
        )
        if link.report is not None:
            status["stallMsMax"] = link.report.stall_ms_max
            status["drivers"] = [
                {
                    "driverClass": driver.driver_class,
                    "deployed": driver.deployed,
                    "reachable": driver.reachable,
                    "name": driver.name,
                    "version": driver.version,
                    "capabilities": list(driver.capabilities),
                    "message": driver.message,
                    "ready": driver.ready,
                    "reason": driver.reason,
                    "image": driver.image,
                }
                for driver in link.report.drivers
            ]
    values = [
        ConditionValue(
            "Connected",
            "True" if connected else "False",
            "StreamUp" if connected else "NoStream",
            "" if connected else "the site's controller is not connected to the manager",
        ),
        *extra,
    ]
    status["conditions"] = conditions(values, old.get("conditions") or [], generation, wall_s)
    return status

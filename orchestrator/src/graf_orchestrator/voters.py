"""Which voters decide about a group, for `kubectl get` and `graf status`: in force, wanted, what is between. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graf_orchestrator.state import report_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graf.api.recorded import Recorded
    from graf.crd.group import RedundancyGroup
    from graf.shell.proto import manager_pb2 as pb
    from graf_orchestrator.state import SiteLink

# Reasons of the active site's decision that tell how far a change of voters is.
OF_A_CHANGE = (
    "ActiveNotOnNewList",
    "VoterChangeWaits",
    "ChangeVoters",
    "ChangingVoters",
    "SettlingVoters",
    "RegainWaits",
)
NO_RECORD = "NoRecord"


def voters_status(
    group: RedundancyGroup, recorded: Recorded, links: Mapping[str, SiteLink], old: Mapping[str, Any], now_s: float
) -> dict[str, Any]:
    """The group's `status.voters`; `old` stays what it was while no site reports."""
    declared = group.spec.voters.version
    report = _best_report(group, recorded, links, now_s)
    if report is None:
        return {
            **old,
            "state": "Unknown",
            "declaredVersion": declared,
            "message": "no site reports which list is in force",
        }
    joint = report.HasField("proposed_voters")
    in_force = report.voters.version
    state = "Changing" if joint else "Waiting" if declared > in_force else "InForce"
    status: dict[str, Any] = {
        "state": state,
        "declaredVersion": declared,
        "inForce": _list(report.voters),
        "voters": [{"name": item.name, "state": item.state} for item in report.voter_states],
        "message": "; ".join([*_waits(group, report, state), *_abstains(report, declared)]),
    }
    if joint:
        status["proposed"] = _list(report.proposed_voters)
    return status


def _best_report(
    group: RedundancyGroup, recorded: Recorded, links: Mapping[str, SiteLink], now_s: float
) -> pb.GroupReport | None:
    """The holder's word if it is heard, else the newest list that a site's own voter has on disk."""
    found = []
    for site in group.spec.site_names:
        link = links.get(site)
        report = report_of(link, group.name) if link is not None and link.fresh(now_s) else None
        if report is not None and report.HasField("voters"):
            holds = report.role == "Active" and report.lease_left_ms >= 0
            found.append((holds, report.voters.version, report.epoch, site == recorded.active_site, report))
    return max(found, key=lambda item: item[:4])[-1] if found else None


def _list(voters: pb.VoterList) -> dict[str, Any]:
    return {
        "version": voters.version,
        "members": list(voters.members),
        "readmitted": list(voters.readmitted),
    }


def _waits(group: RedundancyGroup, report: pb.GroupReport, state: str) -> list[str]:
    """What keeps the declared list from being alone in force, and what to do."""
    if state == "InForce":
        return []
    told = [reason for reason in report.reasons if reason.split(":")[0] in OF_A_CHANGE]
    if state == "Changing":
        pair = f"v{report.voters.version} and v{report.proposed_voters.version}"
        both = f"majorities of {pair} are needed until it is settled"
        return [both, *told] if report.lease_left_ms >= 0 else [f"{both}; the next active site carries it on"]
    version = group.spec.voters.version
    if report.lease_left_ms < 0:
        return [f"v{version} waits: the active site changes the list, and none holds the lease now"]
    if not told:
        return [f"v{version} waits for the active site to begin"]
    codes = {reason.split(":")[0] for reason in told}
    if "ActiveNotOnNewList" in codes:
        return [*told, f"`graf switchover {group.name} --to SITE` with a site of v{version}"]
    if "VoterChangeWaits" in codes and any("not heard" in reason for reason in told):
        return [*told, f"start these voters, or declare a list without them as version {version + 1}"]
    return told


def _abstains(report: pb.GroupReport, declared: int) -> list[str]:
    """Voters of the list in force that have lost their record. A new voter has none before it is asked."""
    settled = set(report.voters.members)
    admitted = set(report.proposed_voters.readmitted)
    lost = [
        item.name
        for item in report.voter_states
        if item.state == NO_RECORD and item.name in settled and item.name not in admitted
    ]
    if not lost:
        return []
    names = ", ".join(lost)
    return [
        f"{names} abstains: it has lost its record; declare the list again as version "
        f"{max(declared, report.proposed_voters.version) + 1} with readmit: [{names}]"
    ]

"""Driver classes on their way to the sites, and what the sites tell of them. Pure."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from graf_orchestrator.status import ConditionValue, timestamp

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from graf.crd.driverclass import DriverClass
    from graf.shell.proto import manager_pb2 as pb
    from graf_orchestrator.memory import GroupMemory
    from graf_orchestrator.state import SiteLink

WAITS_FOR = "graf.dev/upgrade-waits-for"


def class_document(driver_class: DriverClass, waits_for_sites: str) -> bytes:
    """The class as it is sent to a site; with the sites that take an upgrade before it."""
    metadata: dict[str, Any] = {"name": driver_class.name, "generation": driver_class.metadata.generation or 0}
    if waits_for_sites:
        metadata["annotations"] = {WAITS_FOR: waits_for_sites}
    document = {
        "apiVersion": driver_class.api_version,
        "kind": driver_class.kind,
        "metadata": metadata,
        "spec": driver_class.spec.to_dict(),
    }
    return json.dumps(document, sort_keys=True).encode()


def waits_for(
    driver_class: DriverClass, site: str, groups: Mapping[str, GroupMemory], links: Mapping[str, SiteLink]
) -> str:
    """Standby sites that an automatic upgrade reaches before the active `site`, and has not reached yet.

    A site that is silent has not: unknown means hold. Sites that are active for different groups may wait for each
    other, in a ring too: there the one goes first whose name comes first. No ring is left: in one each would wait for
    a site that waits for it again, and so for a name before its own.
    """
    if driver_class.spec.upgrade != "Automatic":
        return ""
    needs: dict[str, set[str]] = {}
    for memory in groups.values():
        active = memory.recorded.active_site
        if _uses(driver_class.name, memory, active):
            others = {other for other in memory.compiled if other != active and _uses(driver_class.name, memory, other)}
            needs.setdefault(active, set()).update(others)
    waiting: set[str] = set()
    for other in needs.get(site, ()):
        turn_comes_later = site < other and site in _reached(needs, other)
        if not turn_comes_later:
            report = report_of(driver_class.name, links.get(other))
            if report is None or not _has(report, driver_class.metadata.generation or 0):
                waiting.add(other)
    return ", ".join(sorted(waiting))


def _reached(needs: Mapping[str, set[str]], site: str) -> set[str]:
    """Whom a site waits for, and whom those wait for, and so on."""
    reached: set[str] = set()
    open_sites = [site]
    while open_sites:
        more = needs.get(open_sites.pop(), set()) - reached
        reached |= more
        open_sites += more
    return reached


def _uses(name: str, memory: GroupMemory, site: str) -> bool:
    compiled = memory.compiled.get(site)
    return compiled is not None and any(component.driver_class == name for component in compiled.spec.components)


def _has(report: pb.DriverReport, generation: int) -> bool:
    same = report.revision == report.wanted_revision
    return bool(report.ready and same and report.generation >= generation)


def report_of(name: str, link: SiteLink | None) -> pb.DriverReport | None:
    """What a connected site tells of a class; None when it tells nothing."""
    if link is None or not link.connected or link.report is None:
        return None
    return next((item for item in link.report.drivers if item.driver_class == name), None)


def driver_class_status(
    name: str, generation: int, links: Mapping[str, SiteLink], now_s: float, selects_no_site_of: Collection[str] = ()
) -> tuple[dict[str, Any], ConditionValue]:
    """The part of a class' status that the sites tell, and the condition `Ready`.

    Args:
        name: of the class.
        generation: of its spec.
        links: what the sites told last.
        now_s: on the clock of `links`.
        selects_no_site_of: the sites that there are, when the class' siteSelector selects none of them.
    """
    sites = []
    for site, link in sorted(links.items()):
        if link.report is None:
            continue
        report = next((item for item in link.report.drivers if item.driver_class == name), None)
        if report is not None:
            sites.append(_site(site, link, report, generation, now_s))
    bad = [item for item in sites if not item["ready"]]
    status: dict[str, Any] = {"ready": f"{len(sites) - len(bad)}/{len(sites)}" if sites else "", "sites": sites}
    # What is broken is told before what only waits.
    told = sorted((item for item in sites if item["reason"]), key=lambda item: item["reason"].startswith("Upgrade"))
    first = told[0] if told else None
    status["reason"] = f"{first['site']}: {first['reason']}" if first else ""
    if not sites and selects_no_site_of:
        status["reason"] = "SelectsNoSite"
        text = (
            f"its siteSelector selects none of the sites {', '.join(sorted(selects_no_site_of))}; correct matchLabels, "
            f"or label a Site"
        )
        return status, ConditionValue("Ready", "False", "SelectsNoSite", text)
    if not sites:
        return status, ConditionValue("Ready", "Unknown", "NotUsed", "no site has told of it")
    if not bad:
        return status, ConditionValue("Ready", "True", "EverySite")
    silent = [item for item in bad if item["reason"] == "SiteSilent"]
    text = "; ".join(f"{item['site']}: {item['reason']}: {item['message']}" for item in bad)
    if len(silent) == len(bad):
        return status, ConditionValue("Ready", "Unknown", "SiteSilent", text)
    reason = next((item["reason"] for item in told if item["reason"] != "SiteSilent"), "NotReady")
    return status, ConditionValue("Ready", "False", reason, text)


def _site(site: str, link: SiteLink, report: pb.DriverReport, generation: int, now_s: float) -> dict[str, Any]:
    ready, reason, message = report.ready, report.reason, report.message
    if not link.fresh(now_s):
        ready, reason, message = False, "SiteSilent", "the site's controller is not heard; the driver is unknown"
    elif report.generation and report.generation < generation:
        ready, reason, message = False, "NotTaken", "the site has not taken this version of the class yet"
    return {
        "site": site,
        "ready": ready,
        "reason": reason,
        "message": message,
        "image": report.image,
        "revision": report.revision,
        "wantedRevision": report.wanted_revision,
        "version": report.version,
        "capabilities": list(report.capabilities),
        "observedAt": timestamp(link.heard_wall_s),
    }

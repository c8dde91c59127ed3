"""`graf drivers`: which driver serves which components at which site, and why one is not used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from graf.crd.driver_rules import driver_container
from graf.crd.driverclass import DriverClass, DriverClassSite
from graf.crd.group import RedundancyGroup
from graf.crd.site import DriverState, Site


@dataclass(frozen=True, slots=True)
class Row:
    """A class at a site; `site` is empty when no site has told of it.

    Attributes:
        driver: the name that the class asks for.
        says: the name that the running driver gives itself; empty when it has not answered.
        image: that runs, or is to run.
        command: of the driver's container; empty when it is the image's own.
        health: Ready, NotReady, Unknown (the site is not heard) or NotUsed.
        reason: why it is not ready, in CamelCase.
        used_by: `GROUP/COMPONENT` that have it at this site.
    """

    driver_class: str
    site: str
    driver: str
    says: str
    version: str
    image: str
    command: str
    capabilities: tuple[str, ...]
    required: tuple[str, ...]
    health: str
    reason: str
    message: str
    used_by: tuple[str, ...]


def rows(classes: Sequence[DriverClass], sites: Sequence[Site], groups: Sequence[RedundancyGroup]) -> list[Row]:
    """One for each class at each site that tells of it; one without a site for a class that no site tells of."""
    states = {(site.name, state.driver_class): state for site in sites if site.status for state in site.status.drivers}
    found = []
    for one in sorted(classes, key=lambda item: item.name):
        told = one.status.sites if one.status is not None else []
        for entry in sorted(told, key=lambda item: item.site):
            found.append(_row(one, entry, states.get((entry.site, one.name)), groups))
        if not told:
            found.append(_unused(one, groups))
    return found


def _row(one: DriverClass, entry: DriverClassSite, state: DriverState | None, groups: Sequence[RedundancyGroup]) -> Row:
    image, command = _program(one)
    health = "Ready" if entry.ready else "Unknown" if entry.reason == "SiteSilent" else "NotReady"
    return Row(
        driver_class=one.name,
        site=entry.site,
        driver=one.spec.driver,
        says=state.name if state is not None else "",
        version=entry.version,
        image=entry.image or image,
        command=command,
        capabilities=tuple(entry.capabilities),
        required=tuple(one.spec.required_capabilities),
        health=health,
        reason=entry.reason,
        message=entry.message,
        used_by=tuple(_users(one.name, entry.site, groups)),
    )


def _unused(one: DriverClass, groups: Sequence[RedundancyGroup]) -> Row:
    image, command = _program(one)
    reason, message = "NotUsed", "no site has told of it: no group uses it, or the sites are not connected"
    for condition in one.status.conditions if one.status is not None else ():
        if condition.type == "Supported" and condition.status != "True":
            reason, message = condition.reason, condition.message
    return Row(
        driver_class=one.name,
        site="",
        driver=one.spec.driver,
        says="",
        version="",
        image=image,
        command=command,
        capabilities=(),
        required=tuple(one.spec.required_capabilities),
        health="NotUsed",
        reason=reason,
        message=message,
        used_by=tuple(_users(one.name, "", groups)),
    )


def _program(one: DriverClass) -> tuple[str, str]:
    found = driver_container(one.spec.template)
    container: Any = found[1] if found is not None else {}
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    return str(container.get("image") or ""), " ".join(map(str, words))


def _users(name: str, site: str, groups: Sequence[RedundancyGroup]) -> Iterator[str]:
    """Components that have the class at the site, as the site tells; what it has not told, as they are declared."""
    for group in groups:
        seen = {
            component.name: component.driver_class
            for entry in (group.status.sites if group.status is not None else ())
            if entry.name == site
            for component in entry.components
            if component.driver_class
        }
        for component in group.spec.components:
            if seen.get(component.name, component.driver_class) == name and (not site or site in group.spec.site_names):
                yield f"{group.name}/{component.name}"


def as_json(found: Sequence[Row]) -> list[dict[str, Any]]:
    """The same as data."""
    names = {"driver_class": "driverClass", "used_by": "usedBy"}
    return [{names.get(name, name): value for name, value in asdict(row).items()} for row in found]


def render(found: Sequence[Row]) -> RenderableType:
    """A table; why something is not ready is in the notes."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("CLASS", "SITE", "DRIVER", "VERSION", "HEALTH", "USED BY", "CAPABILITIES", "IMAGE AND COMMAND"):
        table.add_column(column, overflow="fold")
    for row in found:
        colour = {"Ready": "green", "NotReady": "red", "Unknown": "yellow"}.get(row.health, "dim")
        table.add_row(
            escape(row.driver_class),
            escape(row.site or "-"),
            escape(row.driver),
            escape(row.version or "-"),
            f"[{colour}]{row.health}[/{colour}]",
            escape(", ".join(row.used_by) or "nobody"),
            escape(", ".join(row.capabilities) or "-"),
            escape(" ".join(filter(None, (row.image, row.command))) or "-"),
        )
    return table


def notes(found: Sequence[Row]) -> list[str]:
    """What is wrong or waits, a line for each row that says so."""
    return [
        f"{row.driver_class}{f' at {row.site}' if row.site else ''}: {row.reason}"
        + (f": {row.message}" if row.message else "")
        for row in found
        if row.reason
    ]

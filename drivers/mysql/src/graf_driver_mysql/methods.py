"""By which method an empty site gets the active's data. Pure.

The active's whole log is replayed where it is there and short: nothing else is as simple, and the two sites are equal
afterwards down to the log. Otherwise the data itself is copied: physically between servers of the same version,
logically (a dump) between others. What is missing is told, with what to do; it is never a reason to take something
else without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

MIB = 1 << 20
DUMP_UP_TO_MIB = 1024  # without being asked: a dump of more is slow enough that somebody should decide it


class Method(StrEnum):
    """The names are those of the parameter ``bootstrap``."""

    LOG = "log"
    CLONE = "clone"
    BACKUP = "backup"
    DUMP = "dump"


AUTO = "auto"
NAMES = (AUTO, *(str(method) for method in Method))
PHYSICAL = {"mariadb": Method.BACKUP, "mysql": Method.CLONE}
TITLE = {
    Method.LOG: "whole log",
    Method.CLONE: "clone",
    Method.BACKUP: "backup",
    Method.DUMP: "dump",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """What the active has, and what it runs."""

    version: str
    log_bytes: int
    log_complete: bool  # from the first transaction on
    data_bytes: int | None = None  # None: not known
    written: bool = True  # it has any transaction
    refuses: Mapping[Method, str] = field(default_factory=dict)  # why a method cannot be served there


@dataclass(frozen=True, slots=True)
class Choice:
    """The method and why; None where none can be used."""

    method: Method | None
    why: str


def series(version: str) -> str:
    """What two servers of MariaDB share whose files fit: ``10.11`` of ``10.11.19-MariaDB``."""
    return ".".join(version.split("-")[0].split(".")[:2])


def versions_differ(product: str, theirs: str, own: str) -> str:
    """Why a physical copy does not fit, "" when it does: a clone needs the same version, a backup the same series."""
    if product == "mysql" and theirs != own:
        return f"the active runs {theirs} and this site {own}, which must be the same for a clone"
    if product == "mariadb" and series(theirs) != series(own):
        return f"the active runs {theirs} and this site {own}, of which a backup needs the first two numbers equal"
    return ""


def needs_offer(offer: Offer, asked: str, above_mib: int) -> bool:
    """Whether the choice depends on what the active's driver can serve; its log and version are asked by SQL."""
    if asked == AUTO:
        return not (offer.log_complete and offer.log_bytes <= above_mib * MIB)
    return asked != Method.LOG


def choose(
    offer: Offer, own_version: str, *, product: str, asked: str, cannot: Mapping[Method, str], above_mib: int
) -> Choice:
    """The rule.

    Args:
        offer: of the active site.
        own_version: of this site's server.
        product: ``mariadb`` or ``mysql``.
        asked: the parameter ``bootstrap``.
        cannot: why a method cannot be used at this site, e.g. a program that is missing.
        above_mib: a longer log is not replayed where the data can be copied.
    """
    if not offer.written:
        return Choice(Method.LOG, "whole log: nothing was written at the active yet")
    physical = PHYSICAL[product]
    differ = versions_differ(product, offer.version, own_version)
    why_not = {method: cannot.get(method) or offer.refuses.get(method, "") for method in Method}
    why_not[physical] = cannot.get(physical) or differ or offer.refuses.get(physical, "")
    if not offer.log_complete:
        why_not[Method.LOG] = why_not[Method.LOG] or "the active's log is without its beginning"
    for method in set(PHYSICAL.values()) - {physical}:
        why_not[method] = f"{method} is not {product}'s"
    if asked != AUTO:
        method = Method(asked)
        if why_not[method]:
            return Choice(None, f"{TITLE[method]} is asked for (bootstrap: {asked}) and impossible: {why_not[method]}")
        return Choice(method, f"{TITLE[method]}: asked for (bootstrap: {asked})")
    return _automatic(offer, physical, why_not, above_mib, differ=bool(differ))


def _automatic(
    offer: Offer, physical: Method, why_not: Mapping[Method, str], above_mib: int, *, differ: bool
) -> Choice:
    size = f"the active's log has {offer.log_bytes / MIB:.1f} MiB"
    if not offer.log_complete:
        size += ", without its beginning"
    if not why_not[Method.LOG] and offer.log_bytes <= above_mib * MIB:
        return Choice(Method.LOG, f"whole log: {size}, at most {above_mib} MiB")
    if not why_not[physical]:
        return Choice(physical, f"{physical}: {size}")
    refused = [f"no {physical}: {why_not[physical]}"]
    small = offer.data_bytes is not None and offer.data_bytes <= DUMP_UP_TO_MIB * MIB
    if not why_not[Method.DUMP] and (small or differ):
        data = "unknown size" if offer.data_bytes is None else f"{offer.data_bytes / MIB:.1f} MiB"
        return Choice(Method.DUMP, f"dump: {refused[0]}; the data has {data}, {size}")
    refused.append(
        f"no dump: {why_not[Method.DUMP]}"
        if why_not[Method.DUMP]
        else f"no dump: the data has more than {DUMP_UP_TO_MIB} MiB; set bootstrap: dump to have it all the same"
    )
    if not why_not[Method.LOG]:
        return Choice(Method.LOG, f"whole log: {'; '.join(refused)}; {size}")
    return Choice(None, f"the data cannot be got: {'; '.join(refused)}; no whole log: {why_not[Method.LOG]}")

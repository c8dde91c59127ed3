"""Parameters of mode ``bgp``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Final

from graf_driver_network.fields import Address, Reader, family_of

MAX_AS: Final = 4_294_967_294
MAX_U32: Final = 4_294_967_295
KNOWN: Final = frozenset(
    {
        "localAddress",
        "localAs",
        "neighbours",
        "routerId",
        "bfd",
        "bfdTimers",
        "communities",
        "localPreference",
        "drain",
    }
)
_PREFERENCE: Final = re.compile(r"epoch|\d{1,10}")
_MAX_PATH: Final = 4000
_NEIGHBOUR: Final = frozenset({"address", "as", "passwordFile", "multihop", "ttlSecurity"})
_COMMUNITY: Final = re.compile(r"\d{1,10}(:\d{1,10}){1,2}")


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An edge router: its end of a BGP session.

    Attributes:
        password_file: of a mounted Secret; the password itself is read when the session is configured.
        multihop: how many networks the way to the router has at most; None leaves it to BIRD (one, for eBGP).
        ttl_security: the same number, and packets from farther away are ignored (RFC 5082).
        index: its place in the parameters, for people.
    """

    address: Address
    asn: int
    password_file: str | None = None
    multihop: int | None = None
    ttl_security: int | None = None
    index: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Bfd:
    """How fast BFD (RFC 5880) finds a silent neighbour: after ``multiplier`` intervals."""

    interval_ms: int = 50
    multiplier: int = 3


@dataclass(frozen=True, slots=True)
class Drain:
    """How a route is given up in good order: for how long it is kept as the last choice, and how long its path is."""

    linger_ms: int = 1000
    prepend: int = 3


@dataclass(frozen=True, slots=True)
class Bgp:
    """One site's end of BGP. A ``local_preference`` of -1 stands for the epoch itself."""

    local_address: Address
    local_as: int
    neighbours: tuple[Neighbour, ...]
    router_id: IPv4Address
    bfd: Bfd | None = None
    communities: tuple[tuple[int, ...], ...] = ()
    local_preference: int | None = None
    drain: Drain | None = None


def read_bgp(raw: Mapping[str, object], service: Address | None, reader: Reader) -> Bgp | None:
    """Reads what belongs to this mode; None when there is a problem."""
    before = len(reader.problems)
    local = reader.address(raw.get("localAddress"), "localAddress", "this site's own address, e.g. 198.18.0.20")
    local_as = reader.number(raw.get("localAs"), "localAs", 1, MAX_AS, "the site's AS number, e.g. 65010")
    internal = "localPreference" in raw
    neighbours = _neighbours(raw.get("neighbours"), local, local_as, internal, reader)
    for neighbour in neighbours:
        if neighbour.address == service:
            reader.problem(
                f"neighbours[{neighbour.index}].address",
                "is the service address, which moves between the sites",
                "the router's own address",
            )
    router_id = _router_id(raw, local, reader)
    if service is not None and local is not None:
        if service == local:
            reader.problem(
                "localAddress",
                "is the service address itself, which the gate shuts: no BGP session could come up",
                "the site's own address, which does not move",
            )
        elif service.version != local.version:
            reader.problem(
                "localAddress",
                f"{local} is {family_of(local)}, the service address is {family_of(service)}: a route needs a next hop "
                "of its own family",
                "an address of the service address' family; two components where both are served",
            )
    bfd = _bfd(raw, reader)
    communities = read_communities(raw.get("communities", []), "communities", reader)
    preference = read_local_preference(raw, "localPreference", reader)
    if internal and not any(neighbour.asn == local_as for neighbour in neighbours):
        reader.problem(
            "localPreference", "is not sent to a neighbour in another AS", "leave it out, or name an iBGP neighbour"
        )
    drain = _drain(raw["drain"], reader) if "drain" in raw else None
    if len(reader.problems) > before or local is None or router_id is None:
        return None
    return Bgp(local, local_as, neighbours, router_id, bfd, communities, preference, drain)


def read_communities(value: object, field: str, reader: Reader) -> tuple[tuple[int, ...], ...]:
    """Standard (``a:b``, RFC 1997) and large (``a:b:c``, RFC 8092) communities."""
    fix = "a list of texts: 65010:100 (standard) or 65010:1:2 (large)"
    found: set[tuple[int, ...]] = set()
    for index, entry in enumerate(reader.sequence(value, field, fix)):
        text = reader.text(entry, f"{field}[{index}]", _COMMUNITY, fix)
        if not text:
            continue
        parts = tuple(int(part) for part in text.split(":"))
        if max(parts) > (65535 if len(parts) == 2 else MAX_U32):
            reader.problem(f"{field}[{index}]", f"{text} does not fit into its kind of community", fix)
        found.add(parts)
    return tuple(sorted(found))


def _router_id(raw: Mapping[str, object], local: Address | None, reader: Reader) -> IPv4Address | None:
    fix = "an IPv4 address of this site"
    if "routerId" not in raw:
        if local is not None and not isinstance(local, IPv4Address):
            reader.problem("routerId", "is missing, and localAddress is IPv6", fix)
        return local if isinstance(local, IPv4Address) else None
    value = raw["routerId"]
    try:
        found = IPv4Address(value if isinstance(value, str) else "")
    except ValueError:
        reader.problem("routerId", f"{value!r} is no IPv4 address", fix)
        return None
    if found == IPv4Address(0):
        reader.problem("routerId", "0.0.0.0 is no BGP identifier", "leave it out to use localAddress")
    return found


def _bfd(raw: Mapping[str, object], reader: Reader) -> Bfd | None:
    wanted = reader.flag(raw.get("bfd", False), "bfd")
    if "bfdTimers" not in raw:
        return Bfd() if wanted else None
    if not wanted:
        reader.problem("bfdTimers", "BFD is not on", "bfd: true beside it")
    known = frozenset({"intervalMs", "multiplier"})
    timers = reader.mapping(raw["bfdTimers"], "bfdTimers", known, "{intervalMs: 50, multiplier: 3}")
    return Bfd(
        reader.number(timers.get("intervalMs"), "bfdTimers.intervalMs", 10, 10_000, "milliseconds, e.g. 50", 50),
        reader.number(timers.get("multiplier"), "bfdTimers.multiplier", 2, 50, "a number, e.g. 3", 3),
    )


def read_local_preference(raw: Mapping[str, object], field: str, reader: Reader) -> int | None:
    """The preference of an iBGP route: ``epoch``, which is -1 here, or a number as text."""
    value = raw.get("localPreference")
    fix = 'epoch, or a number in quotes that is the same at every site, e.g. "200"'
    if value is None:
        return None
    text = reader.text(value, field, _PREFERENCE, fix)
    if text in ("", "epoch"):
        return -1
    return reader.number(int(text), field, 0, MAX_U32, fix)


def _drain(value: object, reader: Reader) -> Drain:
    fields = reader.mapping(value, "drain", frozenset({"lingerMs", "prepend"}), "{lingerMs: 1000, prepend: 3}")
    return Drain(
        reader.number(fields.get("lingerMs"), "drain.lingerMs", 0, 60_000, "milliseconds", 1000),
        reader.number(fields.get("prepend"), "drain.prepend", 0, 10, "how often the own AS is added", 3),
    )


def _neighbours(
    value: object, local: Address | None, local_as: int, internal: bool, reader: Reader
) -> tuple[Neighbour, ...]:
    example = "a list of edge routers, e.g. [{address: 198.18.0.40, as: 65000}]"
    if not value:
        reader.problem("neighbours", "is missing or empty", example)
        return ()
    found: list[Neighbour] = []
    for index, entry in enumerate(reader.sequence(value, "neighbours", example)):
        where = f"neighbours[{index}]"
        if not isinstance(entry, Mapping):
            # What stands there is not shown: it may be a router's line with its password.
            reader.problem(where, "is no object: it lacks address and as", "{address: 198.18.0.40, as: 65000}")
            continue
        reader.unknown(entry, _NEIGHBOUR, f"{where}.")
        address = reader.address(entry.get("address"), f"{where}.address", "the router's address")
        asn = reader.number(entry.get("as"), f"{where}.as", 1, MAX_AS, "the router's AS number, e.g. 65000")
        password_file = _password_file(entry, where, reader)
        multihop, ttl_security = _hops(entry, where, reader)
        if address is None:
            continue
        if address == local:
            reader.problem(f"{where}.address", "is localAddress itself", "the router's address")
        elif local is not None and address.version != local.version:
            reader.problem(
                f"{where}.address", f"is {family_of(address)}, localAddress is not", "addresses of one family"
            )
        if asn == local_as and not internal:
            reader.problem(
                f"{where}.as",
                f"{asn} is localAs: this would be iBGP, which the edge does not compare by MED as needed",
                "an edge router in another AS, or localPreference: epoch",
            )
        if any(address == known.address for known in found):
            reader.problem(f"{where}.address", f"{address} is named twice", "remove one of them")
            continue
        found.append(Neighbour(address, asn, password_file, multihop, ttl_security, index))
    return tuple(sorted(found, key=lambda known: (known.address.version, int(known.address), known.asn)))


def _password_file(entry: Mapping[str, object], where: str, reader: Reader) -> str | None:
    value = entry.get("passwordFile")
    if "passwordFile" not in entry:
        return None
    if isinstance(value, str) and value.startswith("/") and "\0" not in value and len(value) <= _MAX_PATH:
        return value
    # The value is not shown: it may be the password itself.
    reader.problem(
        f"{where}.passwordFile",
        "is no path from the root",
        "the file of a mounted Secret, e.g. /etc/graf/bgp/edge-a; the password itself stays in it",
    )
    return None


def _hops(entry: Mapping[str, object], where: str, reader: Reader) -> tuple[int | None, int | None]:
    """``multihop`` and ``ttlSecurity``: BIRD would take both, with one number that means two things."""
    multihop = ttl_security = None
    if "multihop" in entry:
        fix = "the number of networks to the router: 2 with one router between"
        multihop = reader.number(entry["multihop"], f"{where}.multihop", 1, 255, fix)
    if "ttlSecurity" in entry:
        fix = "the number of networks to the router: 1 on one link, 2 with one router between"
        ttl_security = reader.number(entry["ttlSecurity"], f"{where}.ttlSecurity", 1, 254, fix)
    if multihop is not None and ttl_security is not None:
        reader.problem(
            f"{where}.ttlSecurity",
            "and multihop exclude each other",
            "ttlSecurity alone, with the number of networks, where the router checks the TTL; else multihop alone",
        )
    return multihop, ttl_security

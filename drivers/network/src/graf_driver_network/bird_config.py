"""BIRD's configuration as text. Pure: what is announced goes in, the file's content comes out.

The announcement is a static route with its attributes beside it, and no BGP protocol names a route or an epoch. So a
new role changes only the static protocol, and BIRD's ``configure`` leaves every session as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from graf_driver_network.fields import Address, prefix_of
from graf_driver_network.parameters_bgp import Bfd, Bgp, Neighbour

_MAX_SYMBOL: Final = 63
MAX_MED: Final = 4_294_967_295
GRACEFUL_SHUTDOWN: Final = (65535, 0)
"""The community that asks a router to take any other route first (RFC 8326)."""
_STATIC: Final = {4: "service", 6: "service6"}


@dataclass(frozen=True, slots=True)
class Session:
    """One BGP session of this site: the same pair of addresses is one session, however many components use it."""

    local_address: Address
    local_as: int
    neighbour: Neighbour
    bfd: Bfd | None

    @property
    def name(self) -> str:
        """The protocol's name in BIRD: made of both addresses, so it is the same after each restart."""
        name = f"edge_{_symbol(self.local_address)}_to_{_symbol(self.neighbour.address)}"
        # BIRD takes 64 characters; two long IPv6 addresses have more.
        return name if len(name) <= _MAX_SYMBOL else f"edge_{hashlib.sha256(name.encode()).hexdigest()[:32]}"

    @property
    def order(self) -> tuple[str, str]:
        """The same sessions, in whatever order, are written the same."""
        return self.name, self.wish

    @property
    def wish(self) -> str:
        """What the session shall be, for people."""
        far = self.neighbour
        bfd = "no BFD" if self.bfd is None else f"BFD {self.bfd.interval_ms} ms x {self.bfd.multiplier}"
        password = "without a password" if far.password_file is None else f"passwordFile {far.password_file}"
        hops = f"multihop {far.multihop}, " if far.multihop else ""
        hops += f"ttlSecurity {far.ttl_security}, " if far.ttl_security else ""
        return f"AS {self.local_as} to AS {far.asn}, {bfd}, {hops}{password}"


@dataclass(frozen=True, slots=True)
class Route:
    """A service address that is announced, with the epoch that it is announced for.

    Attributes:
        drained_by: the route is on its way out and the last choice; the own AS is added to its path so often.
        local_preference: for iBGP neighbours; -1 stands for the epoch.
    """

    address: Address
    epoch: int
    local_as: int = 0
    communities: tuple[tuple[int, ...], ...] = ()
    local_preference: int | None = None
    drained_by: int | None = None

    @property
    def med(self) -> int:
        """The newer epoch has the lower MED, and the lower MED wins (RFC 4271, 9.1.2.2 c)."""
        return med_of(self.epoch) if self.drained_by is None else MAX_MED - 1

    @property
    def attributes(self) -> str:
        """What BIRD sets when the route is made."""
        parts = [f"bgp_med = {self.med};"]
        if self.local_preference is not None:
            preferred = self.epoch if self.local_preference == -1 else self.local_preference
            parts.append(f"bgp_local_pref = {0 if self.drained_by is not None else preferred};")
        drained = () if self.drained_by is None else (GRACEFUL_SHUTDOWN,)
        for community in sorted({*self.communities, *drained}):
            kind = "bgp_community" if len(community) == 2 else "bgp_large_community"
            parts.append(f"{kind}.add(({', '.join(map(str, community))}));")
        parts += [f"bgp_path.prepend({self.local_as});"] * (self.drained_by or 0)
        return " ".join(parts)

    @property
    def order(self) -> tuple[int, int, int]:
        """The same routes, in whatever order, are written the same."""
        return self.address.version, int(self.address), self.epoch


def med_of(epoch: int) -> int:
    """The MED that stands for ``epoch``.

    Raises:
        ValueError: the epoch does not fit: two of them would have the same preference.
    """
    if not 0 <= epoch <= MAX_MED:
        raise ValueError(f"epoch {epoch} has no MED of its own: only 0 to {MAX_MED} have")
    return MAX_MED - epoch


def sessions_of(bgp: Bgp) -> tuple[Session, ...]:
    """The sessions that a component needs."""
    return tuple(Session(bgp.local_address, bgp.local_as, neighbour, bgp.bfd) for neighbour in bgp.neighbours)


def conflicts(sessions: Iterable[Session]) -> list[str]:
    """Sessions between the same two addresses that differ otherwise, as sentences. One process cannot hold both."""
    seen: dict[str, Session] = {}
    found: list[str] = []
    for session in sorted(set(sessions), key=lambda known: known.order):
        other = seen.setdefault(session.name, session)
        if other != session:
            found.append(
                f"{session.local_address} to {session.neighbour.address} is wanted as {session.wish}, and as "
                f"{other.wish}, by two components of this site"
            )
    return found


def render(
    router_id: IPv4Address,
    sessions: Iterable[Session],
    routes: Iterable[Route],
    passwords: Mapping[str, str] | None = None,
) -> str:
    """The whole file. The same input, in whatever order, gives the same text.

    Args:
        router_id: of this site.
        sessions: those wanted. One that wants a password and has none in ``passwords`` is left out: it must not come
            up without.
        routes: what is announced.
        passwords: by the session's name, each one checked to fit into BIRD's quotes.
    """
    known_passwords = passwords or {}
    ordered = sorted(
        {s for s in sessions if s.neighbour.password_file is None or s.name in known_passwords},
        key=lambda known: known.order,
    )
    wanted = sorted(set(routes), key=lambda known: known.order)
    versions = {4} | {session.local_address.version for session in ordered} | {r.address.version for r in wanted}
    lines = [
        "# Written by graf-driver-network; what is changed here is lost with the next role.",
        "log stderr { remote, warning, error, auth, fatal, bug };",
        f"router id {router_id};",
        "protocol device { }",
    ]
    for version in sorted(versions):
        lines += [
            f"protocol static {_STATIC[version]} {{",
            f"  ipv{version};",
            *(
                f"  route {prefix_of(route.address)} blackhole {{ {route.attributes} }};"
                for route in wanted
                if route.address.version == version
            ),
            "}",
        ]
    if any(session.bfd for session in ordered):
        times = "{ interval 50 ms; multiplier 3; };"
        lines.append(f'protocol bfd {{ interface "*" {times} multihop {times} }}')
    for session in ordered:
        version = session.local_address.version
        lines += [
            f"protocol bgp {session.name} {{",
            f"  local {session.local_address} as {session.local_as};",
            f"  neighbor {session.neighbour.address} as {session.neighbour.asn};",
            "  strict bind yes;",
            # 3 s is the least that BGP allows (RFC 4271, 4.2). The waits: BIRD's own would be 5 s and 60 to 300 s.
            "  hold time 3;",
            "  keepalive time 1;",
            "  connect delay time 0;",
            "  connect retry time 1;",
            "  error wait time 1, 1;",
            *_hops_lines(session.neighbour),
            *_password_lines(session, known_passwords),
            *_bfd_lines(session.bfd),
            # BIRD passes a MED on to another AS only when the export filter sets it; a static route's own goes lost as
            # soon as it has communities too (2.0.12). The text is the same for every route and epoch.
            f"  ipv{version} {{",
            "    import none;",
            f'    export filter {{ if proto = "{_STATIC[version]}" then {{ bgp_med = bgp_med; accept; }} reject; }};',
            "    next hop self;",
            "  };",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _bfd_lines(bfd: Bfd | None) -> list[str]:
    if bfd is None:
        return []
    if bfd == Bfd():
        return ["  bfd on;"]
    return [f"  bfd {{ interval {bfd.interval_ms} ms; multiplier {bfd.multiplier}; }};"]


def _hops_lines(neighbour: Neighbour) -> list[str]:
    hops = neighbour.ttl_security or neighbour.multihop
    if hops is None:
        return []
    # Without "direct" an iBGP session would be one of 64 hops, and the TTL would be checked for that.
    where = "  direct;" if neighbour.ttl_security == 1 else f"  multihop {hops};"
    return [where, "  ttl security on;"] if neighbour.ttl_security else [where]


def _password_lines(session: Session, passwords: Mapping[str, str]) -> list[str]:
    return [] if session.neighbour.password_file is None else [f'  password "{passwords[session.name]}";']


def _symbol(address: Address) -> str:
    return str(address).replace(".", "_").replace(":", "_")

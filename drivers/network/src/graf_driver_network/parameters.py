"""The component's parameters: read once, checked completely, frozen. Pure.

What every mode has is here; what belongs to one mode is in ``parameters_bgp``, ``parameters_vip``,
``parameters_dns`` and ``parameters_objects``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from graf_driver_sdk.types import FieldProblem

from graf_driver_network import parameters_bgp, parameters_dns, parameters_objects, parameters_vip
from graf_driver_network.fields import Address, Reader
from graf_driver_network.parameters_bgp import Bgp
from graf_driver_network.parameters_dns import Dns
from graf_driver_network.parameters_objects import Objects
from graf_driver_network.parameters_vip import Vip


class Mode(enum.StrEnum):
    """How users learn where the service address is."""

    BGP = "bgp"
    VIP = "vip"
    DNS = "dns"
    METALLB = "metallb"
    CILIUM = "cilium"


_COMMON: Final = frozenset({"mode", "serviceAddress", "ports", "interface", "convergenceMs"})
_KNOWN: Final = {
    Mode.BGP: _COMMON | parameters_bgp.KNOWN,
    Mode.VIP: _COMMON | {"vip"},
    Mode.DNS: _COMMON - {"convergenceMs"} | {"dns"},
    Mode.METALLB: _COMMON - {"interface"} | {"metallb"},
    Mode.CILIUM: _COMMON - {"interface"} | {"cilium"},
}


@dataclass(frozen=True, slots=True)
class Parameters:
    """One site's parameters of one component; documented in ``docs/reference/drivers/network.md``."""

    mode: Mode
    service_address: Address
    announcement: Bgp | Vip | Dns | Objects
    ports: tuple[int, ...] = ()
    interface: str = "lo"
    convergence_ms: int | None = None

    @property
    def bgp(self) -> Bgp | None:
        """What belongs to mode ``bgp``; None in another."""
        return self.announcement if isinstance(self.announcement, Bgp) else None


def parse(raw: Mapping[str, object]) -> tuple[Parameters | None, list[FieldProblem]]:
    """Reads parameters as they come out of a protobuf ``Struct`` (every number a float).

    Returns:
        The parameters and no problem, or None and every problem that there is.
    """
    reader = Reader()
    try:
        mode = Mode(str(raw.get("mode", "bgp")))
    except ValueError:
        reader.problem("mode", f"{raw['mode']!r} is no mode", f"one of {', '.join(Mode)}")
        mode = Mode.BGP  # the default's other problems are told at the same time
    reader.unknown(raw, _KNOWN[mode])
    service = reader.service_address(raw.get("serviceAddress"))
    announcement = _announcement(mode, raw, service, reader)
    ports = _ports(raw.get("ports", []), reader)
    if mode is Mode.VIP:
        interface = reader.interface(raw.get("interface"), "interface", "the link of the users, e.g. eth0")
        if interface == "lo":
            reader.problem("interface", "nobody asks for addresses on lo", "the link of the users, e.g. eth0")
    else:
        interface = reader.interface(raw.get("interface", "lo"), "interface", "e.g. lo, the default")
    convergence = None
    if "convergenceMs" in raw:
        convergence = reader.number(raw["convergenceMs"], "convergenceMs", 0, 600_000, "milliseconds, as measured")
    if reader.problems or service is None or announcement is None:
        return None, reader.problems
    return Parameters(mode, service, announcement, ports, interface, convergence), []


def _announcement(
    mode: Mode, raw: Mapping[str, object], service: Address | None, reader: Reader
) -> Bgp | Vip | Dns | Objects | None:
    if mode is Mode.BGP:
        return parameters_bgp.read_bgp(raw, service, reader)
    if mode is Mode.VIP:
        return parameters_vip.read_vip(raw.get("vip", {}), reader)
    if mode is Mode.DNS:
        return parameters_dns.read_dns(raw.get("dns"), service, reader)
    return parameters_objects.read_objects(mode.value, raw.get(mode.value), reader)


def _ports(value: object, reader: Reader) -> tuple[int, ...]:
    found = {
        reader.number(port, f"ports[{i}]", 1, 65535, "a TCP port")
        for i, port in enumerate(reader.sequence(value, "ports", "a list of port numbers, e.g. [3306]"))
    }
    return tuple(sorted(found))

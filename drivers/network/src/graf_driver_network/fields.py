"""Reads single fields of the parameters and collects every problem. Pure; knows nothing of any mode."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_address,
    ip_network,
)
from typing import Final

from graf_driver_sdk.types import FieldProblem

Address = IPv4Address | IPv6Address

_INTERFACE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,15}")
_LABEL: Final = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DOMAIN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_KUBERNETES: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class Reader:
    """Reads parameters as they come out of a protobuf ``Struct`` (every number a float)."""

    def __init__(self) -> None:
        self.problems: list[FieldProblem] = []

    def problem(self, field: str, cause: str, fix: str) -> None:
        """Notes what is wrong with a field."""
        self.problems.append(FieldProblem(field, cause, fix))

    def unknown(self, raw: Mapping[str, object], known: frozenset[str], prefix: str = "") -> None:
        """Notes every parameter that does not exist."""
        for name in sorted(set(raw) - known):
            self.problem(f"{prefix}{name}", "no such parameter", f"remove it; known are {', '.join(sorted(known))}")

    def mapping(self, value: object, field: str, known: frozenset[str], fix: str) -> Mapping[str, object]:
        """An object with these fields; an empty one when it is none."""
        if not isinstance(value, Mapping):
            self.problem(field, "is missing" if value is None else f"{value!r} is no object", fix)
            return {}
        self.unknown(value, known, f"{field}.")
        return value

    def sequence(self, value: object, field: str, fix: str) -> Sequence[object]:
        """A list; an empty one when it is none."""
        if isinstance(value, str) or not isinstance(value, Sequence):
            self.problem(field, f"{value!r} is no list", fix)
            return ()
        return value

    def number(self, value: object, field: str, low: int, high: int, fix: str, default: int | None = None) -> int:
        """A whole number from ``low`` to ``high``; ``low`` when there is a problem."""
        if value is None:
            if default is not None:
                return default
            self.problem(field, "is missing", fix)
        elif isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
            self.problem(field, f"{value!r} is no whole number", fix)
        elif not low <= value <= high:
            self.problem(field, f"{int(value)} is outside {low} to {high}", fix)
        else:
            return int(value)
        return low

    def flag(self, value: object, field: str) -> bool:
        """True or false."""
        if not isinstance(value, bool):
            self.problem(field, f"{value!r} is neither true nor false", "true or false")
            return False
        return value

    def text(self, value: object, field: str, pattern: re.Pattern[str], fix: str) -> str:
        """A text of this shape; empty when there is a problem."""
        if value is None or value == "":
            self.problem(field, "is missing", fix)
        elif not isinstance(value, str):
            self.problem(field, f"{value!r} is no text", fix)
        elif not pattern.fullmatch(value):
            self.problem(field, f"{value!r} cannot be used", fix)
        else:
            return value
        return ""

    def interface(self, value: object, field: str, fix: str) -> str:
        """An interface's name."""
        if not isinstance(value, str) or not _INTERFACE.fullmatch(value):
            self.problem(field, f"{value!r} is no interface name" if value else "is missing", fix)
            return ""
        return value

    def domain(self, value: object, field: str, fix: str) -> str:
        """A domain name, with its last dot and in lower case."""
        name = self.text(value, field, _DOMAIN, fix).lower()
        return name if not name or name.endswith(".") else f"{name}."

    def kubernetes_name(self, value: object, field: str, fix: str) -> str:
        """The name of a Kubernetes object."""
        return self.text(value, field, _KUBERNETES, fix)

    def address(self, value: object, field: str, fix: str) -> Address | None:
        """An address of either family that a host can have."""
        if value is None or value == "":
            self.problem(field, "is missing", fix)
            return None
        try:
            if not isinstance(value, str):
                raise AddressValueError(f"{value!r} is no text")
            # The class names the cause better than ip_address() does.
            found: Address = IPv6Address(value) if ":" in value else IPv4Address(value)
        except AddressValueError as error:
            self.problem(field, str(error), fix)
            return None
        if isinstance(found, IPv6Address) and found.scope_id:
            self.problem(field, f"{value!r} has a scope", fix)
            return None
        return self._usable(found, field, fix)

    def service_address(self, value: object) -> Address | None:
        """One address, written with its whole length."""
        field, example = "serviceAddress", "one address with its length, e.g. 198.19.255.1/32 or 2001:db8::1/128"
        if value is None or value == "":
            self.problem(field, "is missing", example)
            return None
        if not isinstance(value, str):
            self.problem(field, f"{value!r} is no text", example)
            return None
        try:
            network: IPv4Network | IPv6Network = ip_network(value, strict=True)
        except (ValueError, AddressValueError, NetmaskValueError) as error:
            self.problem(field, f"{value!r}: {error}", example)
            return None
        if network.prefixlen != network.max_prefixlen or "/" not in value:
            self.problem(field, f"{value!r} is not one address written with its length", example)
            return None
        return self._usable(ip_address(network.network_address), field, example)

    def _usable(self, value: Address, field: str, fix: str) -> Address | None:
        kinds = (
            (value.is_multicast, "a multicast address"),
            (value.is_loopback, "a loopback address"),
            (value.is_unspecified, "the unspecified address"),
            (value == IPv4Address("255.255.255.255"), "the broadcast address"),
            (isinstance(value, IPv6Address) and value.is_link_local, "a link-local IPv6 address, which needs a scope"),
            (isinstance(value, IPv6Address) and value.ipv4_mapped is not None, "an IPv4 address written as IPv6"),
        )
        for wrong, kind in kinds:
            if wrong:
                self.problem(field, f"{value} is {kind}", fix)
                return None
        return value


def family_of(address: Address) -> str:
    """The family's name, for people."""
    return f"IPv{address.version}"


def prefix_of(address: Address) -> str:
    """The address as a route of its own."""
    return f"{address}/{address.max_prefixlen}"

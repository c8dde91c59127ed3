"""The service address on an interface of the site, by rtnetlink (rtnetlink(7)); no program is started.

Where a route, a name or the cluster tells users the way, the address is held at every site in every role: what
decides who serves it are the gate and the announcement. An address that came and went with the role would send a
standby's own clients to the active through the WAN without anybody having asked for it, and would cost its server its
bound sockets. In mode ``vip`` the address *is* the announcement: there it comes and goes, and has a lifetime.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final

from graf_driver_network.fields import Address

_RTM_NEWADDR: Final = 20
_RTM_DELADDR: Final = 21
_RTM_GETADDR: Final = 22
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP: Final = 0x300
_NLM_F_REPLACE: Final = 0x100
_NLM_F_EXCL: Final = 0x200
_NLM_F_CREATE: Final = 0x400
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_IFA_CACHEINFO: Final = 6
_IFA_F_SECONDARY: Final = 0x01
_IFA_F_NODAD: Final = 0x02
_RT_SCOPE_UNIVERSE: Final = 0
_RT_SCOPE_LINK: Final = 253
_RT_SCOPE_HOST: Final = 254
_FOREVER: Final = 0xFFFFFFFF


class AddressError(Exception):
    """The address could not be put on, or taken off, the interface."""


def ensure_address(address: Address, interface: str) -> None:
    """Holds ``address`` (a prefix of its own) on ``interface``; nothing changes when it is there already.

    Raises:
        AddressError: no such interface, or not permitted.
    """
    flags = _NLM_F_CREATE | _NLM_F_EXCL
    _request(_RTM_NEWADDR, flags, address, interface, _RT_SCOPE_HOST, _FOREVER, tolerated=errno.EEXIST)


def lend_address(address: Address, interface: str, lifetime_s: int) -> None:
    """Holds ``address`` on a link for ``lifetime_s`` from now on; then the kernel takes it away, whoever still runs.

    Raises:
        AddressError: no such interface, or not permitted.
    """
    flags = _NLM_F_CREATE | _NLM_F_REPLACE
    _request(_RTM_NEWADDR, flags, address, interface, _RT_SCOPE_LINK, max(1, lifetime_s))


def remove_address(address: Address, interface: str) -> None:
    """Takes ``address`` off ``interface``; nothing changes when it is not there.

    Raises:
        AddressError: no such interface, or not permitted.
    """
    _request(_RTM_DELADDR, 0, address, interface, _RT_SCOPE_HOST, _FOREVER, tolerated=errno.EADDRNOTAVAIL)


def is_held(address: Address) -> bool:
    """Whether this machine (this network namespace) has the address: only then can a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Place:
    """Where this machine has an address: the interface, and the length of the network that it has there.

    Attributes:
        secondary: another address of the same network is the interface's first one (IPv4 only).
    """

    interface: str
    length: int
    secondary: bool = False

    def __str__(self) -> str:
        return f"on {self.interface} with length {self.length}"


def places_of(address: Address) -> tuple[Place, ...]:
    """Every interface of this network namespace that has the address.

    Raises:
        AddressError: rtnetlink does not say.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    body = struct.pack("=BBBBI", family, 0, 0, 0, 0)
    header = struct.pack("=IHHII", 16 + len(body), _RTM_GETADDR, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    found: list[Place] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
        netlink.settimeout(1.0)
        try:
            netlink.bind((0, 0))
            netlink.send(header + body)
            while True:
                data, offset = netlink.recv(65536), 0
                while offset + 16 <= len(data):
                    length, kind = struct.unpack_from("=IH", data, offset)
                    if kind == _NLMSG_DONE:
                        return tuple(found)
                    if kind != _RTM_NEWADDR:
                        code = struct.unpack_from("=i", data, offset + 16)[0] if kind == _NLMSG_ERROR else 0
                        why = os.strerror(-code) if code else f"message type {kind}"
                        raise AddressError(f"rtnetlink does not say where {address} is: {why}")
                    if (place := _place(data[offset + 16 : offset + length], address)) is not None:
                        found.append(place)
                    offset += (length + 3) & ~3
        except OSError as error:
            raise AddressError(f"rtnetlink does not say where {address} is: {error}") from error


def _place(message: bytes, address: Address) -> Place | None:
    length, index, offset = message[1], struct.unpack_from("=I", message, 4)[0], 8
    values: dict[int, bytes] = {}
    while offset + 4 <= len(message):
        size, kind = struct.unpack_from("=HH", message, offset)
        values[kind] = message[offset + 4 : offset + size]
        offset += (max(size, 4) + 3) & ~3
    if values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS)) != address.packed:
        return None
    secondary = address.version == 4 and bool(message[2] & _IFA_F_SECONDARY)
    try:
        return Place(socket.if_indextoname(index), length, secondary)
    except OSError:  # the interface went meanwhile, and the address with it
        return None


def own_place(address: Address) -> Place | None:
    """Where the machine itself lives at the address: as the first one of a network around it, on a link.

    What is held for a service beside it is another matter, whatever its length: on lo, or (IPv4) as a secondary
    address, as netplan and keepalived put it there. The kernel never takes such a one for the machine's own traffic
    into that network.

    Raises:
        AddressError: rtnetlink does not say.
    """
    for place in places_of(address):
        if place.length < address.max_prefixlen and place.interface != "lo" and not place.secondary:
            return place
    return None


def _request(
    kind: int, flags: int, address: Address, interface: str, scope: int, lifetime_s: int, *, tolerated: int = 0
) -> None:
    try:
        index = socket.if_nametoindex(interface)
    except OSError as error:
        raise AddressError(
            f"interface {interface!r} does not exist in this network namespace; is the Pod on hostNetwork?"
        ) from error
    # struct ifaddrmsg: family, prefix length, flags, scope, index. Scope host, as 127.0.0.1 has, or link: with a global
    # one the kernel takes the service address as the source of masqueraded local traffic, and at a standby the gate
    # drops it (measured: Pods on hostNetwork lost their own cluster's API server). IPv6 has no such scope: there the
    # address is "deprecated" (preferred for 0 s), which says the same. Duplicates are not asked for: the lease decides.
    if address.version == 4:
        preferred_s = lifetime_s
        head = struct.pack("=BBBBI", socket.AF_INET, 32, 0, scope, index)
    else:
        preferred_s = 0
        head = struct.pack("=BBBBI", socket.AF_INET6, 128, _IFA_F_NODAD, _RT_SCOPE_UNIVERSE, index)
    body = head + _attribute(_IFA_LOCAL, address.packed) + _attribute(_IFA_ADDRESS, address.packed)
    if kind == _RTM_NEWADDR and (preferred_s, lifetime_s) != (_FOREVER, _FOREVER):
        body += _attribute(_IFA_CACHEINFO, struct.pack("=IIII", preferred_s, lifetime_s, 0, 0))
    header = struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
        netlink.settimeout(1.0)
        try:
            netlink.bind((0, 0))
            netlink.send(header + body)
            answer = netlink.recv(8192)
        except OSError as error:
            raise AddressError(f"rtnetlink does not answer about {address} on {interface}: {error}") from error
    (answered,) = struct.unpack_from("=H", answer, 4)
    (code,) = struct.unpack_from("=i", answer, 16)
    if answered != _NLMSG_ERROR:
        raise AddressError(f"rtnetlink answered message type {answered} about {address} on {interface}")
    if code not in (0, -tolerated):
        why = os.strerror(-code)
        hint = "; the driver needs the capability NET_ADMIN" if -code == errno.EPERM else ""
        raise AddressError(f"{address} on {interface}: {why}{hint}")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value

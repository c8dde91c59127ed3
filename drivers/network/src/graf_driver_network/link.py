"""Who has an address, told to a link and heard from it: gratuitous ARP and unsolicited neighbour advertisements.

Frames go out by a packet socket (packet(7)), past nftables: whoever sends them has asked the gate before.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from ipaddress import IPv6Address
from typing import Final

from graf_driver_network.fields import Address

_ETH_P_ARP: Final = 0x0806
_ETH_P_IPV6: Final = 0x86DD
_BROADCAST: Final = b"\xff" * 6
_ALL_NODES_MAC: Final = bytes.fromhex("333300000001")
_ALL_NODES: Final = IPv6Address("ff02::1")
_ARP_REQUEST: Final = 1
_ARP_REPLY: Final = 2
_ICMPV6: Final = 58
_ADVERTISEMENT: Final = 136
_OVERRIDE: Final = 0x20000000
_TARGET_MAC: Final = 2
_FRAMES_AT_ONCE: Final = 256


class LinkError(Exception):
    """The link cannot be used: it does not exist, is down, or raw frames are not permitted."""


class Link:
    """One interface of this network namespace, for one address that moves between the hosts of its link."""

    def __init__(self, interface: str, address: Address) -> None:
        """Opens the packet socket.

        Raises:
            LinkError: no such interface, or not permitted.
        """
        self._address = address
        protocol = _ETH_P_ARP if address.version == 4 else _ETH_P_IPV6
        try:
            with contextlib.ExitStack() as opened:
                kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
                self._socket = opened.enter_context(socket.socket(socket.AF_PACKET, kind, socket.htons(protocol)))
                self._socket.bind((interface, protocol))
                self._socket.setblocking(False)
                opened.pop_all()
        except OSError as error:
            hint = "; the driver needs the capability NET_RAW" if isinstance(error, PermissionError) else ""
            raise LinkError(f"no frames on {interface}: {error.strerror}{hint}") from error
        self.mac: bytes = self._socket.getsockname()[4]

    def announce(self) -> None:
        """Tells every host of the link that the address is here.

        Raises:
            LinkError: the frame could not be sent.
        """
        try:
            for frame in announcement(self.mac, self._address):
                self._socket.send(frame)
        except OSError as error:
            raise LinkError(f"{self._address} could not be announced: {error.strerror}") from error

    def claimants(self) -> set[str]:
        """The hardware addresses of other hosts that have claimed the address since the last call.

        Raises:
            LinkError: the link went down.
        """
        found: set[str] = set()
        try:
            for _ in range(_FRAMES_AT_ONCE):
                mac = claimed_by(self._socket.recv(2048), self._address)
                if mac and mac != self.mac:
                    found.add(mac.hex(":"))
        except BlockingIOError:
            pass
        except OSError as error:
            raise LinkError(f"the link of {self._address} cannot be heard: {error.strerror}") from error
        return found

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()


def announcement(mac: bytes, address: Address) -> tuple[bytes, ...]:
    """The frames that say "this address is at this hardware address" to everybody.

    IPv4: an ARP announcement (RFC 5227, 3) as request and as reply, since some hosts heed only one of them.
    IPv6: an unsolicited neighbour advertisement that overrides what is known (RFC 4861, 7.2.6).
    """
    if isinstance(address, IPv6Address):
        body = struct.pack(">I", _OVERRIDE) + address.packed + bytes((_TARGET_MAC, 1)) + mac
        pseudo = address.packed + _ALL_NODES.packed + struct.pack(">II", 4 + len(body), _ICMPV6)
        head = struct.pack(">BBH", _ADVERTISEMENT, 0, 0)
        message = struct.pack(">BBH", _ADVERTISEMENT, 0, _checksum(pseudo + head + body)) + body
        packet = struct.pack(">IHBB", 6 << 28, len(message), _ICMPV6, 255) + address.packed + _ALL_NODES.packed
        return (_ALL_NODES_MAC + mac + struct.pack(">H", _ETH_P_IPV6) + packet + message,)
    ethernet = _BROADCAST + mac + struct.pack(">HHHBB", _ETH_P_ARP, 1, 0x0800, 6, 4)
    return tuple(
        ethernet + struct.pack(">H", operation) + mac + address.packed + target + address.packed
        for operation, target in ((_ARP_REQUEST, b"\0" * 6), (_ARP_REPLY, _BROADCAST))
    )


def claimed_by(frame: bytes, address: Address) -> bytes:
    """The hardware address that claims ``address`` in this frame; empty when it is about something else."""
    if address.version == 4:
        is_arp = len(frame) >= 42 and frame[12:20] == struct.pack(">HHHBB", _ETH_P_ARP, 1, 0x0800, 6, 4)
        return frame[22:28] if is_arp and frame[28:32] == address.packed else b""
    is_icmp = len(frame) >= 78 and frame[12:14] == struct.pack(">H", _ETH_P_IPV6) and frame[20] == _ICMPV6
    if not is_icmp or frame[54] != _ADVERTISEMENT or frame[62:78] != address.packed:
        return b""
    if len(frame) >= 86 and frame[78:80] == bytes((_TARGET_MAC, 1)):
        return frame[80:86]
    return frame[6:12]


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

"""Ends the established connections of a service address, by ``sock_diag`` (sock_diag(7), ``SOCK_DESTROY``).

The shut gate cuts a connection with its next packet. A client that only waits for its answer sends none: it would
wait for its own time-out. So whoever shuts a gate in good order also ends the connections: both sides get a reset,
which passes the gate, and the client is free to reconnect at once.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from graf_driver_network.fields import Address

_NETLINK_SOCK_DIAG: Final = 4
_BY_FAMILY: Final = 20
_DESTROY: Final = 21
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_DUMP: Final = 0x300
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_LISTEN, _TIME_WAIT, _CLOSE = 10, 6, 7
_STATES: Final = 0xFFFF & ~(1 << _LISTEN | 1 << _TIME_WAIT | 1 << _CLOSE)
_ID_BYTES: Final = 48
_ANY_ID: Final = b"\0" * 40 + b"\xff" * 8  # no cookie: of any socket
_TIMEOUT_S: Final = 1.0


class ConnectionsError(Exception):
    """The connections could not be listed or ended; the gate still cuts each with its next packet."""


def end_connections(address: Address) -> int:
    """Ends every TCP connection whose local end is ``address`` in this network namespace.

    Returns:
        How many.

    Raises:
        ConnectionsError: the kernel refuses (it may be built without ``INET_DIAG_DESTROY``).
    """
    ended = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diag:
        diag.settimeout(_TIMEOUT_S)
        for family, local in _ends(address):
            try:
                found = [identity for identity in _list(diag, family) if identity[4:20] == local]
                ended += sum(_end(diag, family, identity) for identity in found)
            except OSError as error:
                raise ConnectionsError(f"connections of {address}: {error.strerror or error}") from error
    return ended


def _ends(address: Address) -> tuple[tuple[int, bytes], ...]:
    """How the kernel writes the address, by family of the socket."""
    if address.version == 6:
        return ((socket.AF_INET6, address.packed),)
    # A server that listens on IPv6 and IPv4 alike has the address in its mapped form.
    return (
        (socket.AF_INET, address.packed + b"\0" * 12),
        (socket.AF_INET6, b"\0" * 10 + b"\xff\xff" + address.packed),
    )


def _list(diag: socket.socket, family: int) -> Iterator[bytes]:
    diag.send(_request(_BY_FAMILY, _NLM_F_DUMP, family, _STATES, _ANY_ID))
    while True:
        for kind, body in _answers(diag.recv(65536)):
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                _raise(body)
            elif kind == _BY_FAMILY:
                yield body[4 : 4 + _ID_BYTES]


def _end(diag: socket.socket, family: int, identity: bytes) -> bool:
    diag.send(_request(_DESTROY, _NLM_F_ACK, family, _STATES, identity))
    for kind, body in _answers(diag.recv(65536)):
        if kind == _NLMSG_ERROR and struct.unpack_from("=i", body)[0] != -errno.ENOENT:  # it ended by itself
            _raise(body)
            return True
    return False


def _request(kind: int, flags: int, family: int, states: int, identity: bytes) -> bytes:
    # struct inet_diag_req_v2: family, protocol, extensions, padding, states, identity
    body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, states) + identity
    return struct.pack("=IHHII", 16 + len(body), kind, _NLM_F_REQUEST | flags, 1, 0) + body


def _answers(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        yield kind, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _raise(body: bytes) -> None:
    (code,) = struct.unpack_from("=i", body)
    if code:
        raise OSError(-code, os.strerror(-code))

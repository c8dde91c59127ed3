"""Elements of the gate's sets by netlink itself: what is done ten times a second, and may not wait.

libnftables reads the machine's ruleset before each command, and on a node with many Services that is long (3 ms
beside 2,000 chains, 39 ms at worst, against 0.1 ms here). It also gives errors only as text. So it is used for the
layout alone, and the elements are written and read with the kernel's own messages
(``linux/netfilter/nf_tables.h``, ``nfnetlink.h``).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

_NETLINK_NETFILTER: Final = 12
_NLM_F_REQUEST: Final = 0x1
_NLM_F_ACK: Final = 0x4
_NLM_F_CREATE: Final = 0x400
_NLMSG_ERROR: Final = 2
_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_NFTABLES: Final = 10
_NEWSETELEM: Final = _NFTABLES << 8 | 12
_GETSETELEM: Final = _NFTABLES << 8 | 13
_DELSETELEM: Final = _NFTABLES << 8 | 14
_NFPROTO_INET: Final = 1
_NESTED: Final = 0x8000
_LIST_TABLE, _LIST_SET, _LIST_ELEMENTS = 1, 2, 3
_ELEMENT, _KEY, _VALUE = 1, 1, 1
_TIMEOUT, _EXPIRATION, _USERDATA = 4, 5, 6
_COMMENT: Final = 0
_TIMEOUT_S: Final = 2.0


class NftError(Exception):
    """nftables refused a transaction as a whole, or cannot be used here. Nothing of it was carried out."""


class MissingElementError(NftError):
    """An element (or its set, or its table) is not there, or its time is over."""


@dataclass(frozen=True, slots=True)
class Add:
    """Adds an address to a set; a time-out of 0 is none. Leaves an element that is there as it is."""

    set_name: str
    address: str
    timeout_ms: int = 0
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes an address from a set; refused when it is not there or its time is over."""

    set_name: str
    address: str


@dataclass(frozen=True, slots=True)
class Element:
    """What the kernel has: 0 and empty where nothing is said."""

    expires_ms: int
    comment: str


class Elements:
    """The sets of one table of the family ``inet`` in the network namespace in which the object was made."""

    def __init__(self, table: str) -> None:
        """Opens the netlink socket.

        Raises:
            NftError: not permitted here.
        """
        self._table = table
        self._sequence = 0
        self._lock = threading.Lock()
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as error:
            raise NftError(f"no netlink socket: {error.strerror}") from error
        self._socket.settimeout(_TIMEOUT_S)

    def transaction(self, changes: Sequence[Add | Delete]) -> None:
        """Carries out all changes in this order, or none.

        Raises:
            MissingElementError: something to delete is not there any more, or the table is not.
            NftError: the kernel refused for another reason.
        """
        with self._lock:
            first = self._sequence + 1
            messages = [_message(_BATCH_BEGIN, _NLM_F_REQUEST, first, 0, b"", resource=_NFTABLES)]
            for number, change in enumerate(changes):
                last = number == len(changes) - 1
                messages.append(self._change(change, first + 1 + number, _NLM_F_ACK if last else 0))
            acknowledged = first + len(changes)
            self._sequence = acknowledged + 1
            messages.append(_message(_BATCH_END, _NLM_F_REQUEST, self._sequence, 0, b"", resource=_NFTABLES))
            code = 0
            for _, kind, sequence, body in self._exchange(b"".join(messages), first):
                if kind != _NLMSG_ERROR:
                    continue
                code = code or -struct.unpack_from("=i", body)[0]
                # Errors come in the messages' order, the acknowledgement of the last one after them.
                if sequence == acknowledged or (sequence == first and code):
                    break
        if code:
            raise _error(code, f"refused {len(changes)} changes of {self._table}")

    def get(self, set_name: str, address: str) -> Element | None:
        """The element, None when it is not there or its time is over.

        Raises:
            NftError: the kernel does not say.
        """
        with self._lock:
            self._sequence += 1
            body = self._body(set_name, _nested(_KEY, _attribute(_VALUE, ip_address(address).packed)))
            request = _message(_GETSETELEM, _NLM_F_REQUEST, self._sequence, _NFPROTO_INET, body)
            for _, kind, _, answer in self._exchange(request, self._sequence):
                if kind == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", answer)[0]
                    if code == errno.ENOENT:
                        return None
                    raise _error(code, f"gives no element of {set_name}")
                if kind == _NEWSETELEM:
                    return _element(answer)
        raise NftError(f"nftables gave no answer about {set_name}")

    def close(self) -> None:
        """Closes the socket; what it put into the kernel stays there."""
        self._socket.close()

    def _change(self, change: Add | Delete, sequence: int, flags: int) -> bytes:
        parts = _nested(_KEY, _attribute(_VALUE, ip_address(change.address).packed))
        if isinstance(change, Delete):
            kind = _DELSETELEM
        else:
            kind, flags = _NEWSETELEM, flags | _NLM_F_CREATE
            if change.timeout_ms:
                parts += _attribute(_TIMEOUT, struct.pack(">Q", change.timeout_ms))
            if change.comment:
                text = change.comment.encode() + b"\0"
                parts += _attribute(_USERDATA, bytes((_COMMENT, len(text))) + text)
        body = self._body(change.set_name, parts)
        return _message(kind, _NLM_F_REQUEST | flags, sequence, _NFPROTO_INET, body)

    def _body(self, set_name: str, element: bytes) -> bytes:
        return (
            _attribute(_LIST_TABLE, self._table.encode() + b"\0")
            + _attribute(_LIST_SET, set_name.encode() + b"\0")
            + _nested(_LIST_ELEMENTS, _nested(_ELEMENT, element))
        )

    def _exchange(self, request: bytes, first: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Sends, and gives (length, kind, sequence, body) of each answer to this request."""
        try:
            self._socket.send(request)
            while True:
                data = self._socket.recv(65536)
                offset = 0
                while offset + 16 <= len(data):
                    length, kind, _, sequence, _ = struct.unpack_from("=IHHII", data, offset)
                    if sequence >= first:  # lower: a late answer to a request that was given up
                        yield length, kind, sequence, data[offset + 16 : offset + length]
                    offset += (length + 3) & ~3
        except TimeoutError as error:
            raise NftError(f"nftables gave no answer within {_TIMEOUT_S:.0f} s") from error
        except OSError as error:
            raise NftError(f"netlink: {error.strerror}") from error


def _error(code: int, what: str) -> NftError:
    hint = "; the driver needs the capability NET_ADMIN" if code == errno.EPERM else ""
    kind = MissingElementError if code == errno.ENOENT else NftError
    return kind(f"nftables {what}: {os.strerror(code)}{hint}")


def _message(kind: int, flags: int, sequence: int, family: int, body: bytes, *, resource: int = 0) -> bytes:
    payload = struct.pack(">BBH", family, 0, resource) + body
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            raise NftError("nftables answered with an attribute without a length")
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _element(body: bytes) -> Element:
    listed = _attributes(_attributes(body[4:]).get(_LIST_ELEMENTS, b""))
    parts = _attributes(listed.get(_ELEMENT, b""))
    expires_ms = struct.unpack(">Q", parts[_EXPIRATION])[0] if _EXPIRATION in parts else 0
    userdata = parts.get(_USERDATA, b"")
    comment = ""
    if len(userdata) > 2 and userdata[0] == _COMMENT:
        comment = userdata[2 : 2 + userdata[1]].rstrip(b"\0").decode(errors="replace")
    return Element(expires_ms, comment)

"""The unix socket a driver listens on: whose it is, and whether it was left by a dead process."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# sockaddr_un has 108 bytes with the ending zero (man 7 unix).
MAX_PATH_BYTES: Final = 107


class AddressError(Exception):
    """The address cannot be listened on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An address that is this process' own until released. `lock` is held as long as it is open."""

    address: str
    lock: int = -1

    def release(self) -> None:
        """Lets the next process have it."""
        if self.lock >= 0:
            with contextlib.suppress(OSError):
                os.close(self.lock)


def claim(endpoint: str) -> Claim:
    """Makes sure that `endpoint` may be listened on.

    Args:
        endpoint: `unix:/path`, `unix:///path`, `/path`, or `host:port`.

    Raises:
        AddressError: somebody else listens, or the path cannot be used.
    """
    path = socket_path(endpoint)
    if path is None:
        return Claim(endpoint)
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise AddressError(f"{path} is longer than {MAX_PATH_BYTES} bytes, the kernel's limit; choose a shorter path")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        raise AddressError(f"{path} cannot be used: {error.strerror}; check its directory") from error
    try:
        _remove_if_stale(path)
    except BaseException:
        os.close(lock)
        raise
    return Claim(f"unix:{path}", lock)


def socket_path(endpoint: str) -> Path | None:
    """The path of a unix endpoint, None for another one."""
    if endpoint.startswith("unix:"):
        text = endpoint.removeprefix("unix:")
        return Path("/" + text.lstrip("/")) if text.startswith("/") else Path(text).absolute()
    return Path(endpoint) if endpoint.startswith("/") else None


def open_to_others(address: str) -> bool:
    """Whether an address can be reached from elsewhere: neither a unix socket nor of the loopback."""
    if address.startswith("unix:"):
        return False
    host = address.rpartition(":")[0].strip("[]")
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def _lock(path: Path) -> int:
    # The lock settles the race of two starts; the kernel gives it back when a process dies, however it dies.
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AddressError(f"{path} belongs to another running driver; stop that one, or choose another path") from None
    return descriptor


def _remove_if_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AddressError(f"{path} is there and is no socket; it is left alone: move it away or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise AddressError(
                f"whether anybody listens on {path} cannot be told: {error}; remove it by hand"
            ) from error
    raise AddressError(f"another process listens on {path}; stop that one, or choose another path")

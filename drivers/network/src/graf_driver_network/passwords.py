"""Passwords of BGP sessions (TCP MD5, RFC 2385): read from files of mounted Secrets, and given up for newer ones.

A key is changed at two ends, and never at the same moment. So a session that is established keeps the password that
it came up with, and a new one is taken as soon as the session is down: which it is when the router has changed its
end. A text of a password is in this module, in BIRD's configuration and in the kernel, and nowhere else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from graf_driver_network.bird_config import Session

MAX_BYTES: Final = 80
"""What Linux takes as a key (``TCP_MD5SIG_MAXKEYLEN``)."""
_READ_AT_MOST: Final = 4096
_FIX: Final = (
    f"one line of 1 to {MAX_BYTES} printable ASCII characters without double quotes, the same as at the router"
)
_MOUNT: Final = "mount the Secret into the driver's container (not by subPath) and name its file"
USED: Final = "used"
"""The state of a password that is configured and is the file's."""
_REFUSED: Final = {
    "wrong_signature": "TCPMD5Failure",
    "not_signed": "TCPMD5NotFound",
    "signed_unasked": "TCPMD5Unexpected",
    "low_ttl": "TCPMinTTLDrop",
}


class PasswordError(Exception):
    """There is no password that can be used; says why and what to do, and never what the file holds."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}; {fix}")
        self.cause = cause
        self.fix = fix


def read_password(path: str) -> str:
    """The password that the file holds; one line end after it is not part of it.

    Raises:
        PasswordError: the file cannot be read, or BIRD or the kernel could not use what it holds.
    """
    try:
        # A pipe or a device must not hold up the driver.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PasswordError("is no regular file", _MOUNT)
            raw = os.read(descriptor, _READ_AT_MOST)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise PasswordError("the file is not there", _MOUNT) from None
    except OSError as error:
        raise PasswordError(f"the file cannot be read: {error.strerror}", _MOUNT) from None
    return _checked(raw.removesuffix(b"\n").removesuffix(b"\r"))


def _checked(raw: bytes) -> str:
    """BIRD's strings have no escapes: what would end one is refused. A backslash is itself."""
    if not raw:
        cause = "the file is empty"
    elif b"\n" in raw or b"\r" in raw:
        cause = "the file has more than one line"
    elif len(raw) > MAX_BYTES:
        cause = f"the file has more than {MAX_BYTES} bytes"
    elif b'"' in raw:
        cause = "the file has a double quote, which BIRD's configuration cannot hold"
    elif not all(0x20 <= byte <= 0x7E for byte in raw):
        cause = "the file has characters that are not printable ASCII"
    elif raw != raw.strip():
        cause = "the file begins or ends with a blank, which most routers would leave out"
    else:
        return raw.decode("ascii")
    raise PasswordError(cause, _FIX)


def refused_segments() -> dict[str, int]:
    """How many TCP segments the kernel has dropped for their signature or their TTL, by why.

    Since the network namespace exists, and of the whole node: whose they were, the kernel does not tell here. Empty
    when it does not tell anything.
    """
    try:
        # Of this thread's namespace; /proc/net would be the process' first thread's.
        lines = Path("/proc/thread-self/net/netstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    names, counts = ([line.split() for line in lines if line.startswith("TcpExt:")] + [[], []])[:2]
    found = dict(zip(names[1:], map(int, counts[1:]), strict=False))
    return {word: found[name] for word, name in _REFUSED.items() if name in found}


class Passwords:
    """The password of each session, by the session's name.

    Invariant: :meth:`choose` gives an established session the password that it came up with. No session that wants a
    password is given an empty one.
    """

    def __init__(self, on_secret: Callable[[str], None]) -> None:
        """``on_secret`` is told each password that was read, so that no log line has it."""
        self._on_secret = on_secret
        self._chosen: dict[str, str] = {}
        self._established: set[str] = set()

    def saw(self, name: str, *, established: bool) -> None:
        """What BIRD says of the session now."""
        if established:
            self._established.add(name)
        else:
            self._established.discard(name)

    def choose(self, sessions: Iterable[Session]) -> dict[str, str]:
        """What to configure now, by the session's name.

        A session that wants a password and is not in it has never had one that can be used: it must not be configured.
        """
        wanted = {s.name: self._wanted(s) for s in sessions if s.neighbour.password_file is not None}
        self._chosen = {name: password for name, password in wanted.items() if password is not None}
        return dict(self._chosen)

    def due(self, sessions: Iterable[Session]) -> bool:
        """Whether :meth:`choose` would give one of them something else than it gave last."""
        return any(
            session.neighbour.password_file is not None and self._wanted(session) != self._chosen.get(session.name)
            for session in sessions
        )

    def state(self, session: Session) -> str:
        """Where the session's password stands, in words without it; empty when it has none."""
        if session.neighbour.password_file is None:
            return ""
        used = self._chosen.get(session.name)
        try:
            held = self._read(session)
        except PasswordError as error:
            return f"{'missing' if used is None else 'the last one read is used'}: {error}"
        return USED if used == held else "a new one waits until the session is down"

    def _wanted(self, session: Session) -> str | None:
        used = self._chosen.get(session.name)
        if used is not None and session.name in self._established:
            return used
        try:
            return self._read(session)
        except PasswordError:
            # A Secret that has gone is no reason to lose a session that its last content would bring up.
            return used

    def _read(self, session: Session) -> str:
        assert session.neighbour.password_file is not None
        found = read_password(session.neighbour.password_file)
        self._on_secret(found)
        return found

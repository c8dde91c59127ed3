"""Cuts TCP connections of the database server from outside of it.

``STOP SLAVE IO_THREAD`` takes 2 s (slave_net_timeout) when the source is frozen or cut off, because the thread
sits in recv() or connect(). The driver is the server's parent: it takes a duplicate of the socket (pidfd_getfd)
and shuts it down, which wakes the thread at once (measured: 50-100 ms instead of 2.05 s).
"""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path

_PIDFD_GETFD = 438  # the same number on every architecture (generic syscall table, Linux 5.6)
_libc = ctypes.CDLL(None, use_errno=True)


def cut(pid: int, host: str, port: int) -> int:
    """Shuts down every TCP socket of ``pid`` whose remote end is ``host:port``; returns how many.

    Raises:
        OSError: the kernel does not let the driver touch the server's sockets.
    """
    inodes = _inodes(pid, host, port)
    if not inodes:
        return 0
    done = 0
    pidfd = os.pidfd_open(pid)
    try:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(entry.readlink())
            except OSError:
                continue  # closed meanwhile
            if target.startswith("socket:[") and target[8:-1] in inodes:
                done += _shutdown(pidfd, int(entry.name))
    finally:
        os.close(pidfd)
    return done


def _shutdown(pidfd: int, number: int) -> int:
    copy = _libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if copy < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"pidfd_getfd: {os.strerror(code)}")
    with socket.socket(fileno=copy) as duplicate:
        try:
            duplicate.shutdown(socket.SHUT_RDWR)
        except OSError:
            return 0  # not connected any more
    return 1


def _inodes(pid: int, host: str, port: int) -> set[str]:
    version = "tcp6" if ":" in host else "tcp"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    packed = socket.inet_pton(family, host)
    words = [packed[i : i + 4][::-1].hex().upper() for i in range(0, len(packed), 4)]  # host order, little endian
    remote = f"{''.join(words)}:{port:04X}"
    lines = Path(f"/proc/{pid}/net/{version}").read_text(encoding="ascii").splitlines()[1:]
    return {fields[9] for fields in map(str.split, lines) if fields[2] == remote}

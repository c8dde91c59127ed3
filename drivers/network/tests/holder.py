"""A lease holder that stops itself at the worst place: after the clock was read, before the kernel was told.

Run inside a namespace as ``holder.py VARIANT WHAT OPEN_MS RENEW_MS``. Prints the final deadline, then stops; the
test lets it go on. Variants other than ``gate`` are planted bugs, each a safeguard taken out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from graf_driver_network.elements import Add, Delete, NftError
from graf_driver_network.gate import Gate
from graf_driver_network.libnftables import Nftables

ADDRESS = "198.19.255.1"


class WithoutTicket(Gate):
    """Planted bug: nothing bounds the time between reading the clock and telling the kernel."""

    def _use_ticket(self, address: str) -> list[Add | Delete]:
        return []


class AddDeleteAdd(WithoutTicket):
    """Planted bug: the renewal that makes its own delete succeed, and so opens a gate that has shut."""

    def renew(self, address: str, epoch: int, deadline_ns: int) -> bool:
        return self.open(address, epoch, deadline_ns)


VARIANTS = {"gate": Gate, "without_ticket": WithoutTicket, "add_delete_add": AddDeleteAdd}


def main() -> None:
    variant, what, open_ms, renew_ms = sys.argv[1:]
    armed = False

    def clock_ns() -> int:
        nonlocal armed
        now = time.monotonic_ns()
        if armed:
            armed = False
            os.kill(os.getpid(), signal.SIGSTOP)
        return now

    gate = VARIANTS[variant](Nftables(), clock_ns)
    gate.install(ADDRESS)
    begin = time.monotonic_ns()
    deadline = begin + int(open_ms) * 1_000_000
    if what == "renew":
        gate.open(ADDRESS, 7, deadline)
        deadline = begin + int(renew_ms) * 1_000_000
    os.write(1, b"%d\n" % deadline)
    armed = True
    # Refused or not: the test looks at the kernel.
    with contextlib.suppress(NftError):
        if what == "renew":
            gate.renew(ADDRESS, 7, deadline)
        else:
            gate.open(ADDRESS, 7, deadline)


if __name__ == "__main__":
    main()

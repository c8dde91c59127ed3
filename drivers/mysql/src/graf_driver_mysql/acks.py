"""Who acknowledges where there is more than one standby. Names and statements only, for both sides.

MariaDB counts one acknowledgement, whoever gives it, and MySQL a number of them: neither knows names. With one standby
that is enough. With two, an acknowledgement from one that is not in the synchronous set would let go of a write which
the one in the set has not.

So who acknowledges logs in by an account of its own (``graf_ack_<serverId>``), and nobody else may acknowledge:

* A server starts with acknowledging off and follows as ``graf_repl``. Its driver switches it on only *after*
  replication was given the account, and off *before* replication is given ``graf_repl`` again.
* The account is made by the active, with a password made for this one permit, and is dropped when the permit ends;
  then its connections are ended. It is never in the binary log.

What decides is therefore the log-in at the active, and not what a standby or its driver believes: one that was frozen
in the middle of anything, and comes back with acknowledging on, is not let in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PREFIX = "graf_ack_"
TABLE = "graf.permit"  # at the active: which site may acknowledge, and with what it logs in


def user(server_id: int) -> str:
    """The account by which a server acknowledges."""
    return f"{PREFIX}{server_id}"


def is_one(name: str | None) -> bool:
    """Whether an account is one of these."""
    return name is not None and name.startswith(PREFIX) and name[len(PREFIX) :].isdigit()


def connected(processes: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """The servers that receive by such an account now, from the rows of ``SHOW PROCESSLIST``."""
    return frozenset(
        int(row["User"][len(PREFIX) :])
        for row in processes
        if is_one(row["User"]) and str(row["Command"]).startswith("Binlog Dump")
    )

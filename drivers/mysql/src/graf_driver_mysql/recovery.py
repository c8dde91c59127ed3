"""How a crashed server is recovered. Pure.

MariaDB does not flush the engine's commit record before it answers the client: with the binary log on, a
transaction that was acknowledged can still be only *prepared* in InnoDB after kill -9 (measured: 1 to 4 of them
under four writers). Recovery either commits what is in the binary log (KEEP) or cuts it off there and rolls it back
(TRUNCATE, ``--init-rpl-role=SLAVE``).

TRUNCATE is right for a deposed active: nobody was told about its last, unacknowledged transactions, and whatever was
acknowledged is at the other site. It LOSES acknowledged writes when nobody else has them. Therefore it is chosen only
when the recorded set had another site *and* an active one was seen with own eyes to be promoted; until then a deposed
site stays down (WAIT): a dead server accepts nothing, and its data can still be used either way.

Recovery writes too: a change of a table that was under way (DROP, ALTER, CREATE OR REPLACE) is finished from MariaDB's
DDL log, and then logged under the next free name. Behind a tail that was cut off, that is the name of a transaction
which the other site may have: two things of one name, and the verdict would be Behind with other data here (measured:
in 43 of 185 kills). So what recovery writes continues a site's history only where that is whole; elsewhere it
goes into a domain of nobody's, and makes the site diverged.
"""

from __future__ import annotations

from enum import Enum, auto

from graf_driver_mysql.record import DataRole, Record


class Start(Enum):
    """What to do with a server that is down."""

    KEEP = auto()
    TRUNCATE = auto()
    WAIT = auto()


def choose(record: Record, *, wanted_active: bool, other_active_seen: bool) -> Start:
    """The rule.

    Args:
        record: What the driver knew for sure before the server died.
        wanted_active: The site is to be active: it serves with everything it has.
        other_active_seen: Another site's server was asked just now and accepts writes.
    """
    if wanted_active or record.role is not DataRole.ACTIVE or record.lone():
        return Start.KEEP
    return Start.TRUNCATE if other_active_seen else Start.WAIT


def continues(record: Record, *, truncated: bool) -> bool:
    """Whether what recovery itself logs goes on with this site's history: its own data, and all of it."""
    return record.role is DataRole.ACTIVE and not truncated

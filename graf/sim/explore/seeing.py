"""What a site of the check sees when it decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.api.values import Role, SetVersion, SyncSet
from graf.core.participant import Participation
from graf.core.view import PeerView, SiteView
from graf.sim.explore.clocks import GROUP

if TYPE_CHECKING:
    from graf.api.values import Electorate
    from graf.core.view import GroupConfig
    from graf.sim.explore.setting import Setting
    from graf.sim.explore.values import Node

SERVED = SyncSet(SetVersion(1, 1), frozenset({"east", "west"}))


def view(setting: Setting, config: GroupConfig, node: Node, told: Electorate | None) -> SiteView:
    """Everybody is heard and stands by: the decision is asked for whenever it could be taken at all.

    Args:
        setting: The group.
        config: What the site has been told to protect.
        node: Whose view it is.
        told: The voters that a peer has named; only a site without a record goes by them.
    """
    part, voter = node.part or Participation(), node.voter
    promise = voter.promises.get(GROUP)
    peers = {
        name: PeerView(name, connected=True, role=Role.STANDBY, promotable=True, known_set=SERVED, voters=told)
        for name in setting.names
        if name != node.name
    }
    return SiteView(
        config=config,
        role=Role.ACTIVE if part.lease is not None else Role.STANDBY,
        lease=part.lease,
        contest=part.contest,
        holder_set=part.held,
        promise=promise,
        holder_free_at_ns=voter.free_at_ns(GROUP) if promise is not None else 0,
        silent_until_ns=voter.silent_until_ns(GROUP),
        released_at_ns=None,
        components={},
        peers=peers,
        highest_promised=part.highest_promised,
        settling=part.settling,
        continued=part.continued,
        voters_hint=part.voters_hint,
        refused_set=part.refused_set,
    )

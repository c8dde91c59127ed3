"""What must hold in every state and after every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.api.values import SyncSet
from graf.sim.explore import replication
from graf.sim.explore.clocks import GROUP, NOW
from graf.sim.explore.values import Broken, Node, Outcome, Past, Settled, Win

if TYPE_CHECKING:
    from graf.core.campaign import Contest
    from graf.sim.explore.acting import Acting
    from graf.sim.explore.setting import Setting
    from graf.sim.explore.world import World


def holds(setting: Setting, node: Node) -> bool:
    """Whether clients are let in here: the gate is open, as long as the lease lasts on the slowest clock."""
    if setting.timed:
        return node.gate_ns > NOW
    lease = node.part.lease if node.part is not None else None
    return lease is not None and lease.valid(NOW)


def acknowledges(acting: Acting, node: Node) -> bool:
    """Whether the write is acknowledged to its client here, now."""
    return acting.setting.data and replication.acknowledges(acting, node)


def remembered(world: World, nodes: list[int], past: Past, outcome: Outcome) -> tuple[Past, str]:
    """The past after a step, and which invariant the step broke; empty when none."""
    if outcome.spent:
        past = past._replace(**{outcome.spent: getattr(past, outcome.spent) - 1})
    broken = ""
    for note in outcome.notes:
        match note:
            case Win():
                past, wrong = _won(world, nodes, past, note)
                broken = broken or wrong
            case Settled(version):
                past = past._replace(settled_list=max(past.settled_list, version))
            case Broken(text):
                broken = broken or text
    return past, broken


def _won(world: World, nodes: list[int], past: Past, win: Win) -> tuple[Past, str]:
    bit = 1 << win.epoch
    after = past._replace(won=past.won | bit, newest_list=max(past.newest_list, win.newest_list))
    if past.won & bit:
        return after, f"I5: epoch {win.epoch} is won twice, now by {win.site}"
    if win.newest_list < past.newest_list:
        return after, (
            f"two lists at work: {win.site} wins epoch {win.epoch} with voter list {win.newest_list} alone after "
            f"list {past.newest_list} has won an epoch"
        )
    if win.settled_list < past.settled_list:
        return after, (
            f"two lists at work: {win.site} wins epoch {win.epoch} counting on list {win.settled_list} after "
            f"list {past.settled_list} was settled"
        )
    winner = world.nodes[nodes[world.index[win.site]]]
    if past.acknowledged and not winner.data.has:
        return after, f"I2: {win.site} wins epoch {win.epoch} without the acknowledged write"
    if world.setting.lossless:
        newest = _newest_stored(world, nodes, winner)
        if newest.version > win.known.version or win.site not in win.known.members:
            return after, (
                f"I11: {win.site} wins epoch {win.epoch} with {win.known.describe()}, "
                f"but {newest.describe()} is on a majority's disks"
            )
    return after, ""


def _newest_stored(world: World, nodes: list[int], winner: Node) -> SyncSet:
    """The newest set that is on the disks of a majority of the voters that decide about the winner's epoch."""
    lease = winner.part.lease if winner.part is not None else None
    if lease is None:
        return SyncSet()
    promises = {
        node.name: node.voter.promises[GROUP]
        for node in (world.nodes[n] for n in nodes)
        if GROUP in node.voter.promises
    }
    newest = SyncSet()
    for listed in lease.voters.lists:
        stored = [promises[v].stored_set for v in listed.members if v in promises]
        for candidate in stored:
            if stored.count(candidate) * 2 > len(listed.members) and candidate.version > newest.version:
                newest = candidate
    return newest


def judged_win(site: str, contest: Contest) -> tuple[Win | Broken, ...]:
    """Counts the grants itself, against every list that has to agree."""
    voters = contest.campaign.voters
    win = Win(site, contest.campaign.epoch, voters.current.version, voters.newest.version, contest.newest_set)
    for listed in voters.lists:
        granted = sum(1 for v in listed.members if v in contest.grants)
        if granted * 2 <= len(listed.members):
            text = f"I6: {site} wins epoch {win.epoch} with {granted} of {len(listed.members)} of {listed.describe()}"
            return (win, Broken(text))
    return (win,)

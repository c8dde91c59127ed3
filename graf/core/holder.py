"""Decisions of the site that holds a group's lease."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.api.values import Electorate, Reason, Role
from graf.core.contender import heard_now, next_epoch, why_not_promotable
from graf.core.messages import DATA_LOST_BEFORE_PROMOTION
from graf.core.view import (
    ComponentView,
    Contend,
    Decision,
    Fence,
    HandOver,
    Health,
    Join,
    PeerView,
    ProposeSet,
    SettleVoters,
    SiteView,
    StopJoining,
)
from graf.core.voter import BOOTSTRAP_EPOCH
from graf.core.voterchange import bound_to

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from graf.api.values import VoterList

JOIN_TIMEOUT_HEARTBEATS = 30
ADMISSION_TIMEOUT_HEARTBEATS = 30


def fence_before_lease_ends(view: SiteView, now_ns: int) -> Decision | None:
    """The holder leaves before anybody else may come."""
    lease = view.lease
    if lease is not None and lease.must_fence(now_ns):
        left_ms = (lease.end_ns - now_ns) / 1e6
        supporters = ", ".join(lease.supporters(now_ns)) or "nobody"
        return Decision(
            (Fence(),),
            (
                Reason(
                    "LeaseEnding",
                    f"{left_ms:.0f} ms left, renewed lately by {supporters}; no majority answers",
                ),
            ),
        )
    return None


def wait_while_handing_over(view: SiteView, now_ns: int) -> Decision | None:
    """A planned switchover is stepwise and rolls itself back."""
    if view.handing_over:
        return Decision((), (Reason("HandingOver", "a planned switchover is under way"),))
    return None


def take_over_refusals(view: SiteView, peer: PeerView) -> tuple[Reason, ...]:
    """Why a peer cannot take the group over now without losing anything; empty when it can."""
    reasons: list[Reason] = []
    config, holder_set = view.config, view.holder_set
    if peer.name not in config.sites:
        reasons.append(Reason("NotASite", f"{peer.name} runs no function"))
    if not peer.connected:
        reasons.append(Reason("PeerUnreachable", f"{peer.name} is not heard by {view.site}"))
    if config.lossless and holder_set is not None and not holder_set.surely_has(peer.name):
        reasons.append(
            Reason(
                "NotInSynchronousSet",
                f"{peer.name} may lack acknowledged writes: the set is {holder_set.current.describe()}",
            )
        )
    if peer.role is not Role.STANDBY:
        role = peer.role.value if peer.role else "Unknown"
        reasons.append(Reason("NotStandby", f"{peer.name} is {role}, not Standby"))
    if not peer.promotable:
        reasons.append(Reason("DataNotPromotable", f"{peer.name}: {peer.promotable_reason or 'unknown'}"))
    if not peer.ready:
        reasons.append(Reason("NotReady", f"a component of {peer.name} is not healthy in its role"))
    return tuple(reasons)


def _who_can_take_over(view: SiteView) -> tuple[str, tuple[Reason, ...]]:
    """The first site that can take the group over now; empty when none can, with the refusals of all."""
    refusals: list[Reason] = []
    for name in view.config.sites:
        if name == view.site:
            continue
        peer = view.peers.get(name, PeerView(name, connected=False))
        against = take_over_refusals(view, peer)
        if peer.copy_refusal:  # a planned move copies the rest first; here there is no time for that
            against += (Reason("CopyBeyondRpo", f"{name}: {peer.copy_refusal}"),)
        if not against:
            return name, ()
        refusals.extend(against)
    return "", tuple(refusals)


def _lost(view: SiteView, components: Iterable[ComponentView]) -> Reason:
    names = ", ".join(f"{c.name} is {c.health.value}" for c in components)
    return Reason("DataComponentLost", f"{names} at {view.site}")


def _to_standby(successor: str, evidence: Reason) -> Decision:
    return Decision((HandOver(successor),), (evidence, Reason("StandbyCanTakeOver", successor)))


def _left_to_people(evidence: Reason) -> Decision:
    return Decision((), (evidence, Reason("ManualFailover", "the policy leaves failover to people")))


def release_when_data_is_lost(view: SiteView, now_ns: int) -> Decision | None:
    """A loud failure is fast: the holder that sees its data component die gives the epoch to a site that can serve.

    Dead is proved, so it counts at once. Unknown and Unhealthy may pass: they count after the suspicion time. Of data
    that is only copied a move loses what only this site has: Dead counts when starting again has had that time, and
    nothing else does. Where nobody can take over, the component is started again in its place.
    """
    config = view.config
    lost = [
        c
        for c in view.data
        if c.troubled_since_ns is not None and _counts_as_lost(view, c, now_ns - c.troubled_since_ns)
    ]
    if not lost:
        return None
    evidence = _lost(view, lost)
    if not config.automatic:
        return _left_to_people(evidence)
    successor, refusals = _who_can_take_over(view)
    if successor:
        return _to_standby(successor, evidence)
    restart = Reason("LocalRestart", "no site can take over, the component is started again here")
    return Decision((), (evidence, restart, *refusals), config.timing.heartbeat_ns)


def _counts_as_lost(view: SiteView, component: ComponentView, age_ns: int) -> bool:
    dead, suspected = component.health is Health.DEAD, age_ns >= view.config.timing.suspect_ns
    return dead or suspected if view.config.waits else dead and suspected


def _lost_copies(view: SiteView) -> tuple[ComponentView, ...]:
    """Copied components whose data is proved to be gone here."""
    return tuple(c for c in view.copies if c.health is Health.DEAD)


def release_when_a_copy_is_lost(view: SiteView, now_ns: int) -> Decision | None:
    """Data outside the synchronous set is lost here, proved: a standby has the newest that is left of it.

    Only Dead counts. Unknown and Unhealthy may pass, and the standby's copy is older than what is here: to move for
    them would lose what nobody has lost yet. It holds nothing up: while nobody can take over the rest is served here.
    """
    lost = _lost_copies(view)
    if not lost or not view.config.automatic:
        return None
    successor, _ = _who_can_take_over(view)
    return _to_standby(successor, _lost(view, lost)) if successor else None


def tell_a_lost_copy(view: SiteView, now_ns: int) -> Decision | None:
    """Nobody can take over: why is told, when there is nothing else to do."""
    lost = _lost_copies(view)
    if not lost:
        return None
    evidence = _lost(view, lost)
    if not view.config.automatic:
        return _left_to_people(evidence)
    _, refusals = _who_can_take_over(view)
    served = Reason("LocalRestart", "no site can take over, the rest is served here")
    return Decision((), (evidence, served, *refusals), view.config.timing.heartbeat_ns)


def give_back_without_data(view: SiteView, now_ns: int) -> Decision | None:
    """A new holder whose data component is lost before it was ever active gives the epoch back.

    It was promotable when it asked, but what it had received and not applied may be gone. Nothing was acknowledged in
    this epoch, so whoever was in the adopted set still has everything: a set that was shrunk to this site meanwhile is
    widened to that again first, or nobody could ever take over.
    """
    holder_set, lease = view.holder_set, view.lease
    if not view.config.lossless or holder_set is None or lease is None or view.served:
        return None
    if lease.epoch == BOOTSTRAP_EPOCH:
        return None
    gone = [c for c in view.data if c.role is not Role.ACTIVE and _lost_before_promotion(view, c, now_ns)]
    if not gone:
        return None
    detail = why_not_promotable(gone)
    reason = Reason(DATA_LOST_BEFORE_PROMOTION, detail)
    heartbeat_ns = view.config.timing.heartbeat_ns
    if holder_set.proposed is not None and holder_set.proposed.members >= holder_set.inherited:
        return Decision((), (reason, Reason("WideningSet", holder_set.proposed.describe())), heartbeat_ns)
    if holder_set.counter > 0 and not holder_set.current.members >= holder_set.inherited:
        return Decision((ProposeSet(holder_set.inherited),), (reason,), heartbeat_ns)
    if holder_set.proposed is not None:
        return Decision((ProposeSet(holder_set.inherited),), (reason,), heartbeat_ns)
    return Decision((HandOver(""),), (reason,), heartbeat_ns)


def _lost_before_promotion(view: SiteView, component: ComponentView, now_ns: int) -> bool:
    """Whether a component will not be active in this epoch; a promotion on its way may look like that for a moment.

    Where the group was this site's own, a copy that follows nobody never says that it is promotable, and to open it may
    take long: then only its death and its driver's refusal count.
    """
    waited = now_ns - view.won_at_ns >= view.config.timing.suspect_ns
    if component.refusal and not view.config.waits:
        return waited
    if view.has_data(component):
        return False
    own = not view.config.waits and view.promise is not None and view.site in view.promise.entitled
    return component.health is Health.DEAD or (waited and not own and component.health is not Health.UNKNOWN)


def new_holder_shrinks(view: SiteView, now_ns: int) -> Decision | None:
    """A new holder acknowledges with all of the adopted set until it has shrunk it to itself.

    It does so only while its own data is here: promoted already, or able to be. A group without data has a set too: it
    keeps nobody out, and is the voters' record that the group has served.
    """
    holder_set, lease = view.holder_set, view.lease
    if holder_set is None or lease is None or holder_set.counter > 0:
        return None
    missing = [c.name for c in view.data if c.role is not Role.ACTIVE and not view.has_data(c)]
    if missing and lease.epoch > BOOTSTRAP_EPOCH:
        return Decision((), (Reason("DataNotPromotable", ", ".join(missing)),), view.config.timing.heartbeat_ns)
    members = frozenset({view.site})
    if view.continued:
        # No failover: who stands by goes on doing so, and every write still waits for it.
        members |= {name for name in holder_set.current.members if _stands_by(view, name)}
    return Decision(
        (ProposeSet(members),),
        (Reason("NewHolder", f"adopted {holder_set.current.describe()}"),),
        view.config.timing.heartbeat_ns,
    )


def _stands_by(view: SiteView, name: str) -> bool:
    peer = view.peers.get(name)
    if peer is None or not peer.connected or peer.role is not Role.STANDBY or not peer.promotable:
        return False
    return view.config.waits or _copies_are_current(view, peer)


def _copies_are_current(view: SiteView, peer: PeerView) -> bool:
    """Whether a site lacks no more than declared, and will not before this holder could be gone unheard.

    Who tells no limit has none declared, or is of an older version or assignment: then it counts while it is heard,
    and only where this site knows of no limit either.
    """
    config = view.config
    if not config.lossless:
        return True
    if peer.copy_refusal:
        return False
    if peer.copy_spare_ns is not None:
        return peer.copy_spare_ns > config.timing.ttl_ns
    return peer.connected and not any(c.limited and config.under_set(c) for c in config.components)


def wait_for_the_contest(view: SiteView, now_ns: int) -> Decision | None:
    """A holder that asks for another epoch does nothing else meanwhile; it takes milliseconds."""
    if view.contest is None:
        return None
    return Decision(
        (), (Reason("Contending", f"epoch {view.contest.campaign.epoch}"),), view.config.timing.heartbeat_ns
    )


def settle_new_voters(view: SiteView, now_ns: int) -> Decision | None:
    """A change is done when the new list alone would find the newest set, and every new voter has its promise.

    A new voter that never answered would have no record and abstain for ever, so it is waited for, for a while.
    """
    lease, settling, holder_set = view.lease, view.settling, view.holder_set
    if lease is None or settling is None or settling.begun or holder_set is None:
        return None
    if view.config.lossless and holder_set.current.version.epoch != lease.epoch:
        return None
    missing = [v for v in lease.voters.newcomers if v not in lease.sent_ns]
    age_ns = now_ns - view.won_at_ns
    if missing and age_ns < ADMISSION_TIMEOUT_HEARTBEATS * view.config.timing.heartbeat_ns:
        return None
    detail = f"{lease.voters.newest.describe()} follows {lease.voters.current.describe()}"
    if missing:
        detail += f"; {', '.join(missing)} never answered and abstains until it is admitted by another change"
    return Decision((SettleVoters(),), (Reason("SettlingVoters", detail),), view.config.timing.heartbeat_ns)


def shrink_lost_member(view: SiteView, now_ns: int) -> Decision | None:
    """A member that does not acknowledge stops the service until a majority has stored the set without it."""
    holder_set = view.holder_set
    if not view.config.lossless or not view.config.waits or holder_set is None or holder_set.proposed is not None:
        return None
    suspect_ns = view.config.timing.suspect_ns
    waited = {
        site: now_ns - since
        for site, since in view.lost_since_ns.items()
        if site in holder_set.must_acknowledge and site != view.site
    }
    overdue = frozenset(site for site, age in waited.items() if age >= suspect_ns)
    if overdue:
        if holder_set.joining in overdue and holder_set.joining not in holder_set.current.members:
            return Decision(
                (StopJoining(holder_set.joining),),
                (Reason("JoinFailed", f"{holder_set.joining} stopped acknowledging while it joined"),),
            )
        members = holder_set.current.members - overdue
        detail = f"{', '.join(sorted(overdue))} did not acknowledge for {max(waited.values()) / 1e6:.0f} ms"
        return Decision((ProposeSet(members),), (Reason("MemberLost", detail),))
    if waited:
        return Decision((), (Reason("MemberSuspected", ", ".join(sorted(waited))),), suspect_ns - max(waited.values()))
    return None


def grow_with_caught_up_member(view: SiteView, now_ns: int) -> Decision | None:
    """Growth in this order: acknowledgements required, caught up, told."""
    holder_set = view.holder_set
    if not view.config.lossless or not view.config.waits or holder_set is None or holder_set.proposed is not None:
        return None
    timing = view.config.timing
    if holder_set.joining:
        site = holder_set.joining
        caught_up = bool(view.data) and all(
            c.settled and c.health is Health.HEALTHY and holder_set.must_acknowledge <= c.set_in_force
            for c in view.data
        )
        if caught_up:
            return Decision(
                (ProposeSet(holder_set.current.members | {site}),),
                (Reason("MemberCaughtUp", f"{site} has every acknowledged write and must have each new one"),),
            )
        if now_ns - view.join_since_ns > JOIN_TIMEOUT_HEARTBEATS * timing.heartbeat_ns:
            return Decision((StopJoining(site),), (Reason("JoinFailed", f"{site} did not catch up in time"),))
        return Decision((), (Reason("MemberJoining", site),), timing.heartbeat_ns)
    if now_ns < view.join_not_before_ns:
        return None
    for name in view.config.sites:
        peer = view.peers.get(name)
        if name == view.site or name in holder_set.current.members or peer is None:
            continue
        lease = view.lease
        if not peer.connected or peer.role is not Role.STANDBY or lease is None or peer.epoch != lease.epoch:
            continue
        follows = all(c.settled and name in c.followers and c.followers[name].connected for c in view.data)
        if view.data and follows and peer.promotable:
            return Decision((Join(name),), (Reason("MemberReturns", f"{name} follows and has caught up"),))
    return None


def keep_current_copies(view: SiteView, now_ns: int) -> Decision | None:
    """Where no write waits for a standby, the set has the sites that lack no more than their components declare.

    A site leaves it a lease time before its copy may be too old: a holder that cannot tell the voters so any more has
    no lease by then, or fences itself (stop-without-a-stored-set), so that nothing more is written.
    """
    holder_set, lease, heartbeat_ns = view.holder_set, view.lease, view.config.timing.heartbeat_ns
    if view.config.waits or holder_set is None or lease is None:
        return None
    members = holder_set.current.members if holder_set.proposed is None else holder_set.proposed.members
    old = frozenset(
        name
        for name in members
        if name != view.site and not _copies_are_current(view, view.peers.get(name, PeerView(name, connected=False)))
    )
    if old:
        why = "; ".join(f"{n}: {view.peers[n].copy_refusal or 'not heard'}" for n in sorted(old) if n in view.peers)
        reason = Reason("CopyBeyondRpo", why or ", ".join(sorted(old)))
        return Decision((ProposeSet(members - old),), (reason,), heartbeat_ns)
    if holder_set.proposed is not None:
        return None
    back = frozenset(
        name
        for name in view.config.sites
        if name not in members and _stands_by(view, name) and view.peers[name].epoch == lease.epoch
    )
    if back:
        reason = Reason("CopyWithinRpo", ", ".join(sorted(back)))
        return Decision((ProposeSet(members | back),), (reason,), heartbeat_ns)
    return None


def stop_without_a_stored_set(view: SiteView, now_ns: int) -> Decision | None:
    """A copy grows too old, and no majority has stored a set without it: nothing more may be written.

    Voters whose disks take no more writes go on renewing a lease, as they have promised it before, so it does not end
    by itself; and when this site is gone, what it has told may be known to nobody.
    """
    holder_set, config = view.holder_set, view.config
    if config.waits or not config.lossless or holder_set is None or holder_set.proposed is None or not view.served:
        return None
    if not any(c.limited and config.under_set(c) for c in config.components):
        return None
    margin_ns = config.timing.fence_margin_ns + 2 * config.timing.heartbeat_ns
    waited_ns = now_ns - view.set_told_since_ns
    if waited_ns < config.timing.ttl_ns - margin_ns:
        return None
    spares = {
        name: view.peers[name].copy_spare_ns if name in view.peers else None
        for name in holder_set.must_acknowledge - holder_set.proposed.members - {view.site}
    }
    old = sorted(name for name, spare_ns in spares.items() if spare_ns is None or spare_ns <= margin_ns)
    if not old:
        return None
    detail = (
        f"{', '.join(old)} may lack too much, and that the set is without it no majority of the voters has stored for "
        f"{waited_ns / 1e6:.0f} ms; see their disks"
    )
    return Decision((Fence(),), (Reason("SetNotStored", detail),))


def change_voters(view: SiteView, now_ns: int) -> Decision | None:
    """Another list is declared: ask for an epoch with majorities of both, when nothing else is under way.

    A change that was begun is finished before another one: who granted it supports nothing else.
    """
    lease, holder_set, config = view.lease, view.holder_set, view.config
    if lease is None or holder_set is None or lease.voters.joint:
        return None
    begun = _change_begun(view, lease.voters.current)
    proposed = begun if begun is not None and begun.version > lease.voters.current.version else config.voters
    if proposed.version <= lease.voters.current.version:
        return None
    electorate = Electorate(lease.voters.current, proposed)
    if view.site in proposed.members:
        against = _another_epoch_waits(view, electorate, now_ns, "VoterChangeWaits")
    else:
        detail = f"{view.site} is active and not in {proposed.describe()}; move the group to another site first"
        against = (Reason("ActiveNotOnNewList", detail),)
    if against:
        hold = Decision((), against, config.timing.heartbeat_ns)
        return hold if begun is proposed else regain_voters(view, now_ns) or hold
    return Decision(
        (Contend(next_epoch(view), holder_set.current, electorate),),
        (Reason("ChangeVoters", electorate.describe()),),
        config.timing.heartbeat_ns,
    )


def _change_begun(view: SiteView, in_force: VoterList) -> VoterList | None:
    """The change of the list in force that voters are bound to: by the own record, a refusal, or what others tell."""
    known = (view.promise.voters if view.promise is not None else None, view.voters_hint)
    own = [e.proposed for e in known if e is not None and e.proposed is not None and e.current == in_force]
    told = bound_to(in_force, {name: peer.voters for name, peer in view.peers.items()})
    return next(iter((*own, *told)), None)


def regain_voters(view: SiteView, now_ns: int) -> Decision | None:
    """Voters that have promised an epoch which nobody won renew nothing: win a still newer one, with all of them.

    A contender that lost a split vote leaves such promises behind. The lease would hang on the others for ever, and a
    site among them would not follow an epoch that is older than its own promise.
    """
    lease, holder_set = view.lease, view.holder_set
    if lease is None or holder_set is None:
        return None
    astray = [v for v in lease.voters.members if v in view.astray and (v == view.site or heard_now(view, v))]
    if not astray:
        return None
    against = _another_epoch_waits(view, lease.voters, now_ns, "RegainWaits")
    if against:
        return Decision((), against, view.config.timing.heartbeat_ns)
    return Decision(
        (Contend(next_epoch(view), holder_set.current, lease.voters),),
        (Reason("RegainVoters", f"{', '.join(astray)} promised epoch {lease.epoch} or a newer one that nobody holds"),),
        view.config.timing.heartbeat_ns,
    )


def _another_epoch_waits(view: SiteView, electorate: Electorate, now_ns: int, code: str) -> tuple[Reason, ...]:
    """Why a holder does not ask for another epoch now: a contest that it lost would cost it the lease."""
    lease, holder_set = view.lease, view.holder_set
    if view.config.lossless and not view.served:
        return (Reason(code, "the data component has not been active in this epoch yet"),)
    if holder_set is not None and (holder_set.proposed is not None or holder_set.joining):
        return (Reason(code, "the synchronous set is being changed"),)
    heard = [v for v in electorate.members if v == view.site or heard_now(view, v)]
    silent = [v for v in electorate.newcomers if v not in heard]
    if silent or not electorate.carried_by(heard):
        return (
            Reason(
                code,
                f"it needs majorities of {electorate.describe()} and every new voter; "
                f"not heard: {', '.join(v for v in electorate.members if v not in heard)}",
            ),
        )
    if now_ns < view.contend_not_before_ns:
        return (Reason(code, "the last contest for it was lost"),)
    # Voters that have granted a contest that was lost renew the old lease no more: then there is no time to wait.
    may_wait = lease is not None and view.highest_promised <= lease.epoch
    if may_wait and lease is not None and lease.end_ns - now_ns < view.config.timing.ttl_ns // 2:
        return (Reason(code, "the lease is not fresh"),)
    return ()


HolderRule = tuple[str, "Callable[[SiteView, int], Decision | None]"]

# The first rule that has something to say decides. A test takes each out and sees the violation.
HOLDER_RULES: tuple[HolderRule, ...] = (
    ("fence-before-lease-ends", fence_before_lease_ends),
    ("stop-without-a-stored-set", stop_without_a_stored_set),
    ("wait-while-handing-over", wait_while_handing_over),
    ("wait-for-the-contest", wait_for_the_contest),
    ("give-back-without-data", give_back_without_data),
    ("new-holder-shrinks", new_holder_shrinks),
    ("settle-new-voters", settle_new_voters),
    ("keep-current-copies", keep_current_copies),
    ("release-when-data-is-lost", release_when_data_is_lost),
    ("shrink-lost-member", shrink_lost_member),
    ("grow-with-caught-up-member", grow_with_caught_up_member),
    ("release-when-a-copy-is-lost", release_when_a_copy_is_lost),
    ("change-voters", change_voters),
    ("regain-voters", regain_voters),
    ("tell-a-lost-copy", tell_a_lost_copy),
)

"""Decisions of a site that does not hold a group's lease: follow, contend, or hold and say why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.api.values import Reason, SetVersion, SyncSet
from graf.core.retry import LAST_REST_TTLS, told_of
from graf.core.view import Contend, Decision, Fence, Follow, Health, SiteView
from graf.core.voter import BOOTSTRAP_EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from graf.core.view import ComponentView


def only_voters_contend(view: SiteView, now_ns: int) -> Decision | None:
    """A site that a change has taken off the list is no part of the group any more."""
    if not view.voters_known:
        return _hold(
            "VotersUnknown", "the own voter has no record, and no peer has told which voters are in force", view
        )
    if (view.promise is None and not view.record_lost) or view.site in view.electorate.members:
        return None
    detail = f"{view.site} is not on the list in force, {view.electorate.describe()}; declare it again to bring it back"
    return _hold("NotAVoter", detail, view)


def fenced_first(view: SiteView, now_ns: int) -> Decision | None:
    """Without a lease nothing may be accepted here, whatever else is true."""
    accepting = [c.name for c in view.components.values() if c.accepting]
    if accepting:
        return Decision(
            (Fence(),),
            (Reason("AcceptingWithoutLease", ", ".join(accepting)),),
            view.config.timing.heartbeat_ns,
        )
    return None


def wait_while_handing_over(view: SiteView, now_ns: int) -> Decision | None:
    """What is being given to a successor is not asked back before the voters know of it."""
    if view.handing_over:
        return Decision((), (Reason("HandingOver", "the epoch is being released to a successor"),))
    return None


def follow_the_active(view: SiteView, now_ns: int) -> Decision | None:
    """Another site is heard to be Active: follow it."""
    active = view.active_peer
    if active is None:
        return None
    return Decision((Follow(active.name, active.epoch),), (Reason("ActiveElsewhere", active.name),))


def only_the_initial_site_bootstraps(view: SiteView, now_ns: int) -> Decision | None:
    """The first epoch is for the declared initial site, with every voter's grant."""
    if view.promise is not None or view.record_lost:
        return None
    if view.site != view.config.initial_site:
        return _hold("AwaitingBootstrap", f"{view.config.initial_site} takes the first epoch", view)
    missing = [v for v in view.config.voters.members if v != view.site and not heard_now(view, v)]
    if missing:
        return _hold("AwaitingVoters", f"the first epoch needs every voter; not heard: {', '.join(missing)}", view)
    return None


def people_decide_in_manual_mode(view: SiteView, now_ns: int) -> Decision | None:
    """A manual policy lets a site resume only what was its own, or what was released to it.

    An epoch that was granted and that nobody won takes that right from no one (`Promise.heirs`).
    """
    promise = view.promise
    if view.config.automatic or (promise is None and not view.record_lost):
        return None
    if promise is None:
        return _hold("ManualFailover", "the own record is lost; the policy leaves failover to people", view)
    if view.site in promise.heirs:
        return None
    return _hold("ManualFailover", f"{promise.site} is lost or silent; the policy leaves failover to people", view)


def enough_voters_declared(view: SiteView, now_ns: int) -> Decision | None:
    """Two sites without a third voter never fail over by themselves."""
    enough = all(len(voters.members) >= 3 for voters in view.electorate.lists)
    if enough or (view.promise is not None and view.promise.site == view.site):
        return None
    if view.promise is not None and view.promise.released:
        return None
    if view.promise is None and not view.record_lost:
        return None
    return _hold("NoThirdVoter", "two voters cannot tell a lost site from a lost link; declare a witness", view)


def holder_may_live(view: SiteView, now_ns: int) -> Decision | None:
    """The own voter's promise binds this site too."""
    promise = view.promise
    if promise is None or promise.released or promise.site == view.site or now_ns > view.holder_free_at_ns:
        return None
    return Decision(
        (),
        (Reason("HolderMayLive", f"{promise.site} may hold epoch {promise.epoch} until its lease has ended"),),
        view.holder_free_at_ns - now_ns + 1,
    )


def own_voter_is_silent(view: SiteView, now_ns: int) -> Decision | None:
    """A restarted voter answers no campaign, its own site's included.

    A site whose voter has lost its record may win by the others' votes, but what an earlier life of it held must have
    ended here too.
    """
    until = view.silent_until_ns
    if view.promise is None:
        if not view.record_lost:
            return None
        until += view.config.timing.hold_ns
    if now_ns >= until:
        return None
    return Decision(
        (),
        (Reason("RestartSilence", "this voter restarted and waits until any older lease has ended"),),
        until - now_ns + 1,
    )


def successor_goes_first(view: SiteView, now_ns: int) -> Decision | None:
    """Who was named by the holder gets one lease time to take over before others try.

    A holder remembers itself whom it gave the group to: its own voter may have no record to note that in, or be bound
    to another epoch.
    """
    promise, ttl_ns = view.promise, view.config.timing.ttl_ns
    named = [(view.given_to, view.given_at_ns)]
    if promise is not None and promise.released and view.released_at_ns is not None:
        named.append((promise.successor, view.released_at_ns))
    for successor, since_ns in named:
        if successor not in ("", view.site) and now_ns < since_ns + ttl_ns:
            return Decision((), (Reason("SuccessorGoesFirst", successor),), since_ns + ttl_ns - now_ns + 1)
    return None


def drivers_are_known(view: SiteView, now_ns: int) -> Decision | None:
    """A site whose drivers cannot be asked cannot serve."""
    unknown = [c for c in view.components.values() if c.health is Health.UNKNOWN]
    if not unknown:
        return None
    detail = "; ".join(f"{c.name}: {c.promotable_reason or 'no answer yet from its driver'}" for c in unknown)
    return _hold("DriverUnknown", detail, view)


def in_synchronous_set(view: SiteView, now_ns: int) -> Decision | None:
    """A site outside the newest set may lack acknowledged writes: that is a forced failover, for people."""
    if not view.config.lossless or (view.promise is None and not view.record_lost):
        return None
    newest = view.newest_set
    if view.site in newest.members:
        return None
    return _hold(
        "NotInSynchronousSet",
        f"{view.site} may lack acknowledged writes: the newest set is {newest.describe()}; it waits for a member",
        view,
    )


def why_not_promotable(components: Iterable[ComponentView]) -> str:
    """By component, why its driver refused it, or its reason; its health where the driver gives none."""
    return "; ".join(f"{c.name}: {c.refusal or c.promotable_reason or c.health.value}" for c in components)


def data_is_promotable(view: SiteView, now_ns: int) -> Decision | None:
    """The drivers' own evidence that everything acknowledged is still here; before the first epoch nothing was."""
    if not view.config.lossless or (view.promise is None and not view.record_lost):
        return None
    bad = [c for c in view.data if not view.has_data(c)]
    if not view.config.waits:
        resting_ns = _rests_ns(view, now_ns, proved=not bad)
        if resting_ns > 0:
            detail = why_not_promotable(bad) or view.tries.why
            if view.tries.count > 1:
                detail += f"; won in vain {view.tries.count} times, so others go first for longer"
            return Decision((), (Reason("DataNotPromotable", detail),), resting_ns)
        if view.is_its_own:
            return None  # its own is the newest; the driver of a copy that follows nobody need not say so
    if not bad:
        return None
    return _hold("DataNotPromotable", why_not_promotable(bad), view)


def _rests_ns(view: SiteView, now_ns: int, *, proved: bool) -> int:
    """For how long a site still lets others go first that won and could not serve.

    What was in the way may pass or be mended, so it tries again in the end; sooner where its drivers have evidence, but
    for longer each time that they tell the same and refuse for the same reason.
    """
    if not view.given_at_ns or view.given_to:
        return 0
    ttls = view.tries.rest_ttls(told_of(view.data)) if proved else LAST_REST_TTLS
    return view.given_at_ns + ttls * view.config.timing.ttl_ns - now_ns


def copies_are_within_rpo(view: SiteView, now_ns: int) -> Decision | None:
    """Of data that no set speaks of no more is lost than its driver was told to allow (`promotable`).

    Its word counts if it holds now, or held once the former holder's lease had ended for sure: since then nothing was
    written. A site to which the group belongs, or was given, loses nothing by this: what it has is the newest, or was
    proved.
    """
    promise = view.promise
    if (promise is None and not view.record_lost) or view.is_its_own:
        return None
    if promise is None:
        ended_ns = now_ns
    elif promise.released and not promise.never_won and view.released_at_ns is not None:
        ended_ns = view.released_at_ns
    else:
        ended_ns = view.holder_free_at_ns
    bad = [
        c
        for c in view.judged_here
        if not c.promotable and (c.promotable_at_ns is None or c.promotable_at_ns < ended_ns)
    ]
    if not bad:
        return None
    detail = why_not_promotable(bad)
    return _hold("CopyBeyondRpo", detail, view)


def a_stalled_process_waits(view: SiteView, now_ns: int) -> Decision | None:
    """A process whose own loop stalled must first hear what it missed."""
    until = view.stall_ended_ns + 2 * view.config.timing.heartbeat_ns
    if not view.stall_ended_ns or now_ns >= until:
        return None
    return Decision(
        (),
        (Reason("LocalStall", "this process itself stood still; it declares nobody dead yet"),),
        until - now_ns + 1,
    )


def majority_is_visible(view: SiteView, now_ns: int) -> Decision | None:
    """A contest that cannot be won is not begun."""
    electorate = view.electorate
    heard = [v for v in electorate.members if v == view.site or heard_now(view, v)]
    if electorate.carried_by(heard):
        return None
    return _hold(
        "NoMajorityVisible",
        f"heard {', '.join(heard)}; a majority is needed of {' and of '.join(v.describe() for v in electorate.lists)}",
        view,
    )


def back_off(view: SiteView, now_ns: int) -> Decision | None:
    """After a lost contest, the refusals say when to ask again."""
    if now_ns >= view.contend_not_before_ns:
        return None
    return Decision((), (Reason("BackOff", "the last contest was lost"),), view.contend_not_before_ns - now_ns + 1)


def heard_now(view: SiteView, voter: str) -> bool:
    """Whether another voter is connected and was heard lately."""
    return voter in view.peers and view.peers[voter].connected


def _hold(code: str, detail: str, view: SiteView) -> Decision:
    return Decision((), (Reason(code, detail),), view.config.timing.heartbeat_ns)


ContenderRule = tuple[str, "Callable[[SiteView, int], Decision | None]"]

# Each rule may say what to do instead of contending; when all are silent the site contends.
CONTENDER_RULES: tuple[ContenderRule, ...] = (
    ("fenced-first", fenced_first),
    ("only-voters-contend", only_voters_contend),
    ("wait-while-handing-over", wait_while_handing_over),
    ("follow-the-active", follow_the_active),
    ("only-the-initial-site-bootstraps", only_the_initial_site_bootstraps),
    ("people-decide-in-manual-mode", people_decide_in_manual_mode),
    ("enough-voters-declared", enough_voters_declared),
    ("in-synchronous-set", in_synchronous_set),
    ("holder-may-live", holder_may_live),
    ("own-voter-is-silent", own_voter_is_silent),
    ("successor-goes-first", successor_goes_first),
    ("drivers-are-known", drivers_are_known),
    ("data-is-promotable", data_is_promotable),
    ("copies-are-within-rpo", copies_are_within_rpo),
    ("a-stalled-process-waits", a_stalled_process_waits),
    ("majority-is-visible", majority_is_visible),
    ("back-off", back_off),
)


def next_epoch(view: SiteView) -> int:
    """One more than the highest epoch that this site has seen promised anywhere."""
    if view.promise is None and view.lease is None and not view.record_lost:
        return BOOTSTRAP_EPOCH
    own = [view.promise.epoch] if view.promise is not None else []
    held = [view.lease.epoch] if view.lease is not None else []
    return max(view.highest_promised, *own, *held, *(p.epoch for p in view.peers.values())) + 1


def contend(view: SiteView) -> Decision:
    """Nothing speaks against it: ask for the next epoch."""
    promise = view.promise
    known_set = view.newest_set
    if view.record_lost:
        why = Reason("RecordLost", f"the own voter has no record; the others have {known_set.describe()}")
    elif promise is None:
        why = Reason("Bootstrap", "the group has never been active")
        # Nothing was ever acknowledged without this site. With no member at all, a first holder that dies before a
        # majority has stored its first set would leave a group that nobody may take, not even itself.
        known_set = SyncSet(SetVersion(BOOTSTRAP_EPOCH, 0), frozenset({view.site}))
    elif promise.released:
        why = Reason("Released", f"{promise.site} released epoch {promise.epoch}")
    elif promise.site == view.site:
        why = Reason("Resume", f"epoch {promise.epoch} was this site's own and nobody has taken over")
    else:
        why = Reason("HolderSilent", f"the lease of {promise.site} (epoch {promise.epoch}) has ended unrenewed")
    told = told_of(view.data) if view.config.lossless and not view.config.waits else ""
    asked = Contend(next_epoch(view), known_set, view.electorate, told)
    return Decision((asked,), (why,), view.config.timing.heartbeat_ns)

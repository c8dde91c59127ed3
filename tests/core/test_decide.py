"""A site's decision: each rule speaks where it must and is silent where it must, and there is always a decision."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graf.api.timing import PROFILES
from graf.api.values import Electorate, Role, SetVersion, Stage, SyncSet, VoterList
from graf.core.campaign import Contest
from graf.core.contender import CONTENDER_RULES
from graf.core.holder import (
    ADMISSION_TIMEOUT_HEARTBEATS,
    HOLDER_RULES,
    JOIN_TIMEOUT_HEARTBEATS,
    take_over_refusals,
)
from graf.core.lease import Lease
from graf.core.messages import Campaign
from graf.core.retry import FIRST_REST_TTLS, LAST_REST_TTLS, Tries, told_of
from graf.core.site import decide
from graf.core.syncset import HolderSet
from graf.core.view import (
    ComponentConfig,
    ComponentView,
    Contend,
    Decision,
    Fence,
    Follow,
    FollowerView,
    GroupConfig,
    HandOver,
    Health,
    Join,
    PeerView,
    ProposeSet,
    SettleVoters,
    SiteView,
    StopJoining,
)
from graf.core.voter import Promise
from graf.core.voterchange import Settling

G = "vcu-db"
TIMING = PROFILES["metro"]
HEARTBEAT, TTL, SUSPECT = TIMING.heartbeat_ns, TIMING.ttl_ns, TIMING.suspect_ns
LIST = VoterList(1, ("east", "west", "witness"))
VOTERS = Electorate(LIST)
NOW = 100 * TTL
BOTH, EAST = frozenset({"east", "west"}), frozenset({"east"})
SET = SyncSet(SetVersion(3, 2), BOTH)
EAST_SET = SyncSet(SetVersion(3, 3), EAST)

CONFIG = GroupConfig(
    G,
    "east",
    ("east", "west"),
    LIST,
    TIMING,
    lossless=True,
    automatic=True,
    initial_site="east",
    components=(
        ComponentConfig("db", Stage.DATA, synchronous=True),
        ComponentConfig("route", Stage.TRAFFIC, ("db",), gate=True),
    ),
)
FOLLOWER = FollowerView(connected=True, acknowledging=True, stalled_ns=0)
DB = ComponentView(
    "db",
    Health.HEALTHY,
    Role.ACTIVE,
    accepting=True,
    settled=True,
    set_in_force=BOTH,
    followers=MappingProxyType({"west": FOLLOWER}),
)
ROUTE = ComponentView("route", Health.HEALTHY, Role.ACTIVE, accepting=True, settled=True)
WEST = PeerView("west", True, Role.STANDBY, 3, promotable=True, ready=True, known_set=SET)
WITNESS = PeerView("witness", True, epoch=3)
PROMISE = Promise(G, 3, "east", TTL, VOTERS, SET)


def peers(*changed: PeerView) -> MappingProxyType[str, PeerView]:
    return MappingProxyType({p.name: p for p in (WEST, WITNESS, *changed)})


def components(*changed: ComponentView) -> MappingProxyType[str, ComponentView]:
    return MappingProxyType({c.name: c for c in (DB, ROUTE, *changed)})


HOLDER = SiteView(
    CONFIG,
    Role.ACTIVE,
    Lease(G, 3, VOTERS, TIMING, MappingProxyType(dict.fromkeys(VOTERS.members, NOW))),
    None,
    HolderSet(3, VOTERS, SET, counter=2),
    PROMISE,
    holder_free_at_ns=0,
    silent_until_ns=0,
    released_at_ns=None,
    components=components(),
    peers=peers(),
    served=True,
)
ALONE = replace(HOLDER, holder_set=HolderSet(3, VOTERS, EAST_SET, counter=3))

# West was the holder and has been silent for long; everything speaks for east.
IDLE_DB = replace(DB, role=Role.STANDBY, accepting=False, promotable=True, followers=MappingProxyType({}))
IDLE_ROUTE = replace(ROUTE, role=Role.STANDBY, accepting=False)
IDLE = components(IDLE_DB, IDLE_ROUTE)
GONE = replace(WEST, connected=False, role=None, promotable=False)
CONTENDER = replace(
    HOLDER,
    role=Role.STANDBY,
    lease=None,
    holder_set=None,
    promise=replace(PROMISE, site="west"),
    holder_free_at_ns=NOW - 1,
    components=IDLE,
    peers=peers(GONE),
)


def config(**changed: Any) -> GroupConfig:
    return replace(CONFIG, **changed)


def holder(**changed: Any) -> SiteView:
    return replace(HOLDER, **changed)


def alone(**changed: Any) -> SiteView:
    return replace(ALONE, **changed)


def contender(**changed: Any) -> SiteView:
    return replace(CONTENDER, **changed)


def ending(left_ns: int) -> Lease:
    return Lease(G, 3, VOTERS, TIMING, MappingProxyType(dict.fromkeys(VOTERS.members, NOW + left_ns - TTL)))


def troubled(health: Health, since_ns: int = NOW) -> MappingProxyType[str, ComponentView]:
    return components(replace(DB, health=health, troubled_since_ns=since_ns))


def with_files(health: Health, *, automatic: bool = True, **changed: Any) -> SiteView:
    """East with a volume beside its database, which is copied without the synchronous set."""
    files = ComponentConfig("files", Stage.DATA, copied=True, limited=True)
    volume = ComponentView("files", health, Role.ACTIVE, accepting=True, promotable=True, settled=True)
    changed.setdefault("components", components(volume))
    return holder(config=config(automatic=automatic, components=(*CONFIG.components, files)), **changed)


def contender_with_files(*, promotable_at_ns: int | None, promotable: bool = False, **changed: Any) -> SiteView:
    """East, which would take over from west, with such a volume."""
    files = ComponentConfig("files", Stage.DATA, copied=True, limited=True)
    volume = ComponentView(
        "files", Health.HEALTHY, Role.STANDBY, promotable=promotable, promotable_at_ns=promotable_at_ns, settled=True
    )
    seen = components(IDLE_DB, IDLE_ROUTE, volume)
    return contender(config=config(components=(*CONFIG.components, files)), components=seen, **changed)


COPIED = config(
    waits=False,
    components=(
        ComponentConfig("db", Stage.DATA, copied=True, limited=True),
        ComponentConfig("route", Stage.TRAFFIC, gate=True),
    ),
)

UNLIMITED = replace(COPIED, components=tuple(replace(c, limited=False) for c in COPIED.components))


def copied(**changed: Any) -> SiteView:
    """East holds a group whose data is only copied; west's copy is in the set."""
    changed.setdefault("peers", peers(replace(WEST, copy_spare_ns=TTL + 1)))
    return holder(config=COPIED, **changed)


def copied_alone(**changed: Any) -> SiteView:
    changed.setdefault("holder_set", HolderSet(3, VOTERS, EAST_SET, counter=3))
    return replace(copied(), **changed)


def copied_contender(db: ComponentView, **changed: Any) -> SiteView:
    return contender(config=COPIED, components=components(IDLE_ROUTE, db), **changed)


def without_limit(view: SiteView) -> SiteView:
    parts = tuple(replace(component, limited=False) for component in view.config.components)
    return replace(view, config=replace(view.config, components=parts))


# The copy at east is whole, and seems to grow older because west is silent.
AGED = replace(IDLE_DB, promotable=False, promotable_at_ns=NOW - 9 * TTL)

# It has been won in vain five times, with what is told now each time.
IN_VAIN = Tries(5, 9, told_of([AGED]), frozenset({told_of([AGED]), "db: no"}), "db: no")

REFUSED = replace(AGED, role=None, promotable=True, refusal="not whole")

# West's copy is about to be too old, and the set without it is on no majority's disks.
MARGIN = TIMING.fence_margin_ns + 2 * HEARTBEAT
UNSTORED = copied(
    holder_set=HolderSet(3, VOTERS, SET, counter=2).propose(EAST),
    set_told_since_ns=NOW - TTL + MARGIN,
    peers=peers(replace(WEST, copy_spare_ns=MARGIN)),
)

JOINING = HolderSet(3, VOTERS, EAST_SET, joining="west", counter=3)
BEHIND = components(replace(DB, settled=False))
TWO = VoterList(1, ("east", "west"))
RELEASED = replace(PROMISE, site="west", released=True, successor="west")
# West asked for an epoch that nobody won, after one that had been east's.
UNWON = replace(RELEASED, successor="", never_won=True, entitled=frozenset({"east"}))

# A change of voters: another witness is declared.
NEW_LIST = VoterList(2, ("east", "west", "w2"))
JOINT = Electorate(LIST, NEW_LIST)
W2 = PeerView("w2", True)
CHANGING = holder(config=config(voters=NEW_LIST), peers=peers(W2))
JOINT_SET = SyncSet(SetVersion(4, 1), BOTH)
WON_AT = NOW - ADMISSION_TIMEOUT_HEARTBEATS * HEARTBEAT


def joint(*heard: str, **changed: Any) -> SiteView:
    """East has won epoch 4 by both lists; these voters have granted."""
    view = replace(
        CHANGING,
        lease=Lease(G, 4, JOINT, TIMING, MappingProxyType(dict.fromkeys(heard or JOINT.members, NOW))),
        holder_set=HolderSet(4, JOINT, JOINT_SET, counter=1),
        promise=replace(PROMISE, epoch=4, voters=JOINT, proposed_in=4),
        settling=Settling(4, JOINT),
        won_at_ns=NOW,
    )
    return replace(view, **changed)


def changing(**changed: Any) -> SiteView:
    return replace(CHANGING, **changed)


CHANGE_CONTEST = Contest("east", Campaign(G, 4, TTL, JOINT, SET, lossless=True), TIMING, NOW)

# Nobody has told of an epoch: the group has never served.
FRESH = peers(replace(WEST, epoch=0, known_set=SyncSet()), replace(WITNESS, epoch=0))
NEVER_SERVED = peers(replace(GONE, epoch=0, known_set=SyncSet()), replace(WITNESS, epoch=0))
# East has just won epoch 3 and adopted the set of both sites.
NEW = holder(holder_set=HolderSet.adopted(3, VOTERS, SET, BOTH), won_at_ns=NOW, served=False)
# The witness has promised epoch 4 to a contender that lost, and renews epoch 3 no more.
ASTRAY = holder(
    lease=Lease(G, 3, VOTERS, TIMING, MappingProxyType({"east": NOW, "west": NOW, "witness": NOW - TTL})),
    highest_promised=4,
    astray=frozenset({"witness"}),
)
UNPROMOTED = replace(DB, role=None, accepting=False, promotable=False)
# East has shrunk the set to itself, and its server died before it was promoted.
SHRUNK_SET = HolderSet(3, VOTERS, SyncSet(SetVersion(3, 1), EAST), counter=1, inherited=BOTH)
SHRUNK = replace(NEW, components=components(replace(UNPROMOTED, health=Health.DEAD)), holder_set=SHRUNK_SET)

# rule, view, first reason, actions
SPEAKS: list[tuple[str, SiteView, str, tuple[Any, ...]]] = [
    ("copies-are-within-rpo", contender_with_files(promotable_at_ns=None), "CopyBeyondRpo", ()),
    ("copies-are-within-rpo", contender_with_files(promotable_at_ns=NOW - 2), "CopyBeyondRpo", ()),
    (
        "copies-are-within-rpo",  # the own record is lost: when the lease of whom ended is not known
        contender_with_files(promotable_at_ns=NOW - 1, promise=None, peers=peers(replace(GONE, voters=VOTERS))),
        "CopyBeyondRpo",
        (),
    ),
    (
        "keep-current-copies",
        copied(peers=peers(replace(WEST, copy_spare_ns=TTL))),
        "CopyBeyondRpo",
        (ProposeSet(EAST),),
    ),
    (
        "keep-current-copies",
        copied(peers=peers(replace(WEST, copy_refusal="files: copying"))),
        "CopyBeyondRpo",
        (ProposeSet(EAST),),
    ),
    (
        "keep-current-copies",  # how old the copy of a silent site is by now is all that counts
        copied(peers=peers(replace(WEST, connected=False, copy_spare_ns=TTL))),
        "CopyBeyondRpo",
        (ProposeSet(EAST),),
    ),
    ("keep-current-copies", copied_alone(), "CopyWithinRpo", (ProposeSet(BOTH),)),
    (
        "keep-current-copies",  # where no limit is known a silent site may lack anything
        replace(copied(peers=peers(replace(WEST, connected=False))), config=UNLIMITED),
        "CopyBeyondRpo",
        (ProposeSet(EAST),),
    ),
    (
        "copies-are-within-rpo",  # without a limit the set cannot say how old it is
        without_limit(copied_contender(replace(AGED, promotable_at_ns=NOW - 2))),
        "CopyBeyondRpo",
        (),
    ),
    (
        "copies-are-within-rpo",  # a contest that it lost made nothing its own, nor did it end the holder's lease
        contender_with_files(
            promotable_at_ns=NOW - 2,
            promise=replace(UNWON, site="east", entitled=frozenset({"west"})),
            released_at_ns=NOW - 9,
            holder_free_at_ns=NOW - 1,
        ),
        "CopyBeyondRpo",
        (),
    ),
    (
        "keep-current-copies",  # without data every site that stands by may take over
        replace(copied_alone(peers=peers()), config=replace(COPIED, lossless=False, components=COPIED.components[1:])),
        "CopyWithinRpo",
        (ProposeSet(BOTH),),
    ),
    (
        "new-holder-shrinks",  # without data it keeps nobody out, and is the record that the group has served
        holder(config=config(lossless=False, waits=False), holder_set=HolderSet.adopted(3, VOTERS, SET, BOTH)),
        "NewHolder",
        (ProposeSet(EAST),),
    ),
    (
        "release-when-data-is-lost",
        copied(components=troubled(Health.DEAD, NOW - SUSPECT)),
        "DataComponentLost",
        (HandOver("west"),),
    ),
    ("stop-without-a-stored-set", UNSTORED, "SetNotStored", (Fence(),)),
    ("stop-without-a-stored-set", replace(UNSTORED, peers=peers(GONE)), "SetNotStored", (Fence(),)),
    (
        "stop-without-a-stored-set",  # it is not in the newest set, and in one that some voters may have
        replace(UNSTORED, holder_set=HolderSet(3, VOTERS, EAST_SET, counter=3).propose(BOTH).propose(EAST)),
        "SetNotStored",
        (Fence(),),
    ),
    (
        "keep-current-copies",  # it grows too old while it is being let in
        copied_alone(
            holder_set=HolderSet(3, VOTERS, EAST_SET, counter=3).propose(BOTH),
            peers=peers(replace(WEST, copy_spare_ns=TTL)),
        ),
        "CopyBeyondRpo",
        (ProposeSet(EAST),),
    ),
    ("data-is-promotable", copied_contender(replace(AGED, promotable_at_ns=None)), "DataNotPromotable", ()),
    (
        "data-is-promotable",  # it has given the group back because it could not open its data
        copied_contender(
            replace(AGED, promotable_at_ns=None),
            promise=PROMISE,
            given_at_ns=NOW - LAST_REST_TTLS * TTL + 1,
        ),
        "DataNotPromotable",
        (),
    ),
    (
        "data-is-promotable",  # its driver says that it could, and did not when it was asked
        copied_contender(AGED, given_at_ns=NOW - FIRST_REST_TTLS * TTL + 1),
        "DataNotPromotable",
        (),
    ),
    (
        "data-is-promotable",  # and has done so before
        copied_contender(AGED, given_at_ns=NOW - 16 * FIRST_REST_TTLS * TTL + 1, tries=IN_VAIN),
        "DataNotPromotable",
        (),
    ),
    (
        "data-is-promotable",  # however often
        copied_contender(AGED, given_at_ns=NOW - LAST_REST_TTLS * TTL + 1, tries=replace(IN_VAIN, count=10**9)),
        "DataNotPromotable",
        (),
    ),
    ("fence-before-lease-ends", holder(lease=ending(TIMING.fence_margin_ns)), "LeaseEnding", (Fence(),)),
    ("fence-before-lease-ends", holder(lease=ending(-TTL)), "LeaseEnding", (Fence(),)),
    ("wait-while-handing-over", holder(handing_over=True), "HandingOver", ()),
    (
        "new-holder-shrinks",
        holder(holder_set=HolderSet.adopted(3, VOTERS, SET, BOTH)),
        "NewHolder",
        (ProposeSet(EAST),),
    ),
    (
        "give-back-without-data",
        replace(NEW, components=components(replace(UNPROMOTED, health=Health.DEAD))),
        "DataLostBeforePromotion",
        (HandOver(""),),
    ),
    (
        "give-back-without-data",  # a server that came back by itself and is no proof of anything
        replace(NEW, components=components(UNPROMOTED), won_at_ns=NOW - SUSPECT),
        "DataLostBeforePromotion",
        (HandOver(""),),
    ),
    ("give-back-without-data", SHRUNK, "DataLostBeforePromotion", (ProposeSet(BOTH),)),
    (
        "give-back-without-data",  # its driver was wrong, or is old, and has said no since
        replace(NEW, config=COPIED, components=components(REFUSED), won_at_ns=NOW - SUSPECT),
        "DataLostBeforePromotion",
        (HandOver(""),),
    ),
    (
        "give-back-without-data",  # also where the group was its own
        replace(
            NEW,
            config=COPIED,
            components=components(replace(REFUSED, promotable=False)),
            won_at_ns=NOW - SUSPECT,
            promise=replace(PROMISE, entitled=EAST),
        ),
        "DataLostBeforePromotion",
        (HandOver(""),),
    ),
    (
        "give-back-without-data",  # the wider set is on its way
        replace(SHRUNK, holder_set=SHRUNK_SET.propose(BOTH)),
        "DataLostBeforePromotion",
        (),
    ),
    (
        "give-back-without-data",  # the narrower one was on its way
        replace(SHRUNK, holder_set=HolderSet.adopted(3, VOTERS, SET, BOTH).propose(EAST)),
        "DataLostBeforePromotion",
        (ProposeSet(BOTH),),
    ),
    (
        "give-back-without-data",
        replace(SHRUNK, holder_set=replace(SHRUNK_SET, current=SyncSet(SetVersion(3, 2), BOTH))),
        "DataLostBeforePromotion",
        (HandOver(""),),
    ),
    (
        "new-holder-shrinks",  # for a moment a promotion on its way looks like that; the set stays as it is
        replace(NEW, components=components(UNPROMOTED)),
        "DataNotPromotable",
        (),
    ),
    ("release-when-data-is-lost", holder(components=troubled(Health.DEAD)), "DataComponentLost", (HandOver("west"),)),
    (
        "release-when-data-is-lost",
        holder(components=troubled(Health.UNKNOWN, NOW - SUSPECT)),
        "DataComponentLost",
        (HandOver("west"),),
    ),
    ("release-when-data-is-lost", holder(components=troubled(Health.DEAD), peers=peers(GONE)), "DataComponentLost", ()),
    (
        "release-when-data-is-lost",
        holder(components=troubled(Health.DEAD), config=config(automatic=False)),
        "DataComponentLost",
        (),
    ),
    ("release-when-data-is-lost", alone(components=troubled(Health.DEAD)), "DataComponentLost", ()),
    ("release-when-a-copy-is-lost", with_files(Health.DEAD), "DataComponentLost", (HandOver("west"),)),
    ("tell-a-lost-copy", with_files(Health.DEAD, peers=peers(GONE)), "DataComponentLost", ()),
    (
        "tell-a-lost-copy",
        with_files(Health.DEAD, holder_set=ALONE.holder_set, join_not_before_ns=NOW + 1),
        "DataComponentLost",
        (),
    ),
    ("tell-a-lost-copy", with_files(Health.DEAD, automatic=False), "DataComponentLost", ()),
    (
        "shrink-lost-member",  # a lost copy keeps nobody waiting
        with_files(Health.DEAD, peers=peers(GONE), lost_since_ns=MappingProxyType({"west": NOW - SUSPECT})),
        "MemberLost",
        (ProposeSet(EAST),),
    ),
    (
        "shrink-lost-member",
        holder(lost_since_ns=MappingProxyType({"west": NOW - SUSPECT})),
        "MemberLost",
        (ProposeSet(EAST),),
    ),
    ("shrink-lost-member", holder(lost_since_ns=MappingProxyType({"west": NOW - 1})), "MemberSuspected", ()),
    (
        "shrink-lost-member",
        alone(holder_set=JOINING, lost_since_ns=MappingProxyType({"west": NOW - SUSPECT})),
        "JoinFailed",
        (StopJoining("west"),),
    ),
    ("grow-with-caught-up-member", alone(), "MemberReturns", (Join("west"),)),
    ("grow-with-caught-up-member", alone(holder_set=JOINING), "MemberCaughtUp", (ProposeSet(BOTH),)),
    (
        "grow-with-caught-up-member",
        alone(holder_set=JOINING, components=BEHIND, join_since_ns=NOW),
        "MemberJoining",
        (),
    ),
    (
        "grow-with-caught-up-member",
        alone(
            holder_set=JOINING,
            components=BEHIND,
            join_since_ns=NOW - JOIN_TIMEOUT_HEARTBEATS * HEARTBEAT - 1,
        ),
        "JoinFailed",
        (StopJoining("west"),),
    ),
    ("wait-for-the-contest", changing(contest=CHANGE_CONTEST), "Contending", ()),
    (
        "wait-for-the-contest",  # also when its data component dies meanwhile
        changing(contest=CHANGE_CONTEST, components=troubled(Health.DEAD)),
        "Contending",
        (),
    ),
    (
        "new-holder-shrinks",  # a change of voters is no failover: who stands by stays in the set
        joint(holder_set=HolderSet.adopted(4, JOINT, SET, BOTH), continued=True),
        "NewHolder",
        (ProposeSet(BOTH),),
    ),
    (
        "new-holder-shrinks",
        joint(holder_set=HolderSet.adopted(4, JOINT, SET, BOTH), peers=peers(W2, GONE), continued=True),
        "NewHolder",
        (ProposeSet(EAST),),
    ),
    ("settle-new-voters", joint(), "SettlingVoters", (SettleVoters(),)),
    (
        "settle-new-voters",  # a new voter that never answers is waited for, for a while
        joint("east", "west", "witness", won_at_ns=WON_AT),
        "SettlingVoters",
        (SettleVoters(),),
    ),
    ("change-voters", CHANGING, "ChangeVoters", (Contend(4, SET, JOINT),)),
    (
        "change-voters",  # what was begun is finished before another change
        changing(config=config(voters=VoterList(3, ("east", "west", "w3"))), promise=replace(PROMISE, voters=JOINT)),
        "ChangeVoters",
        (Contend(4, SET, JOINT),),
    ),
    (
        "change-voters",
        changing(config=config(voters=VoterList(2, ("north", "west", "witness")))),
        "ActiveNotOnNewList",
        (),
    ),
    ("change-voters", changing(peers=peers(replace(W2, connected=False))), "VoterChangeWaits", ()),
    ("change-voters", changing(holder_set=HolderSet(3, VOTERS, SET, counter=2).propose(EAST)), "VoterChangeWaits", ()),
    ("change-voters", changing(contend_not_before_ns=NOW + 1), "VoterChangeWaits", ()),
    ("change-voters", changing(served=False), "VoterChangeWaits", ()),
    (
        "change-voters",  # others have granted a change that the own voter has not seen: it is finished first
        changing(config=config(voters=VoterList(3, ("east", "west", "w3"))), voters_hint=JOINT),
        "ChangeVoters",
        (Contend(4, SET, JOINT),),
    ),
    ("change-voters", changing(lease=ending(TTL // 2 - 1)), "VoterChangeWaits", ()),
    ("regain-voters", ASTRAY, "RegainVoters", (Contend(5, SET, VOTERS),)),
    ("regain-voters", replace(ASTRAY, contend_not_before_ns=NOW + 1), "RegainWaits", ()),
    ("fenced-first", contender(components=components()), "AcceptingWithoutLease", (Fence(),)),
    (
        "only-voters-contend",  # a change has taken it off the list
        contender(promise=replace(PROMISE, voters=Electorate(VoterList(2, ("west", "w2", "w3"))))),
        "NotAVoter",
        (),
    ),
    ("only-voters-contend", contender(promise=None), "VotersUnknown", ()),
    (
        "only-voters-contend",  # a refusal has told so
        contender(voters_hint=Electorate(VoterList(2, ("west", "w2", "w3")))),
        "NotAVoter",
        (),
    ),
    ("wait-while-handing-over", contender(handing_over=True), "HandingOver", ()),
    (
        "follow-the-active",
        contender(peers=peers(replace(WEST, role=Role.ACTIVE))),
        "ActiveElsewhere",
        (Follow("west", 3),),
    ),
    (
        "only-the-initial-site-bootstraps",
        contender(promise=None, config=config(initial_site="west"), peers=NEVER_SERVED),
        "AwaitingBootstrap",
        (),
    ),
    ("only-the-initial-site-bootstraps", contender(promise=None, peers=NEVER_SERVED), "AwaitingVoters", ()),
    ("people-decide-in-manual-mode", contender(config=config(automatic=False)), "ManualFailover", ()),
    (
        "people-decide-in-manual-mode",  # west has won and given the epoch to nobody
        contender(promise=replace(UNWON, never_won=False), config=config(automatic=False)),
        "ManualFailover",
        (),
    ),
    (
        "enough-voters-declared",
        contender(promise=replace(PROMISE, site="west", voters=Electorate(TWO))),
        "NoThirdVoter",
        (),
    ),
    (
        "in-synchronous-set",
        contender(promise=replace(PROMISE, site="west", stored_set=SyncSet(SetVersion(99, 1), frozenset({"west"})))),
        "NotInSynchronousSet",
        (),
    ),
    (
        "in-synchronous-set",
        contender(peers=peers(replace(GONE, known_set=replace(EAST_SET, members=frozenset({"west"}))))),
        "NotInSynchronousSet",
        (),
    ),
    (
        "in-synchronous-set",  # its own voter and its peers know an older set: a voter that refused it said so
        contender(refused_set=SyncSet(SetVersion(99, 1), frozenset({"west"}))),
        "NotInSynchronousSet",
        (),
    ),
    (
        "in-synchronous-set",  # a peer told it before it lost its record
        contender(told_set=SyncSet(SetVersion(99, 1), frozenset({"west"}))),
        "NotInSynchronousSet",
        (),
    ),
    ("holder-may-live", contender(holder_free_at_ns=NOW), "HolderMayLive", ()),
    ("own-voter-is-silent", contender(silent_until_ns=NOW + 1), "RestartSilence", ()),
    ("successor-goes-first", contender(promise=RELEASED, released_at_ns=NOW - TTL + 1), "SuccessorGoesFirst", ()),
    (
        "successor-goes-first",  # the own voter is bound to an epoch that nobody won
        contender(promise=UNWON, released_at_ns=NOW, given_to="west", given_at_ns=NOW - TTL + 1),
        "SuccessorGoesFirst",
        (),
    ),
    (
        "successor-goes-first",  # the own voter has no record: what was given away is remembered here alone
        contender(
            promise=None,
            peers=peers(replace(GONE, voters=VOTERS)),
            silent_until_ns=NOW - TIMING.hold_ns,
            given_to="west",
            given_at_ns=NOW - TTL + 1,
        ),
        "SuccessorGoesFirst",
        (),
    ),
    (
        "drivers-are-known",
        contender(components=components(IDLE_DB, replace(IDLE_ROUTE, health=Health.UNKNOWN))),
        "DriverUnknown",
        (),
    ),
    (
        "data-is-promotable",
        contender(components=components(IDLE_ROUTE, replace(IDLE_DB, promotable=False))),
        "DataNotPromotable",
        (),
    ),
    ("a-stalled-process-waits", contender(stall_ended_ns=NOW - 2 * HEARTBEAT + 1), "LocalStall", ()),
    ("majority-is-visible", contender(peers=peers(GONE, replace(WITNESS, connected=False))), "NoMajorityVisible", ()),
    ("back-off", contender(contend_not_before_ns=NOW + 1), "BackOff", ()),
]

LOST_LONG_AGO = MappingProxyType({"west": NOW - 9 * SUSPECT})
# Views just beside those above: the rule has nothing to say.
SILENT: list[tuple[str, SiteView]] = [
    ("copies-are-within-rpo", contender()),
    ("copies-are-within-rpo", contender_with_files(promotable_at_ns=None, promotable=True)),
    ("copies-are-within-rpo", contender_with_files(promotable_at_ns=NOW - 1)),
    ("copies-are-within-rpo", contender_with_files(promotable_at_ns=None, promise=PROMISE)),
    (
        "copies-are-within-rpo",
        contender_with_files(promotable_at_ns=NOW, promise=replace(RELEASED, successor=""), released_at_ns=NOW),
    ),
    ("copies-are-within-rpo", contender_with_files(promotable_at_ns=None, promise=None, peers=FRESH)),
    ("copies-are-within-rpo", copied_contender(AGED)),
    ("copies-are-within-rpo", without_limit(contender_with_files(promotable_at_ns=None))),
    ("keep-current-copies", holder()),
    ("keep-current-copies", copied()),
    ("keep-current-copies", copied(peers=peers(replace(WEST, connected=False, copy_spare_ns=TTL + 1)))),
    ("keep-current-copies", copied(holder_set=HolderSet(3, VOTERS, SET, counter=2).propose(EAST))),
    ("keep-current-copies", copied_alone(peers=peers(replace(WEST, copy_spare_ns=TTL)))),
    ("keep-current-copies", copied_alone(peers=peers(replace(WEST, copy_refusal="files: copying")))),
    ("keep-current-copies", copied_alone(peers=peers(replace(WEST, role=Role.INVALIDATED)))),
    ("keep-current-copies", copied_alone(peers=peers(replace(WEST, epoch=2)))),
    ("stop-without-a-stored-set", copied()),
    ("stop-without-a-stored-set", replace(UNSTORED, set_told_since_ns=NOW - TTL + MARGIN + 1)),
    ("stop-without-a-stored-set", replace(UNSTORED, peers=peers(replace(WEST, copy_spare_ns=MARGIN + 1)))),
    ("stop-without-a-stored-set", without_limit(UNSTORED)),
    ("stop-without-a-stored-set", replace(UNSTORED, served=False)),
    ("stop-without-a-stored-set", replace(UNSTORED, config=CONFIG)),
    ("stop-without-a-stored-set", replace(UNSTORED, config=replace(COPIED, lossless=False))),
    (
        "stop-without-a-stored-set",  # it is a wider one that is on its way
        replace(UNSTORED, holder_set=HolderSet(3, VOTERS, EAST_SET, counter=3).propose(BOTH)),
    ),
    ("shrink-lost-member", copied(lost_since_ns=LOST_LONG_AGO)),
    ("grow-with-caught-up-member", copied_alone()),
    # What is here only is not given up for what may pass, nor before it was started again.
    ("release-when-data-is-lost", copied(components=troubled(Health.DEAD, NOW - SUSPECT + 1))),
    ("release-when-data-is-lost", copied(components=troubled(Health.UNKNOWN, NOW - 9 * SUSPECT))),
    (
        "give-back-without-data",  # to open a copy may take a while, in which nobody tells how old it is
        replace(NEW, config=COPIED, components=components(replace(AGED, role=None)), won_at_ns=NOW - 9 * SUSPECT),
    ),
    ("data-is-promotable", copied_contender(AGED)),
    ("data-is-promotable", copied_contender(AGED, given_at_ns=NOW - FIRST_REST_TTLS * TTL)),
    ("data-is-promotable", copied_contender(AGED, given_at_ns=NOW, given_to="west")),
    ("data-is-promotable", copied_contender(AGED, given_at_ns=NOW - 16 * FIRST_REST_TTLS * TTL, tries=IN_VAIN)),
    (
        "data-is-promotable",  # a lone site goes on, however often it was in vain
        copied_contender(AGED, given_at_ns=NOW - LAST_REST_TTLS * TTL, tries=replace(IN_VAIN, count=10**9)),
    ),
    (
        "data-is-promotable",  # another status than it was tried with
        copied_contender(
            replace(AGED, promotable_reason="it was mounted anew"),
            given_at_ns=NOW - FIRST_REST_TTLS * TTL,
            tries=IN_VAIN,
        ),
    ),
    ("data-is-promotable", copied_contender(replace(AGED, promotable_at_ns=None), promise=PROMISE)),
    (
        "data-is-promotable",  # what was in the way may be mended
        copied_contender(
            replace(AGED, promotable_at_ns=None),
            promise=PROMISE,
            given_at_ns=NOW - LAST_REST_TTLS * TTL,
        ),
    ),
    (
        "give-back-without-data",  # a refusal may be about what passes
        replace(NEW, config=COPIED, components=components(REFUSED), won_at_ns=NOW - SUSPECT + 1),
    ),
    (
        "give-back-without-data",  # its own, and slow to open
        replace(
            NEW,
            config=COPIED,
            components=components(replace(AGED, role=None, promotable_at_ns=None)),
            won_at_ns=NOW - 9 * SUSPECT,
            promise=replace(PROMISE, entitled=EAST),
        ),
    ),
    # Unknown and Unhealthy may pass, and what a standby has of it is older.
    ("release-when-a-copy-is-lost", with_files(Health.UNKNOWN)),
    ("release-when-a-copy-is-lost", with_files(Health.UNHEALTHY)),
    ("release-when-a-copy-is-lost", with_files(Health.DEAD, peers=peers(replace(WEST, ready=False)))),
    ("release-when-a-copy-is-lost", with_files(Health.DEAD, automatic=False)),
    ("tell-a-lost-copy", with_files(Health.UNHEALTHY)),
    ("tell-a-lost-copy", holder(components=components(replace(ROUTE, health=Health.DEAD)))),
    ("fence-before-lease-ends", holder(lease=ending(TIMING.fence_margin_ns + 1))),
    ("wait-while-handing-over", holder()),
    ("new-holder-shrinks", holder()),
    ("give-back-without-data", NEW),
    ("give-back-without-data", replace(NEW, components=components(UNPROMOTED))),
    (
        "give-back-without-data",  # it was active in this epoch: what it acknowledged is nowhere else for sure
        holder(components=components(UNPROMOTED), won_at_ns=NOW - SUSPECT, served=True),
    ),
    ("give-back-without-data", replace(SHRUNK, served=True)),
    (
        "give-back-without-data",
        replace(NEW, components=components(replace(UNPROMOTED, health=Health.UNKNOWN)), won_at_ns=NOW - SUSPECT),
    ),
    ("regain-voters", holder()),
    ("regain-voters", holder(highest_promised=4)),
    ("regain-voters", replace(ASTRAY, astray=frozenset())),
    ("regain-voters", replace(ASTRAY, peers=peers(replace(WITNESS, connected=False)))),
    ("release-when-data-is-lost", holder(components=troubled(Health.UNKNOWN, NOW - SUSPECT + 1))),
    ("release-when-data-is-lost", holder(components=troubled(Health.UNHEALTHY))),
    ("shrink-lost-member", holder()),
    (
        "shrink-lost-member",
        holder(holder_set=HolderSet(3, VOTERS, SET, counter=2).propose(EAST), lost_since_ns=LOST_LONG_AGO),
    ),
    ("shrink-lost-member", alone(lost_since_ns=LOST_LONG_AGO)),
    ("grow-with-caught-up-member", holder()),
    ("grow-with-caught-up-member", alone(join_not_before_ns=NOW + 1)),
    ("grow-with-caught-up-member", alone(components=BEHIND)),
    ("grow-with-caught-up-member", alone(peers=peers(GONE))),
    ("grow-with-caught-up-member", alone(peers=peers(replace(WEST, role=Role.INVALIDATED)))),
    ("grow-with-caught-up-member", alone(peers=peers(replace(WEST, epoch=2)))),
    ("grow-with-caught-up-member", alone(peers=peers(replace(WEST, promotable=False)))),
    ("wait-for-the-contest", CHANGING),
    ("settle-new-voters", holder()),
    ("settle-new-voters", joint("east", "west", "witness")),
    ("settle-new-voters", joint(holder_set=HolderSet(4, JOINT, SET, counter=1).propose(BOTH))),
    ("settle-new-voters", joint(settling=Settling(4, JOINT, begun=True))),
    ("change-voters", holder()),
    ("change-voters", holder(config=config(voters=VoterList(1, NEW_LIST.members)))),
    ("change-voters", holder(config=config(voters=VoterList(0, NEW_LIST.members)))),
    ("change-voters", joint(config=config(voters=VoterList(3, ("east", "west", "w3"))))),
    ("fenced-first", contender()),
    ("only-voters-contend", contender()),
    ("only-voters-contend", contender(promise=None, peers=peers(replace(GONE, voters=VOTERS)))),
    ("only-voters-contend", contender(promise=None, peers=FRESH)),
    ("only-voters-contend", contender(config=config(voters=VoterList(2, ("west", "w2", "w3"))))),
    ("follow-the-active", contender()),
    ("follow-the-active", contender(peers=peers(replace(WEST, role=Role.ACTIVE, epoch=2)))),
    ("follow-the-active", contender(peers=peers(replace(GONE, role=Role.ACTIVE)))),
    ("only-the-initial-site-bootstraps", contender()),
    ("only-the-initial-site-bootstraps", contender(promise=None, peers=FRESH)),
    ("only-the-initial-site-bootstraps", contender(promise=None)),
    ("people-decide-in-manual-mode", contender()),
    ("people-decide-in-manual-mode", contender(promise=PROMISE, config=config(automatic=False))),
    (
        "people-decide-in-manual-mode",
        contender(promise=replace(RELEASED, successor="east"), config=config(automatic=False)),
    ),
    ("people-decide-in-manual-mode", contender(promise=UNWON, config=config(automatic=False))),
    ("enough-voters-declared", contender()),
    ("enough-voters-declared", contender(promise=replace(PROMISE, voters=Electorate(TWO)))),
    ("enough-voters-declared", contender(promise=replace(RELEASED, voters=Electorate(TWO)))),
    ("in-synchronous-set", contender()),
    ("in-synchronous-set", contender(config=config(lossless=False), promise=replace(PROMISE, stored_set=SyncSet()))),
    ("in-synchronous-set", contender(refused_set=SyncSet(SetVersion(0, 1), frozenset({"west"})))),
    ("holder-may-live", contender(holder_free_at_ns=NOW - 1)),
    ("holder-may-live", contender(holder_free_at_ns=NOW + TTL, promise=RELEASED)),
    ("holder-may-live", contender(holder_free_at_ns=NOW + TTL, promise=PROMISE)),
    ("own-voter-is-silent", contender(silent_until_ns=NOW)),
    ("successor-goes-first", contender(promise=RELEASED, released_at_ns=NOW - TTL)),
    ("successor-goes-first", contender(promise=replace(RELEASED, successor="east"), released_at_ns=NOW)),
    ("successor-goes-first", contender(promise=replace(RELEASED, successor=""), released_at_ns=NOW)),
    ("successor-goes-first", contender(promise=None, given_to="west", given_at_ns=NOW - TTL)),
    ("successor-goes-first", contender(promise=None)),
    ("successor-goes-first", contender(given_to="east", given_at_ns=NOW)),
    ("drivers-are-known", contender()),
    (
        "drivers-are-known",  # a driver that waits for its first role is known
        contender(components=components(IDLE_DB, replace(IDLE_ROUTE, health=Health.INITIALISING))),
    ),
    ("data-is-promotable", contender()),
    (
        "data-is-promotable",
        contender(config=config(lossless=False), components=components(IDLE_ROUTE, replace(IDLE_DB, promotable=False))),
    ),
    ("a-stalled-process-waits", contender(stall_ended_ns=NOW - 2 * HEARTBEAT)),
    ("majority-is-visible", contender()),
    ("back-off", contender(contend_not_before_ns=NOW)),
]


def rule_of(name: str, view: SiteView) -> Any:
    return dict(HOLDER_RULES if view.lease is not None else CONTENDER_RULES)[name]


def ids(case: tuple[Any, ...]) -> str:
    return str(case[0])


@pytest.mark.parametrize("case", SPEAKS, ids=ids)
def test_a_rule_speaks_and_the_site_does_what_it_says(case: tuple[str, SiteView, str, tuple[Any, ...]]) -> None:
    name, view, reason, actions = case
    said: Decision = rule_of(name, view)(view, NOW)
    decided = decide(view, NOW)
    assert (said.reasons[0].code, said.actions) == (reason, actions)
    assert (decided.reasons[0].code, decided.actions) == (reason, actions)


@pytest.mark.parametrize("case", SILENT, ids=ids)
def test_a_rule_has_nothing_to_say(case: tuple[str, SiteView]) -> None:
    name, view = case
    assert rule_of(name, view)(view, NOW) is None


@pytest.mark.parametrize("case", SPEAKS, ids=ids)
def test_without_the_rule_the_site_decides_otherwise(case: tuple[str, SiteView, str, tuple[Any, ...]]) -> None:
    name, view, reason, actions = case
    holder_rules = tuple(r for r in HOLDER_RULES if r[0] != name)
    contender_rules = tuple(r for r in CONTENDER_RULES if r[0] != name)
    decided = decide(view, NOW, holder_rules, contender_rules)
    assert (decided.reasons[0].code, decided.actions) != (reason, actions), f"{name} is not what decides here"


def test_every_rule_has_a_view_where_it_speaks_and_one_where_it_is_silent() -> None:
    rules = {name for name, _ in (*HOLDER_RULES, *CONTENDER_RULES)}
    assert {case[0] for case in SPEAKS} == rules
    assert {case[0] for case in SILENT} == rules


def test_a_change_that_a_voter_in_force_is_bound_to_comes_before_another_one() -> None:
    third = VoterList(3, ("east", "west", "w3"))
    ready = peers(replace(WEST, voters=JOINT), W2, PeerView("w3", True))
    view = changing(config=config(voters=third), peers=ready)
    assert decide(view, NOW).actions == (Contend(4, SET, JOINT),)
    newcomer = peers(W2, PeerView("w3", True, voters=JOINT), replace(W2, voters=JOINT))
    assert decide(replace(view, peers=newcomer), NOW).actions == (Contend(4, SET, Electorate(LIST, third)),), (
        "a newcomer of a change is not bound by it"
    )
    anew = Electorate(LIST, VoterList(2, LIST.members, frozenset({"witness"})))
    admitted = peers(replace(WITNESS, voters=anew), PeerView("w3", True))
    assert decide(replace(view, peers=admitted), NOW).actions == (Contend(4, SET, anew),)


def test_voters_are_regained_also_while_a_change_of_voters_waits() -> None:
    decided = decide(replace(ASTRAY, config=config(voters=NEW_LIST)), NOW)
    assert (decided.actions, decided.reasons[0].code) == ((Contend(5, SET, VOTERS),), "RegainVoters")


def test_a_site_without_a_record_contends_by_what_its_peers_know() -> None:
    view = contender(promise=None, highest_promised=3, peers=peers(replace(GONE, voters=VOTERS)))
    decided = decide(replace(view, silent_until_ns=NOW - TIMING.hold_ns), NOW)
    assert (decided.actions, decided.reasons[0].code) == ((Contend(4, SET, VOTERS),), "RecordLost")
    waits = decide(replace(view, silent_until_ns=NOW - TIMING.hold_ns + 1), NOW)
    assert (waits.actions, waits.reasons[0].code) == ((), "RestartSilence")
    declared = config(voters=VoterList(9, ("east", "north", "south")))
    decided = decide(replace(view, silent_until_ns=0, config=declared), NOW)
    assert decided.actions == (Contend(4, SET, VOTERS),), "what is only declared is never contended with"


def test_a_holder_with_nothing_to_do_serves_and_is_asked_again_before_it_must_fence() -> None:
    decided = decide(HOLDER, NOW)
    assert (decided.actions, decided.reasons[0].code) == ((), "Serving")
    assert decided.recheck_after_ns == TTL - TIMING.fence_margin_ns


def test_a_running_contest_is_waited_for() -> None:
    campaign = Campaign(G, 4, TTL, VOTERS, SET, lossless=True)
    decided = decide(contender(contest=Contest("east", campaign, TIMING, NOW)), NOW)
    assert (decided.actions, decided.reasons[0].code) == ((), "Contending")


@pytest.mark.parametrize(
    ("view", "why"),
    [
        (contender(), "HolderSilent"),
        (contender(promise=PROMISE), "Resume"),
        (contender(promise=replace(RELEASED, successor="east"), released_at_ns=NOW), "Released"),
    ],
)
def test_when_nothing_speaks_against_it_the_site_contends_and_says_why(view: SiteView, why: str) -> None:
    decided = decide(view, NOW)
    assert decided.reasons[0].code == why
    assert decided.actions == (Contend(4, SET, VOTERS),)


def test_the_first_epoch_is_asked_for_with_a_set_of_this_site_alone() -> None:
    """With an empty set a first holder that dies at once would leave a group that nobody may take."""
    decided = decide(contender(promise=None, peers=peers(replace(WEST, known_set=SyncSet(), role=Role.FENCED))), NOW)
    assert decided.reasons[0].code == "Bootstrap"
    assert decided.actions == (Contend(1, SyncSet(SetVersion(1, 0), EAST), VOTERS),)


def test_the_next_epoch_is_above_everything_seen_and_asked_for() -> None:
    assert decide(contender(highest_promised=8), NOW).actions == (Contend(9, SET, VOTERS),)
    assert decide(contender(peers=peers(GONE, replace(WITNESS, epoch=6))), NOW).actions == (Contend(7, SET, VOTERS),)


def test_a_site_contends_with_the_lists_that_its_voter_knows_or_that_a_refusal_named() -> None:
    declared = contender(config=config(voters=NEW_LIST))
    assert decide(declared, NOW).actions == (Contend(4, SET, VOTERS),), "a declared list is not in force"
    begun = contender(promise=replace(PROMISE, site="west", voters=JOINT), peers=peers(GONE, W2))
    assert decide(begun, NOW).actions == (Contend(4, SET, JOINT),), "a change that was granted here may have been won"
    told = contender(voters_hint=Electorate(NEW_LIST), peers=peers(GONE, W2))
    assert decide(told, NOW).actions == (Contend(4, SET, Electorate(NEW_LIST)),)


def test_a_change_whose_contest_was_lost_does_not_wait_for_a_fresh_lease() -> None:
    """Voters that granted it renew the old lease no more."""
    tired = changing(lease=ending(TTL // 2 - 1), highest_promised=4)
    assert decide(tired, NOW).actions == (Contend(5, SET, JOINT),)


def test_a_voter_that_lost_its_disk_is_not_needed_by_the_list_before_when_it_is_admitted_anew() -> None:
    again = VoterList(2, LIST.members, frozenset({"witness"}))
    change = changing(config=config(voters=again), peers=peers(replace(WEST, connected=False)))
    decided = decide(change, NOW)
    assert decided.reasons[0].code == "VoterChangeWaits", "only east and west count for the list before"
    assert decide(changing(config=config(voters=again)), NOW).actions == (Contend(4, SET, Electorate(LIST, again)),)


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        (WITNESS, "NotASite"),
        (replace(WEST, connected=False), "PeerUnreachable"),
        (replace(WEST, role=Role.INVALIDATED), "NotStandby"),
        (replace(WEST, promotable=False), "DataNotPromotable"),
        (replace(WEST, ready=False), "NotReady"),
    ],
)
def test_a_peer_that_cannot_take_over_is_told_why(peer: PeerView, reason: str) -> None:
    assert reason in {r.code for r in take_over_refusals(HOLDER, peer)}
    assert take_over_refusals(HOLDER, WEST) == ()


def test_without_time_to_copy_the_rest_nobody_takes_over_who_lacks_too_much() -> None:
    late = peers(replace(WEST, copy_refusal="files: 12 s of changes may be missing"))
    seen = MappingProxyType({**with_files(Health.HEALTHY).components, **troubled(Health.DEAD)})
    dead = with_files(Health.HEALTHY, peers=late, components=seen)
    decided = decide(dead, NOW)
    assert decided.actions == ()
    assert {"DataComponentLost", "LocalRestart", "CopyBeyondRpo"} <= {reason.code for reason in decided.reasons}
    assert take_over_refusals(dead, late["west"]) == (), "a planned move copies the rest first"


def test_a_holder_of_copies_looks_again_within_a_heartbeat() -> None:
    assert decide(copied(), NOW).recheck_after_ns == HEARTBEAT


def test_nobody_outside_a_set_that_is_still_being_told_takes_over() -> None:
    shrinking = holder(holder_set=HolderSet(3, VOTERS, SET, counter=2).propose(EAST))
    assert {r.code for r in take_over_refusals(shrinking, WEST)} == {"NotInSynchronousSet"}


# -- decide is total

TIMES = st.sampled_from([0, 1, NOW - 9 * SUSPECT, NOW - SUSPECT, NOW - HEARTBEAT, NOW - 1, NOW, NOW + 1, NOW + TTL])
SETS = st.builds(
    SyncSet,
    st.builds(SetVersion, st.integers(0, 4), st.integers(0, 3)),
    st.frozensets(st.sampled_from(["east", "west"])),
)
FIVE = VoterList(1, ("east", "west", "w1", "w2", "w3"))
DECLARED = st.sampled_from([LIST, TWO, VoterList(2, ("west",)), FIVE, NEW_LIST, VoterList(3, NEW_LIST.members)])
LISTS = st.sampled_from([VOTERS, JOINT, *(Electorate(v) for v in (TWO, VoterList(2, ("west",)), FIVE, NEW_LIST))])
ROLES = st.one_of(st.none(), st.sampled_from(Role))
FOLLOWERS = st.dictionaries(st.sampled_from(["west", "north"]), st.just(FOLLOWER), max_size=2)
HOLDER_SETS = st.one_of(
    st.none(),
    st.builds(
        HolderSet,
        st.integers(1, 4),
        LISTS,
        SETS,
        st.one_of(st.none(), SETS),
        joining=st.sampled_from(["", "west"]),
        counter=st.integers(0, 2),
        doubtful=st.frozensets(st.sampled_from(["east", "west"])),
    ),
)
LEASES = st.one_of(
    st.none(),
    st.builds(
        Lease,
        st.just(G),
        st.integers(1, 4),
        LISTS,
        st.just(TIMING),
        st.dictionaries(st.sampled_from(VOTERS.members), TIMES),
    ),
)
PROMISES = st.one_of(
    st.none(),
    st.builds(
        Promise,
        st.just(G),
        st.integers(1, 5),
        st.sampled_from(["east", "west"]),
        st.just(TTL),
        LISTS,
        SETS,
        st.booleans(),
        st.sampled_from(["", "east", "west"]),
    ),
)


@st.composite
def views(draw: st.DrawFn) -> SiteView:
    def component(name: str) -> ComponentView:
        return draw(
            st.builds(
                ComponentView,
                st.just(name),
                st.sampled_from(Health),
                ROLES,
                accepting=st.booleans(),
                promotable=st.booleans(),
                settled=st.booleans(),
                troubled_since_ns=st.one_of(st.none(), TIMES),
                promotable_at_ns=st.one_of(st.none(), TIMES),
                set_in_force=st.frozensets(st.sampled_from(["east", "west"])),
                followers=FOLLOWERS,
            )
        )

    def peer(name: str) -> PeerView:
        return draw(
            st.builds(
                PeerView,
                st.just(name),
                st.booleans(),
                ROLES,
                st.integers(0, 5),
                promotable=st.booleans(),
                ready=st.booleans(),
                known_set=SETS,
                copy_refusal=st.sampled_from(["", "db: copying"]),
                copy_spare_ns=st.one_of(st.none(), TIMES),
            )
        )

    names = draw(st.sets(st.sampled_from(["west", "witness", "north"])))
    settings_ = config(
        voters=draw(DECLARED),
        lossless=draw(st.booleans()),
        automatic=draw(st.booleans()),
        initial_site=draw(st.sampled_from(["east", "west"])),
        components=draw(st.sampled_from([CONFIG.components, COPIED.components, ()])),
        waits=draw(st.booleans()),
    )
    campaign = Campaign(G, 4, TTL, VOTERS, SET, lossless=True)
    return SiteView(
        settings_,
        draw(st.sampled_from(Role)),
        draw(LEASES),
        draw(st.sampled_from([None, None, None, Contest("east", campaign, TIMING, NOW)])),
        draw(HOLDER_SETS),
        draw(PROMISES),
        draw(TIMES),
        draw(TIMES),
        draw(st.one_of(st.none(), TIMES)),
        {name: component(name) for name in ("db", "route")},
        {name: peer(name) for name in sorted(names)},
        draw(st.dictionaries(st.sampled_from(["west", "north"]), TIMES)),
        draw(st.integers(0, 9)),
        draw(TIMES),
        draw(TIMES),
        draw(TIMES),
        draw(TIMES),
        draw(st.booleans()),
        draw(st.sampled_from([None, Settling(4, JOINT), Settling(4, JOINT, begun=True)])),
        draw(TIMES),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.frozensets(st.sampled_from(["east", "west", "witness"]))),
        draw(st.one_of(st.none(), LISTS)),
    )


@given(views())
@settings(max_examples=600, deadline=None)
def test_every_view_gets_a_decision_with_a_reason_that_breaks_no_safety_rule(view: SiteView) -> None:
    decided = decide(view, NOW)
    assert decided.reasons, "there is always a reason"
    assert all(reason.code for reason in decided.reasons)
    assert decided.recheck_after_ns >= 0
    kinds = {type(action) for action in decided.actions}
    if view.lease is not None:
        assert Follow not in kinds
        assert decided.recheck_after_ns > 0, "a holder is always asked again"
        if view.lease.must_fence(NOW):
            assert decided.actions == (Fence(),)
    else:
        assert kinds <= {Contend, Follow, Fence}, "only a holder changes the set or hands over"
    for action in decided.actions:
        if isinstance(action, Contend):
            assert view.contest is None
            if view.lease is not None:
                assert action.voters.current == view.lease.voters.current
                assert action.epoch > view.lease.epoch
                if action.voters == view.lease.voters:
                    assert view.astray, "a holder contends with the same voters only to win some of them back"
                else:
                    assert action.voters.joint, "or to change them"
                    assert not view.lease.voters.joint, "one change at a time"
                continue
            assert action.voters == view.electorate, "never with a list that is only declared"
            assert not any(c.accepting for c in view.components.values())
            assert view.promise is None or action.epoch > view.promise.epoch
            assert not view.config.lossless or view.site in action.known_set.members
        elif isinstance(action, HandOver) and view.config.lossless and view.holder_set is not None:
            if action.successor:
                assert view.holder_set.surely_has(action.successor)
            else:
                assert not view.served, "an epoch goes back to nobody only before anything was acknowledged in it"
                assert view.holder_set.inherited <= view.holder_set.current.members, "who had everything may take over"
        elif isinstance(action, ProposeSet):
            assert view.holder_set is not None
            assert action.members <= view.holder_set.must_acknowledge | {view.site}, (
                "nobody is told who is not required"
            )


def test_a_site_says_why_it_rests_and_asks_with_what_its_data_tells() -> None:
    resting = decide(copied_contender(AGED, given_at_ns=NOW - 1, tries=IN_VAIN), NOW)
    assert resting.reasons[0].detail == "db: no; won in vain 5 times, so others go first for longer"
    assert resting.recheck_after_ns == 16 * FIRST_REST_TTLS * TTL - 1
    (asked,) = decide(copied_contender(AGED), NOW).actions
    assert isinstance(asked, Contend)
    assert asked.told == told_of([AGED])
    given_back = decide(replace(NEW, config=COPIED, components=components(REFUSED), won_at_ns=NOW - SUSPECT), NOW)
    assert given_back.reasons[0].detail == "db: not whole"

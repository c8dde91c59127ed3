"""What a site knows when it decides about a group: one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from graf.api.values import Electorate, Role, SetVersion, Stage, SyncSet
from graf.core.retry import Tries
from graf.core.voter import BOOTSTRAP_EPOCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graf.api.timing import Timing
    from graf.api.values import Reason, VoterList
    from graf.core.campaign import Contest
    from graf.core.lease import Lease
    from graf.core.syncset import HolderSet
    from graf.core.voter import Promise
    from graf.core.voterchange import Settling


class Health(StrEnum):
    """Observed health of a component. Unknown is a state of its own and never read as dead or healthy."""

    HEALTHY = "Healthy"
    INITIALISING = "Initialising"
    UNHEALTHY = "Unhealthy"
    UNKNOWN = "Unknown"
    DEAD = "Dead"


@dataclass(frozen=True, slots=True)
class ComponentConfig:
    """One component of the group, as declared.

    Attributes:
        synchronous: It holds data that the synchronous set is about.
        gate: Its driver keeps the lease in the kernel.
        copied: It holds data outside the synchronous set: nothing waits for its copy, but it is brought to rest before
            a planned move, and has its verdict before it follows.
        limited: It is declared how much of it may be lost (`rpoSeconds`).
    """

    name: str
    stage: Stage
    depends_on: tuple[str, ...] = ()
    synchronous: bool = False
    gate: bool = False
    copied: bool = False
    limited: bool = False

    @property
    def holds_data(self) -> bool:
        """Whether it has a position and a verdict."""
        return self.synchronous or self.copied


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """A group as this site has been told to protect it.

    Attributes:
        lossless: Only a member of the synchronous set may take over. False for a group that holds no data.
        waits: A write is acknowledged only when every member has it. Without it (`rpo: async`, or no data) the set has
            the sites that lack no more than their components declare.
    """

    group: str
    site: str
    sites: tuple[str, ...]
    voters: VoterList
    timing: Timing
    lossless: bool
    automatic: bool
    initial_site: str
    components: tuple[ComponentConfig, ...]
    waits: bool = True

    def under_set(self, component: ComponentConfig) -> bool:
        """Whether it holds data that the synchronous set is about."""
        return component.synchronous or (component.copied and not self.waits)


@dataclass(frozen=True, slots=True)
class FollowerView:
    """A site that follows this one, as the active component's driver sees it.

    Attributes:
        stalled_ns: For how long an acknowledgement had been due when the driver looked.
        age_ns: How old that observation is.
    """

    connected: bool
    acknowledging: bool
    stalled_ns: int
    age_ns: int = 0


@dataclass(frozen=True, slots=True)
class ComponentView:
    """A component as last observed through its driver.

    Attributes:
        role: Observed role, None when unknown.
        accepting: It would acknowledge a client's write, or lets clients in.
        settled: It has what was last asked of it (role, epoch and set), as its driver said.
        troubled_since_ns: Since when it has been Unknown, Unhealthy or Dead without a break; None when it is not.
        promotable_at_ns: When it was last observed to be promotable; None when something was wrong with it since.
        refusal: Why it must not be Active in the epoch that it was asked for, when that is its driver's last answer:
            what is here is not enough to serve. Empty otherwise; a promotion that takes its time is not refused.
    """

    name: str
    health: Health
    role: Role | None = None
    accepting: bool = False
    promotable: bool = False
    promotable_reason: str = ""
    settled: bool = False
    troubled_since_ns: int | None = None
    promotable_at_ns: int | None = None
    refusal: str = ""
    set_in_force: frozenset[str] = frozenset()
    followers: Mapping[str, FollowerView] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class PeerView:
    """Another voter of the group.

    Attributes:
        connected: Its stream is up and it was heard within the suspicion time.
        voters: Those in force as it told them; None when it has no record itself.
        copy_refusal: Why a promotion there could lose more than is declared of a component that is only copied; empty
            when it could not.
        copy_spare_ns: For how much longer that stays so if nothing more reaches it; None where no limit is declared.
    """

    name: str
    connected: bool
    role: Role | None = None
    epoch: int = 0
    promotable: bool = False
    promotable_reason: str = ""
    ready: bool = False
    known_set: SyncSet = SyncSet()
    voters: Electorate | None = None
    copy_refusal: str = ""
    copy_spare_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SiteView:
    """Everything a decision about one group at one site may use.

    Attributes:
        role: Operational role that this site holds.
        lease: The lease while this site is the holder.
        contest: The campaign under way.
        promise: The own voter's record of the group.
        holder_free_at_ns: When the own voter's promise to a silent holder ends.
        silent_until_ns: Until when the own voter keeps restart silence; its start, when it has no record.
        released_at_ns: When the own voter learned of the release of the promise; None when it is not released.
        highest_promised: Highest epoch that any answer named or that this process has asked for itself.
        lost_since_ns: Per site of the set, since when the data drivers have missed it; absent when they see it.
        join_not_before_ns, contend_not_before_ns: Back-off after an attempt that failed.
        stall_ended_ns: End of the newest stall of this process's own loop; 0 when there was none.
        handing_over: A planned switchover away from this site is under way.
        settling: The change of voters that the lease's epoch makes; None without one.
        won_at_ns: When the lease was won.
        continued: It was won while this site held the lease of an older epoch.
        astray: Voters that will not renew the lease until a newer epoch is won.
        served: A data component was seen active in the lease's epoch here.
        voters_hint: Voters that the refusals of the last contest named.
        refused_set: Newest synchronous set for whose sake a voter refused this site.
        told_set: Newest synchronous set that a peer told, or that was in force here, since this process started.
        given_to, given_at_ns: The successor that this process released its last epoch to, empty for none, and when it
            did or gave it up; 0 when it did not.
        tries: Epochs that this process won in vain.
        set_told_since_ns: Since when a synchronous set has been told to the voters that no majority has stored yet.
    """

    config: GroupConfig
    role: Role
    lease: Lease | None
    contest: Contest | None
    holder_set: HolderSet | None
    promise: Promise | None
    holder_free_at_ns: int
    silent_until_ns: int
    released_at_ns: int | None
    components: Mapping[str, ComponentView]
    peers: Mapping[str, PeerView]
    lost_since_ns: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    highest_promised: int = 0
    join_since_ns: int = 0
    join_not_before_ns: int = 0
    contend_not_before_ns: int = 0
    stall_ended_ns: int = 0
    handing_over: bool = False
    settling: Settling | None = None
    won_at_ns: int = 0
    continued: bool = False
    served: bool = False
    astray: frozenset[str] = frozenset()
    voters_hint: Electorate | None = None
    refused_set: SyncSet = SyncSet()
    told_set: SyncSet = SyncSet()
    given_to: str = ""
    given_at_ns: int = 0
    tries: Tries = Tries()
    set_told_since_ns: int = 0

    @property
    def site(self) -> str:
        """This site."""
        return self.config.site

    @property
    def data(self) -> tuple[ComponentView, ...]:
        """Components that hold data under the synchronous set."""
        return tuple([self.components[c.name] for c in self.config.components if self.config.under_set(c)])

    @property
    def copies(self) -> tuple[ComponentView, ...]:
        """Components that are copied beside the synchronous set."""
        return tuple([self.components[c.name] for c in self.config.components if c.copied and self.config.waits])

    @property
    def judged_here(self) -> tuple[ComponentView, ...]:
        """Copies that this site's own drivers are asked about before it takes over.

        Beside a set those with a declared limit, as the set is about other data; under it those without one, of which
        it cannot say how old they may be.
        """
        waits = self.config.waits
        return tuple([self.components[c.name] for c in self.config.components if c.copied and c.limited is waits])

    @property
    def is_its_own(self) -> bool:
        """Whether the group was this site's last, or was given to it: what it has is the newest, or was proved."""
        promise = self.promise
        if promise is None:
            return False
        if promise.unserved and self.site in promise.entitled:
            return True
        if self.site not in promise.heirs:
            return False
        return not promise.never_won or self.site in promise.entitled

    def has_data(self, component: ComponentView) -> bool:
        """Whether a component under the synchronous set has here what the set says of this site.

        A copy's driver cannot tell that nothing is written any more, so what may be missing seems to grow for as long
        as its active site is silent. How much it is, is the set's matter then; here it counts that nothing went wrong.
        """
        return component.promotable or (not self.config.waits and component.promotable_at_ns is not None)

    @property
    def newest_set(self) -> SyncSet:
        """Newest synchronous set that this site knows of."""
        sets = [self.refused_set, self.told_set, *(peer.known_set for peer in self.peers.values())]
        if self.promise is not None:
            sets.append(self.promise.stored_set)
        if self.holder_set is not None:
            sets.append(self.holder_set.current)
        return max(sets, key=lambda s: s.version, default=SyncSet())

    @property
    def electorate(self) -> Electorate:
        """The voters that a contest of this site has to win: those in force, never those that are only declared.

        Only the very first epoch is won by the declared list. A site whose own voter has no record learns the list from
        its peers; until then there is none to go by (`voters_known`).
        """
        if self.lease is not None:
            return self.lease.voters
        if self.voters_hint is not None:
            return self.voters_hint
        if self.promise is not None:
            return self.promise.voters
        told = [peer.voters for peer in self.peers.values() if peer.voters is not None]
        if self.record_lost and told:
            return max(told, key=lambda e: (e.current.version, e.newest.version))
        return Electorate(self.config.voters)

    @property
    def voters_known(self) -> bool:
        """Whether `electorate` rests on a record: the own voter's, a peer's, or that the group has never served."""
        if self.lease is not None or self.voters_hint is not None or self.promise is not None or not self.record_lost:
            return True
        return any(peer.voters is not None for peer in self.peers.values())

    @property
    def record_lost(self) -> bool:
        """Whether the group has served and the own voter has no record of it: it is new, or its disk is."""
        return self.promise is None and self.newest_set.version > SetVersion(BOOTSTRAP_EPOCH, 0)

    @property
    def active_peer(self) -> PeerView | None:
        """The peer that says it is Active with the newest epoch, if it can be heard."""
        floor = self.promise.epoch if self.promise is not None else 0
        active = [p for p in self.peers.values() if p.connected and p.role is Role.ACTIVE and p.epoch >= floor]
        return max(active, key=lambda p: p.epoch, default=None)


@dataclass(frozen=True, slots=True)
class Contend:
    """Ask the voters for an epoch; a holder does so to change the voters.

    Attributes:
        told: What the data components tell, where that counts in the next decision after an epoch that was won in vain.
    """

    epoch: int
    known_set: SyncSet
    voters: Electorate
    told: str = ""


@dataclass(frozen=True, slots=True)
class Fence:
    """Give the role up locally, at once, before the lease ends."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """Shut the gate, then release the epoch to a successor that can take over now."""

    successor: str


@dataclass(frozen=True, slots=True)
class ProposeSet:
    """Tell the voters a newer synchronous set."""

    members: frozenset[str]


@dataclass(frozen=True, slots=True)
class SettleVoters:
    """Tell the voters that the change of their list is done."""


@dataclass(frozen=True, slots=True)
class Join:
    """Begin to require a site's acknowledgements."""

    site: str


@dataclass(frozen=True, slots=True)
class StopJoining:
    """Give a joining up."""

    site: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Become Standby of the active site: verdict, resync, follow."""

    active: str
    epoch: int


Action = Contend | Fence | HandOver | ProposeSet | SettleVoters | Join | StopJoining | Follow


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now and why.

    Attributes:
        actions: In order; empty means hold.
        reasons: Machine-readable; never empty.
        recheck_after_ns: Ask again after that long even if nothing changes; 0 means only on change.
    """

    actions: tuple[Action, ...]
    reasons: tuple[Reason, ...]
    recheck_after_ns: int = 0

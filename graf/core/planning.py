"""What the manager decides: what is recorded, when a group goes back, which operations may start.

Nothing here makes a site active. A decision here is at most "ask the active site for a planned move"; whether it
happens is decided by the voters. Manager and simulator run the same functions. Points in time are seconds of any
monotonic clock of the caller: only differences count.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from graf.api.recorded import Recorded, role_of
from graf.api.values import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from graf.api.recorded import AssignedRole

MAX_FAILBACKS_PER_EPOCH = 5
# Types of records that say something about the group without naming a new active site.
NO_MOVE = frozenset({"Shrink", "Grow", "Fence", "Hold", "Resync", "Release", "Return", "Assess", "VotersSettled"})
# Types by which the active site went on to another epoch without a break: no outage, no operation.
GOES_ON = frozenset({"VoterChange", "Regain"})
PLANNED = frozenset({"Switchover", "Failback"})


@dataclass(frozen=True, slots=True)
class RecordView:
    """A site's record, as far as decisions need it."""

    id: str
    group: str
    kind: str
    type: str
    epoch: int
    epoch_from: int = 0
    from_site: str = ""
    to_site: str = ""
    operation: str = ""
    site: str = ""
    reasons: tuple[str, ...] = ()
    message: str = ""
    wall_ms: int = 0
    phases_ms: Mapping[str, float] = field(default_factory=dict)
    evidence_json: str = ""

    @property
    def is_move(self) -> bool:
        """Whether it says that a site won an epoch."""
        return self.kind == "Decision" and bool(self.to_site) and self.type not in NO_MOVE

    @property
    def is_operation(self) -> bool:
        """Whether clients were served by another site, or not at all, in between."""
        return self.is_move and self.type not in GOES_ON

    @property
    def rto_ms(self) -> float | None:
        """Measured outage: the sum of its phases, None when nothing was measured."""
        return round(sum(self.phases_ms.values()), 1) if self.phases_ms else None


def advance(recorded: Recorded, record: RecordView, sites: tuple[str, ...]) -> Recorded:
    """What is recorded after a site's record. Invariant: the epoch never goes back, whatever arrives when.

    A planned move leaves a standby behind, an unplanned one a site whose data must be judged first. A site that
    has returned (`Return`: its data was judged and resynchronised) is a standby again.
    """
    if record.is_move and record.epoch > recorded.epoch:
        roles: dict[str, AssignedRole] = {site: role_of(site, recorded) for site in sites}
        left = record.from_site or recorded.active_site
        for site, role in roles.items():
            if role == "Active":
                roles[site] = "Standby"
        if left and left != record.to_site:
            roles[left] = "Standby" if record.type in PLANNED else "Invalidated"
        roles[record.to_site] = "Active"
        return Recorded(record.to_site, record.epoch, roles)
    returned = record.type == "Return" and record.epoch >= recorded.epoch
    if returned and recorded.roles.get(record.from_site) == "Invalidated":
        return replace(recorded, roles={**recorded.roles, record.from_site: "Standby"})
    return recorded


def newer(first: Recorded, second: Recorded) -> Recorded:
    """The one of the higher epoch: the epoch decides between two records of the same group."""
    return second if second.epoch > first.epoch else first


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site of the group, as last heard. `fresh` is false when it is not connected or has fallen silent."""

    name: str
    fresh: bool = False
    role: str = "Unknown"
    epoch: int = 0
    promotable: bool = False
    promotable_reason: str = ""


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group as the failback and the operations see it."""

    group: str
    recorded: Recorded
    preferred: str
    sites: Mapping[str, SiteView]
    synchronous_set: frozenset[str] = frozenset()
    running_operation: str = ""
    failbacks_tried: int = 0  # that ended without success in this epoch
    last_completed_s: float | None = None  # when an operation was last completed, on the clock of `now_s`

    def seen(self, site: str) -> SiteView:
        """What is known of a site; of an unknown one nothing."""
        return self.sites.get(site, SiteView(site))


# -- whether a site could take over ------------------------------------------------------------------------------------


def is_connected(view: GroupView, seen: SiteView) -> Reason | None:
    """What a silent site told last is no fact any more."""
    return None if seen.fresh else Reason("PeerUnreachable", f"{seen.name} is not connected")


def is_standby(view: GroupView, seen: SiteView) -> Reason | None:
    """Only a site that follows the active one can take over from it."""
    return None if seen.role == "Standby" else Reason("NotStandby", f"{seen.name} is {seen.role}, not Standby")


def has_every_write(view: GroupView, seen: SiteView) -> Reason | None:
    """A group moves only to a member of its set, which has all that was acknowledged, or lacks what may be lost."""
    if seen.name in view.synchronous_set:
        return None
    members = ", ".join(sorted(view.synchronous_set)) or "empty"
    return Reason("NotInSynchronousSet", f"{seen.name} is not in the synchronous set ({members})")


def is_promotable(view: GroupView, seen: SiteView) -> Reason | None:
    """Its drivers say that its data can serve."""
    if seen.promotable:
        return None
    return Reason("DataNotPromotable", f"{seen.name} is not promotable: {seen.promotable_reason or 'no reason given'}")


ReadyRule = tuple[str, "Callable[[GroupView, SiteView], Reason | None]"]

# Each rule may say why the site cannot take over; when all are silent it can.
READY_RULES: tuple[ReadyRule, ...] = (
    ("is-connected", is_connected),
    ("is-standby", is_standby),
    ("has-every-write", has_every_write),
    ("is-promotable", is_promotable),
)


def not_ready(view: GroupView, site: str, rules: tuple[ReadyRule, ...] = READY_RULES) -> Reason | None:
    """Why a site could not take over now, None when it could. The codes are those with which a site refuses itself."""
    seen = view.seen(site)
    for _name, rule in rules:
        if (reason := rule(view, seen)) is not None:
            return reason
    return None


# -- the failback ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FailbackPolicy:
    """What a group's policy says about its return to the preferred site."""

    mode: Literal["Never", "Manual", "Automatic"]
    stabilisation_window_s: float
    cooldown_s: float = 0


@dataclass(frozen=True, slots=True)
class FailbackDecision:
    """What to do about the return to the preferred site.

    Attributes:
        reason: machine-readable, for the condition `FailbackPending`.
        pending: the group is away from its preferred site.
        ready_since_s: since when the preferred site has been ready without a break; pass it in again.
        create: name of the RedundancyOperation to create, empty for none.
        recheck_after_s: when to ask again without a new event.
    """

    reason: str
    message: str
    pending: bool
    ready_since_s: float | None = None
    create: str = ""
    recheck_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failback:
    """All that the rules of the failback look at.

    Attributes:
        why_not: Why the preferred site could not take over now.
        ready_since_s: Since when it could; now, when that is new.
    """

    policy: FailbackPolicy
    view: GroupView
    why_not: Reason | None
    ready_since_s: float
    now_s: float

    def decide(self, reason: str, message: str, recheck_after_s: float | None = None) -> FailbackDecision:
        """The group stays away for now."""
        since = None if self.why_not else self.ready_since_s
        return FailbackDecision(reason, message, pending=True, ready_since_s=since, recheck_after_s=recheck_after_s)

    @property
    def window_left_s(self) -> float:
        """How long the preferred site has to stay ready until it has been for the whole window."""
        return self.ready_since_s + self.policy.stabilisation_window_s - self.now_s

    @property
    def cooldown_left_s(self) -> float:
        """How long the last completed operation still counts; a failback that failed counts for a whole window."""
        last = self.view.last_completed_s
        if last is None:
            return 0.0
        pause = self.policy.cooldown_s
        if self.view.failbacks_tried:
            pause = max(pause, self.policy.stabilisation_window_s)
        return last + pause - self.now_s

    def wait(self, reason: str, wait_s: float) -> FailbackDecision:
        """Everything is ready but time."""
        message = f"{self.view.preferred} is ready; failback in {wait_s:.0f} s if it stays so ({reason})"
        return self.decide(reason, message, wait_s)


def was_active_once(ask: Failback) -> FailbackDecision | None:
    """Before the first activation there is nothing to bring back."""
    if ask.view.recorded.active_site:
        return None
    return FailbackDecision("NotActivated", "the group was never active", pending=False)


def is_away(ask: Failback) -> FailbackDecision | None:
    """A group at its preferred site stays there."""
    preferred = ask.view.preferred
    if ask.view.recorded.active_site != preferred:
        return None
    return FailbackDecision("AtPreferredSite", f"active at the preferred site {preferred}", pending=False)


def policy_may_forbid(ask: Failback) -> FailbackDecision | None:
    """A policy without failback is never overruled."""
    if ask.policy.mode != "Never":
        return None
    active = ask.view.recorded.active_site
    return ask.decide("Never", f"active at {active}; the policy never goes back by itself (failback.mode Never)")


def people_may_ask(ask: Failback) -> FailbackDecision | None:
    """A manual policy leaves it to people, and says what they can do."""
    if ask.policy.mode != "Manual":
        return None
    view = ask.view
    ready = ask.why_not.detail if ask.why_not else f"{view.preferred} is ready"
    command = f"graf switchover {view.group} --to {view.preferred}"
    return ask.decide("Manual", f"active at {view.recorded.active_site}; {ready}; ask for it with `{command}`")


def one_move_at_a_time(ask: Failback) -> FailbackDecision | None:
    """Not beside another operation of the group."""
    running = ask.view.running_operation
    return ask.decide("OperationRunning", f"{running} is running") if running else None


def preferred_site_is_ready(ask: Failback) -> FailbackDecision | None:
    """Only to a site that could take over now."""
    return ask.decide("PreferredSiteNotReady", ask.why_not.detail) if ask.why_not else None


def not_tried_too_often(ask: Failback) -> FailbackDecision | None:
    """What failed again and again is for people."""
    tried = ask.view.failbacks_tried
    if tried < MAX_FAILBACKS_PER_EPOCH:
        return None
    message = f"{tried} failbacks of this epoch failed; look at them and ask for it by hand"
    return ask.decide("TriedTooOften", message)


def cooldown(ask: Failback) -> FailbackDecision | None:
    """Not soon after another operation. It speaks where it is what takes longest."""
    wait_s = ask.cooldown_left_s
    return ask.wait("Cooldown", wait_s) if wait_s > max(ask.window_left_s, 0.0) else None


def stabilisation_window(ask: Failback) -> FailbackDecision | None:
    """Not before the preferred site has been ready for the whole window, without a break."""
    wait_s = ask.window_left_s
    return ask.wait("StabilisationWindow", wait_s) if wait_s > 0 else None


FailbackRule = tuple[str, "Callable[[Failback], FailbackDecision | None]"]

# Each rule may say why the group stays where it is; when all are silent it goes back.
FAILBACK_RULES: tuple[FailbackRule, ...] = (
    ("was-active-once", was_active_once),
    ("is-away", is_away),
    ("policy-may-forbid", policy_may_forbid),
    ("people-may-ask", people_may_ask),
    ("one-move-at-a-time", one_move_at_a_time),
    ("preferred-site-is-ready", preferred_site_is_ready),
    ("not-tried-too-often", not_tried_too_often),
    ("cooldown", cooldown),
    ("stabilisation-window", stabilisation_window),
)


def plan_failback(
    policy: FailbackPolicy,
    view: GroupView,
    ready_since_s: float | None,
    now_s: float,
    rules: tuple[FailbackRule, ...] = FAILBACK_RULES,
) -> FailbackDecision:
    """Whether to ask for the failback now; `ready_since_s` is that of the last decision."""
    since = now_s if ready_since_s is None else ready_since_s
    ask = Failback(policy, view, not_ready(view, view.preferred), since, now_s)
    for _name, rule in rules:
        if (decision := rule(ask)) is not None:
            return decision
    name = failback_name(view.group, view.recorded.epoch, view.failbacks_tried + 1)
    message = f"{view.preferred} was ready for the whole window of {policy.stabilisation_window_s:g} s: {name}"
    return replace(ask.decide("Failback", message), create=name)


def failback_name(group: str, epoch: int, attempt: int) -> str:
    """Name of the manager's own failback: two managers make the same, so that only one exists."""
    return f"failback-{group[:40]}-e{epoch}-{attempt}"


# -- operations --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of an operation's pre-check. `reason` is machine-readable and says which outcome it is."""

    state: Literal["Start", "Wait", "Succeeded", "Refused"]
    reason: str
    message: str
    target: str = ""
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asked:
    """A planned move that was asked for, as the pre-check sees it.

    Attributes:
        name: Of the operation itself.
        waited_s: For how long this manager has known it.
        grace_s: For how long a site that is not connected is waited for: after a start of the manager the sites need
            a moment to dial in.
    """

    view: GroupView
    target: str
    name: str
    waited_s: float
    grace_s: float

    @property
    def active(self) -> str:
        """The active site, by the record."""
        return self.view.recorded.active_site

    def unless_connected(self, site: str, reason: str) -> Verdict | None:
        """Waits for a site that is not connected; once the grace time is over it refuses."""
        if self.view.seen(site).fresh:
            return None
        message = f"the controller of {site} is not connected to the manager"
        if self.waited_s < self.grace_s:
            return Verdict("Wait", reason, message, self.target)
        return Verdict("Refused", reason, f"{message}; look at its Pod and its network", self.target)


def target_is_a_site(ask: Asked) -> Verdict | None:
    """A group moves only between its sites."""
    view = ask.view
    if ask.target in view.sites:
        return None
    message = f"{ask.target} is not a site of {view.group}; use {', '.join(view.sites)}"
    return Verdict("Refused", "NotASite", message)


def something_to_move(ask: Asked) -> Verdict | None:
    """Before the first activation nobody could hand over."""
    if ask.active:
        return None
    message = f"{ask.view.group} was never active; wait for its first activation"
    return Verdict("Refused", "NotActivated", message, ask.target)


def not_there_already(ask: Asked) -> Verdict | None:
    """What is wished for is so."""
    if ask.active != ask.target:
        return None
    message = f"{ask.target} is the active site already; nothing was moved"
    return Verdict("Succeeded", "AlreadyActive", message, ask.target)


def one_operation_at_a_time(ask: Asked) -> Verdict | None:
    """Another operation of the group ends first."""
    running = ask.view.running_operation
    if not running or running == ask.name:
        return None
    return Verdict("Wait", "Busy", f"waits for {running}: one operation at a time", ask.target)


def active_site_is_connected(ask: Asked) -> Verdict | None:
    """The active site is who drives the move."""
    return ask.unless_connected(ask.active, "ActiveUnreachable")


def target_is_connected(ask: Asked) -> Verdict | None:
    """Of a silent target nothing is known."""
    return ask.unless_connected(ask.target, "PeerUnreachable")


def target_is_ready(ask: Asked) -> Verdict | None:
    """Only to a site that could take over now."""
    why_not = not_ready(ask.view, ask.target)
    if why_not is None:
        return None
    return Verdict("Refused", why_not.code, f"{why_not}; wait until it is and ask again", ask.target)


PrecheckRule = tuple[str, "Callable[[Asked], Verdict | None]"]

# Each rule may say why the operation does not start now; when all are silent it does.
PRECHECK_RULES: tuple[PrecheckRule, ...] = (
    ("target-is-a-site", target_is_a_site),
    ("something-to-move", something_to_move),
    ("not-there-already", not_there_already),
    ("one-operation-at-a-time", one_operation_at_a_time),
    ("active-site-is-connected", active_site_is_connected),
    ("target-is-connected", target_is_connected),
    ("target-is-ready", target_is_ready),
)


def precheck(
    view: GroupView,
    kind: str,
    target: str | None,
    name: str,
    waited_s: float,
    grace_s: float,
    rules: tuple[PrecheckRule, ...] = PRECHECK_RULES,
) -> Verdict:
    """Whether a Switchover or Failback may start. The sites check again: this is for a quick, clear answer."""
    ask = Asked(view, target or view.preferred, name, waited_s, grace_s)
    for _name, rule in rules:
        if (verdict := rule(ask)) is not None:
            return verdict
    evidence = (
        f"active site {ask.active}, epoch {view.recorded.epoch}",
        f"{ask.target} is Standby and promotable",
        f"synchronous set {', '.join(sorted(view.synchronous_set))}",
    )
    return Verdict("Start", "Ready", f"{kind} {ask.active} -> {ask.target}", ask.target, evidence)

"""Bugs of the synchronous set: who must have a write, who is said to have all, and when that is told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from graf.api.values import Electorate, Reason, SetVersion, SyncSet
from graf.core import handover_rules, holder, site
from graf.core.campaign import Contest
from graf.core.contender import CONTENDER_RULES
from graf.core.holder import HOLDER_RULES
from graf.core.syncset import HolderSet
from graf.core.view import Decision, ProposeSet, SiteView
from graf.sim.bugs.bug import NOTHING_TOLD, Bug, Patch, planting
from graf.sim.settings import Planned

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.core.messages import SetAnswer
    from graf.core.view import PeerView

# East shrinks the set to itself while the witness stores nothing, so only its own voter has that set; it restarts, wins
# again by the witness, and is alone from that moment. Then west can win by what the witness has.
SET_KNOWN_TO_ONE = (
    Planned(1, "disk-full", 0.5, 12),
    Planned(2, "isolate-site", 0.6, 30),
    Planned(12, "crash-controller", 0.1, 1),
    Planned(14, "isolate-at-win", 0.0, 46),
)
_adopted, _propose = HolderSet.adopted, HolderSet.propose
_refusals = holder.take_over_refusals


def holder_rule(name: str, rule: Callable[[SiteView, int], Decision | None]) -> Patch:
    """Holders decide with another rule in the place of the named one."""
    rules = tuple((n, rule if n == name else r) for n, r in HOLDER_RULES)
    return Patch(site.decide, "__defaults__", (rules, CONTENDER_RULES))


# -- what a write waits for --------------------------------------------------------------------------------------------


def _only_the_proposed(self: HolderSet) -> frozenset[str]:
    members = self.current.members if self.proposed is None else self.proposed.members
    members = members | self.doubtful
    return members | {self.joining} if self.joining else members


def _without_doubt(epoch: int, voters: Electorate, newest: SyncSet, _sites: frozenset[str]) -> HolderSet:
    return _adopted(epoch, voters, newest, frozenset())


def _of_the_campaign_alone(self: Contest) -> SyncSet:
    return self.campaign.known_set


# -- what is told, and whose word makes it so --------------------------------------------------------------------------


def _one_answer_is_enough(self: HolderSet, voter: str, answer: SetAnswer) -> HolderSet:
    if self.proposed is None or answer.new_set != self.proposed or not answer.stored:
        return self
    return replace(self, current=self.proposed, proposed=None, stored_by=frozenset(), doubtful=frozenset(), joining="")


def _one_version(self: HolderSet, members: frozenset[str]) -> HolderSet:
    """The counter stays what it was."""
    after = _propose(self, members)
    return replace(after, proposed=SyncSet(SetVersion(self.epoch, 1), members), counter=1)


def _grown_before_caught_up(view: SiteView, now_ns: int) -> Decision | None:
    held = view.holder_set
    if held is not None and held.joining and held.proposed is None:
        return Decision((ProposeSet(held.current.members | {held.joining}),), (Reason("MemberCaughtUp"),))
    return holder.grow_with_caught_up_member(view, now_ns)


def _grown_without_joining(view: SiteView, now_ns: int) -> Decision | None:
    """Whoever stands by is told as a member, before a single write waits for it."""
    held = view.holder_set
    if held is None or held.proposed is not None:
        return None
    standing = {name for name in view.config.sites if name != view.site and holder._stands_by(view, name)}
    if standing <= held.current.members:
        return None
    return Decision((ProposeSet(held.current.members | standing),), (Reason("MemberCaughtUp"),))


def _new_holder_names_all(view: SiteView, now_ns: int) -> Decision | None:
    """It tells a set of every site instead of itself alone."""
    held = view.holder_set
    if held is None or held.counter > 0:
        return None
    members = frozenset(view.config.sites)
    return Decision((ProposeSet(members),), (Reason("NewHolder"),), view.config.timing.heartbeat_ns)


# -- who may take over -------------------------------------------------------------------------------------------------


def _refusals_but(*codes: str) -> Callable[[SiteView, PeerView], tuple[Reason, ...]]:
    def take_over_refusals(view: SiteView, peer: PeerView) -> tuple[Reason, ...]:
        return tuple(reason for reason in _refusals(view, peer) if reason.code not in codes)

    return take_over_refusals


def refusals(function: Callable[[SiteView, PeerView], tuple[Reason, ...]]) -> tuple[Patch, ...]:
    """A holder refuses a successor by another function."""
    return Patch(holder, "take_over_refusals", function), Patch(handover_rules, "take_over_refusals", function)


BUGS = (
    Bug(
        "semi-sync-dropped-before-the-set-is-shrunk",
        "Writes are acknowledged without a lost member as soon as a smaller set is told, before a majority has it.",
        ("I2", "I11"),
        planting(Patch(HolderSet, "must_acknowledge", property(_only_the_proposed))),
        needs=("flap-link",),
    ),
    Bug(
        "doubt-forgotten",
        "A new holder does not count with sets that an earlier one may have told to voters that it has not asked.",
        ("I2", "I11"),
        planting(Patch(HolderSet, "adopted", staticmethod(_without_doubt)), NOTHING_TOLD),
        script=SET_KNOWN_TO_ONE,
    ),
    Bug(
        "set-read-from-a-minority",
        "A new holder adopts the set that it knew itself, not the newest that its grants carried, and doubts nothing.",
        ("I2", "I11"),
        planting(
            Patch(Contest, "newest_set", property(_of_the_campaign_alone)),
            Patch(HolderSet, "adopted", staticmethod(_without_doubt)),
            NOTHING_TOLD,
        ),
        script=SET_KNOWN_TO_ONE,
    ),
    Bug(
        "set-stored-by-a-minority",
        "A set is in force as soon as one voter has stored it.",
        ("I2", "I11"),
        planting(Patch(HolderSet, "answered", _one_answer_is_enough)),
        needs=("flap-link",),
    ),
    Bug(
        "set-version-not-raised",
        "A holder tells another set under the version of the one before.",
        ("I8", "I11"),
        planting(Patch(HolderSet, "propose", _one_version)),
    ),
    Bug(
        "set-grown-before-catch-up",
        "A site that joins is told as a member before it has caught up.",
        ("I2", "I11"),
        planting(holder_rule("grow-with-caught-up-member", _grown_before_caught_up)),
        needs=("hold-replication", "crash-site"),
    ),
    Bug(
        "set-grown-without-joining",
        "A site that stands by is told as a member before any write has waited for it.",
        ("I2", "I11"),
        planting(holder_rule("grow-with-caught-up-member", _grown_without_joining)),
        needs=("hold-replication", "crash-site"),
    ),
    Bug(
        "new-holder-names-every-site",
        "A new holder tells a set of every site, with those that may lack acknowledged writes.",
        ("I2", "I11"),
        planting(holder_rule("new-holder-shrinks", _new_holder_names_all)),
        needs=("crash-site", "isolate-site"),
    ),
    Bug(
        "hand-over-outside-the-set",
        "A holder hands over to a site that may lack acknowledged writes, and no voter or site minds.",
        ("I2", "I11"),
        planting(*refusals(_refusals_but("NotInSynchronousSet"))),
        unseen="the successor holds by itself, and the voters refuse it (voter-without:in-synchronous-set)",
    ),
)

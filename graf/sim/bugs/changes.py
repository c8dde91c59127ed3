"""Bugs of a change of voters: which list is asked, which is counted, and when the change is done."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from graf.api.values import Electorate
from graf.core import holder
from graf.core.view import SiteView
from graf.core.voterchange import Settling
from graf.sim.bugs.bug import Bug, Patch, no_campaign_rule, planting
from graf.sim.bugs.sets import holder_rule

if TYPE_CHECKING:
    from graf.core.view import Decision

CHANGE = ("change-voters",)
_settle_new_voters = holder.settle_new_voters

Tallies = tuple[tuple[int, tuple[str, ...]], ...]


def _the_new_list_alone(self: Electorate) -> Tallies:
    return ((self.newest.majority, self.newest.members),)


def _the_old_list_alone(self: Electorate) -> Tallies:
    return ((self.current.majority, self.current.members),)


def _the_readmitted_count(self: Electorate) -> Tallies:
    return tuple((voters.majority, voters.members) for voters in self.lists)


def _both_lists_as_one(self: Electorate) -> Tallies:
    return ((len(self.members) // 2 + 1, self.members),)


def _what_is_declared(self: SiteView) -> Electorate:
    return self.lease.voters if self.lease is not None else Electorate(self.config.voters)


def _done_by_the_new_list(self: Settling) -> bool:
    return self.begun and Electorate(self.voters.newest).carried_by(self.told)


def _settled_before_the_set(view: SiteView, now_ns: int) -> Decision | None:
    lease, held = view.lease, view.holder_set
    if lease is None or held is None:
        return None
    version = replace(held.current.version, epoch=lease.epoch)
    return _settle_new_voters(
        replace(view, holder_set=replace(held, current=replace(held.current, version=version))), now_ns
    )


BUGS = (
    Bug(
        "change-counted-with-the-new-list-only",
        "During a change of voters a majority of the new list decides alone.",
        ("I1", "I2", "I6", "I11"),
        planting(Patch(Electorate, "tallies", property(_the_new_list_alone))),
        needs=CHANGE,
    ),
    Bug(
        "change-counted-with-the-old-list-only",
        "During a change of voters a majority of the old list decides alone.",
        ("I1", "I2", "I6", "I11"),
        planting(Patch(Electorate, "tallies", property(_the_old_list_alone))),
        needs=CHANGE,
    ),
    Bug(
        "both-lists-counted-as-one",
        "During a change of voters a majority of everybody on either list decides.",
        ("I1", "I2", "I6", "I11"),
        planting(Patch(Electorate, "tallies", property(_both_lists_as_one))),
        needs=CHANGE,
    ),
    Bug(
        "readmitted-voter-counted-for-the-old-list",
        "A voter that lost its disk counts for the list in force while it is being admitted anew.",
        ("I1", "I5", "I6"),
        planting(Patch(Electorate, "tallies", property(_the_readmitted_count))),
        needs=("lose-disk",),
    ),
    Bug(
        "electorate-as-declared",
        "A site contends with the voters that Git declares instead of those in force, and the voters do not mind.",
        ("I1", "I6"),
        planting(Patch(SiteView, "electorate", property(_what_is_declared)), no_campaign_rule("declared-voters-only")),
        needs=("change-voters", "crash-site"),
    ),
    Bug(
        "settle-counted-on-one-list",
        "A change is done when a majority of the new list has it on disk.",
        ("I1", "I6"),
        planting(Patch(Settling, "done", property(_done_by_the_new_list))),
        needs=("change-voters", "isolate-site"),
        unseen="no unfinished change is won without both lists; the old one counts when a new voter loses its disk",
    ),
    Bug(
        "settled-before-the-set-is-on-the-new-list",
        "A change is told as done before the new list has a set of its epoch.",
        ("I2", "I11"),
        planting(holder_rule("settle-new-voters", _settled_before_the_set)),
        needs=("change-voters", "flap-link", "slow-disk"),
        unseen="a contender carries the newest set of every peer that it hears to voters that have none",
    ),
)

"""The protocol, broken in one place each: every one of these must end in a violation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graf.sim.explore.configurations import lease, synchronous_set, voters
from graf.sim.explore.patches import Patch, without

if TYPE_CHECKING:
    from graf.sim.explore.configurations import Configuration


@dataclass(frozen=True, slots=True)
class Variant:
    """A broken protocol and the smallest bounds that show it.

    Attributes:
        breaks: What the counterexample may be about: how its text begins.
    """

    name: str
    what: str
    patch: Patch
    configuration: Configuration
    breaks: tuple[str, ...]


VARIANTS: tuple[Variant, ...] = (
    Variant(
        "majority-off-by-one",
        "half of the voters is taken for a majority",
        Patch(half_is_a_majority=True),
        lease(1, 0),
        ("I6", "I1"),
    ),
    Variant(
        "hold-without-drift",
        "a voter keeps its promise for the bare lease time, on a fast clock",
        Patch(hold_without_drift=True),
        lease(1, 0),
        ("I1",),
    ),
    Variant(
        "lease-from-receive-time",
        "a renewal counts from when its answer arrived",
        Patch(lease_from_receive_time=True),
        lease(1, 0),
        ("I1",),
    ),
    Variant(
        "no-restart-silence", "a restarted voter grants at once", Patch(no_restart_silence=True), lease(1, 1), ("I1",)
    ),
    Variant(
        "promise-not-durable",
        "a voter answers before its promise is on disk",
        Patch(promise_not_durable=True),
        lease(2, 1),
        ("I1", "I5"),
    ),
    Variant(
        "epoch-granted-twice",
        "the rule that an epoch only rises is left out",
        Patch(rules=without("epoch-rises")),
        lease(2, 0),
        ("I5", "I1"),
    ),
    Variant(
        "holder-forgotten",
        "a voter does not wait for the end of the holder's lease",
        Patch(rules=without("holder-may-live")),
        lease(1, 0),
        ("I1",),
    ),
    Variant(
        "grant-is-no-answer",
        "a grant does not count as an answer to the new holder",
        Patch(grant_is_no_answer=True),
        lease(2, 0),
        ("I1",),
    ),
    Variant(
        "gate-open-after-release",
        "the epoch is given back before the gate is shut",
        Patch(gate_open_after_release=True),
        lease(1, 0),
        ("I1",),
    ),
    Variant(
        "gate-left-to-the-process",
        "only the process shuts the gate, and a process can be paused",
        Patch(gate_left_to_the_process=True),
        lease(1, 0),
        ("I1",),
    ),
    Variant(
        "lost-disk-votes-again",
        "a voter that lost its disk votes as if it had promised nothing",
        Patch(rules=without("no-record-no-vote")),
        lease(1, 0, 1),
        ("I1",),
    ),
    Variant(
        "set-ignored",
        "a site outside the synchronous set may win",
        Patch(rules=without("in-synchronous-set")),
        synchronous_set(1, 1),
        ("I2", "I11"),
    ),
    Variant(
        "set-shrunk-before-stored",
        "the holder acknowledges alone before a majority has the smaller set on disk",
        Patch(shrunk_before_stored=True),
        synchronous_set(1, 1),
        ("I2", "I11"),
    ),
    Variant(
        "set-grown-before-caught-up",
        "a site is told to be in the set before it has what was acknowledged",
        Patch(grown_before_caught_up=True),
        synchronous_set(1, 2),
        ("I2",),
    ),
    Variant(
        "set-told-before-required",
        "a site is told to be in the set while writes are acknowledged without it",
        Patch(told_before_required=True),
        synchronous_set(1, 2),
        ("I2",),
    ),
    Variant(
        "set-reset-by-grant",
        "a grant puts every site into the set again",
        Patch(set_reset_by_grant=True),
        synchronous_set(2, 1),
        ("I2", "I11"),
    ),
    Variant(
        "adopted-set-taken-for-the-newest",
        "a new holder acknowledges with no more than the set it adopted",
        Patch(adopted_without_doubt=True),
        synchronous_set(2, 2),
        ("I2",),
    ),
    Variant(
        "new-list-alone-decides",
        "a change of voters counts with the new list only",
        Patch(new_list_alone_decides=True),
        voters(2),
        ("I1", "I5", "I6", "two lists"),
    ),
    Variant(
        "lost-change-releases",
        "a holder that loses the contest for a change gives its grants back",
        Patch(lost_change_releases=True),
        voters(2),
        ("I1",),
    ),
    Variant(
        "release-drops-a-change",
        "any release lets a voter forget a change that it has granted",
        Patch(release_drops_any_change=True),
        voters(2),
        ("two lists", "I1"),
    ),
)

"""How a variant of the protocol is broken: in the check only, around the functions of `graf.core`."""

from __future__ import annotations

from dataclasses import dataclass

from graf.api.values import Electorate, VoterList
from graf.core.voter import CAMPAIGN_RULES, CampaignRule


@dataclass(frozen=True, slots=True)
class Patch:
    """What is changed; the default is the protocol as it is."""

    rules: tuple[CampaignRule, ...] = CAMPAIGN_RULES
    half_is_a_majority: bool = False
    hold_without_drift: bool = False
    lease_from_receive_time: bool = False
    no_restart_silence: bool = False
    promise_not_durable: bool = False
    grant_is_no_answer: bool = False
    gate_open_after_release: bool = False
    gate_left_to_the_process: bool = False
    epoch_asked_again: bool = False
    released_still_claimed: bool = False
    streams_outlive_processes: bool = False
    shrunk_before_stored: bool = False
    grown_before_caught_up: bool = False
    told_before_required: bool = False
    set_reset_by_grant: bool = False
    doubtful_forgotten: bool = False
    adopted_without_doubt: bool = False
    new_list_alone_decides: bool = False
    settled_by_new_list: bool = False
    settled_before_set_is_stored: bool = False
    lost_change_releases: bool = False
    release_drops_any_change: bool = False


def without(rule: str) -> tuple[CampaignRule, ...]:
    """The voter's rules for a campaign but one."""
    rules = tuple(r for r in CAMPAIGN_RULES if r[0] != rule)
    if len(rules) + 1 != len(CAMPAIGN_RULES):
        raise ValueError(f"no rule of the voter is called {rule!r}")
    return rules


class HalfList(VoterList):
    """Half of the voters is taken for a majority."""

    @property
    def majority(self) -> int:
        """How many voters a decision needs, wrongly."""
        return len(self.members) // 2


class NewListAlone(Electorate):
    """During a change only the new list is counted."""

    @property
    def tallies(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """Per list, how many voters are needed and who of them counts, wrongly."""
        newest = self.newest
        return ((newest.majority, newest.members),)

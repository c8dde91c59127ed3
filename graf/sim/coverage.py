"""What a campaign must have reached: every fault, every rule, every answer and branch that can come up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.core.contender import CONTENDER_RULES
from graf.core.handover_rules import ORDER_RULES
from graf.core.holder import HOLDER_RULES
from graf.core.planning import FAILBACK_RULES, PRECHECK_RULES
from graf.core.voter import CAMPAIGN_RULES
from graf.sim.settings import FAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping

# Reasons for which a site does something or holds; one rule may give several.
REASONS = (
    "AcceptingWithoutLease", "ActiveElsewhere", "AwaitingBootstrap", "AwaitingVoters", "BackOff", "Bootstrap",
    "ChangeVoters", "Contending", "DataComponentLost", "DataLostBeforePromotion", "DataNotPromotable", "DriverUnknown",
    "HandingOver", "HolderMayLive", "HolderSilent", "JoinFailed", "LeaseEnding", "LocalRestart", "LocalStall",
    "ManualFailover", "MemberCaughtUp", "MemberJoining", "MemberLost", "MemberReturns", "MemberSuspected", "NewHolder",
    "NoMajorityVisible", "NoThirdVoter", "NotInSynchronousSet", "RecordLost", "RegainVoters", "Released",
    "RestartSilence", "Resume", "Serving", "SettlingVoters", "StandbyCanTakeOver", "SuccessorGoesFirst",
    "VoterChangeWaits",
)  # fmt: skip
ACTIONS = (
    "Contend", "Fence", "Follow", "HandOver", "Join", "ProposeSet", "SettleVoters", "StopJoining",
)  # fmt: skip
REFUSALS = (
    "Campaign EpochNotHigher", "Campaign HolderMayLive", "Campaign NoRecord", "Campaign NotInSynchronousSet",
    "Campaign OtherVoterList", "Campaign RestartSilence", "SetUpdate PromisedOther", "SetUpdate NoRecord",
    "Settle PromisedOther",
)  # fmt: skip
OTHER = (
    "contest lost", "crashed after the disk, before the answer", "crashed before the disk", "death missed",
    "failback", "gate unknown", "grant", "loud release", "operation Failed", "operation Refused",
    "operation RolledBack", "operation Succeeded", "push conflict", "record queued", "stale epoch refused",
    "stale read of Git", "switchover failed QuiesceFailed", "switchover refused AlreadyActive",
    "switchover refused NotActive", "switchover refused NotInSynchronousSet", "switchover refused NotStandby",
    "switchover refused PeerUnreachable",
    "switchover released", "switchover rolled back", "takeover", "takeover planned", "unprotected acknowledgement",
    "verdict Behind", "verdict Clean", "verdict Diverged", "verdict Empty", "verdict Unknown", "voter admitted anew",
    "voters settled", "win", "win joint",
)  # fmt: skip

# What only a campaign of groups whose data is copied comes to, and what only the other one does.
OF_COPIES = (
    "rule keep-current-copies", "rule stop-without-a-stored-set", "reason CopyWithinRpo", "reason CopyBeyondRpo",
    "loss within the RPO",
)  # fmt: skip
OF_A_SET = (
    "rule shrink-lost-member", "rule grow-with-caught-up-member", "reason JoinFailed", "reason MemberCaughtUp",
    "reason MemberJoining", "reason MemberLost", "reason MemberReturns", "reason MemberSuspected", "action Join",
    "action StopJoining",
)  # fmt: skip
# What this world cannot come to, or too seldom for every campaign, and where it is tested instead.
EXEMPT = {
    "rule only-voters-contend": "the API keeps every site among the voters: tests/core/test_decide.py",
    "plan target-is-a-site": "the API refuses such an operation before: tests/core/test_planning.py",
    "rule one-at-a-time": "seldom, a manager waits for the first one: tests/sim/test_moves.py",
    "rule not-during-a-contest": "seldom, a contest takes milliseconds: tests/sim/test_moves.py",
    "rule in-time": "seldom, a manager refuses it before: tests/sim/test_moves.py",
    "rule release-when-a-copy-is-lost": "no data is outside the set here: test_decide.py, drill volume-loss",
    "rule copies-are-within-rpo": "no copy is beside a database here: tests/core/test_decide.py",
    "rule tell-a-lost-copy": "no data is outside the set here: tests/core/test_decide.py",
    "plan not-tried-too-often": "five failed failbacks of an epoch take longer than a run: tests/core/test_planning.py",
}


def expected(*, copies: bool = False) -> tuple[str, ...]:
    """Everything that a campaign must reach, as the keys of its counts; with `copies` of such groups."""
    elsewhere = OF_A_SET if copies else OF_COPIES
    keys = (
        *(f"fault {name}" for name in FAULTS),
        *(f"rule {name}" for name, _rule in (*HOLDER_RULES, *CONTENDER_RULES, *CAMPAIGN_RULES, *ORDER_RULES)),
        *(f"plan {name}" for name, _rule in (*FAILBACK_RULES, *PRECHECK_RULES)),
        *(f"reason {name}" for name in REASONS),
        *(f"action {name}" for name in ACTIONS),
        *(f"refusal {name}" for name in REFUSALS),
        *OTHER,
        *OF_COPIES,
    )
    return tuple(dict.fromkeys(key for key in keys if key not in EXEMPT and key not in elsewhere))


def unreached(counts: Mapping[str, int], *, copies: bool = False) -> list[str]:
    """What of `expected` a campaign has not come to."""
    return [key for key in expected(copies=copies) if not counts.get(key)]

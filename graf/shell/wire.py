"""Between the core's messages and the protobuf messages of the peer stream."""

from __future__ import annotations

from typing import TypeAlias

from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.core import messages as core
from graf.shell.proto import peer_pb2 as pb

Request: TypeAlias = core.Campaign | core.Release | core.SetUpdate | core.Settle
Answer: TypeAlias = core.CampaignAnswer | core.ReleaseAnswer | core.SetAnswer | core.SettleAnswer


def set_to_wire(value: SyncSet) -> pb.SyncSet:
    """A synchronous set; members in order, so that equal sets are equal bytes."""
    return pb.SyncSet(epoch=value.version.epoch, counter=value.version.counter, members=sorted(value.members))


def set_from_wire(message: pb.SyncSet) -> SyncSet:
    """The reverse of `set_to_wire`."""
    return SyncSet(SetVersion(message.epoch, message.counter), frozenset(message.members))


def voters_to_wire(value: VoterList) -> pb.VoterList:
    """A voter list; the order of the members is part of it."""
    return pb.VoterList(version=value.version, members=value.members, readmitted=sorted(value.readmitted))


def voters_from_wire(message: pb.VoterList) -> VoterList:
    """The reverse of `voters_to_wire`.

    Raises:
        ValueError: no list that anybody could vote by, e.g. one without members.
    """
    return VoterList(message.version, tuple(message.members), frozenset(message.readmitted))


def electorate_to_wire(value: Electorate) -> pb.Electorate:
    """The lists that have to agree."""
    proposed = voters_to_wire(value.proposed) if value.proposed is not None else None
    return pb.Electorate(current=voters_to_wire(value.current), proposed=proposed)


def electorate_from_wire(message: pb.Electorate) -> Electorate:
    """The reverse of `electorate_to_wire`.

    Raises:
        ValueError: one of the lists is none, or the proposed one is not newer.
    """
    proposed = voters_from_wire(message.proposed) if message.HasField("proposed") else None
    return Electorate(voters_from_wire(message.current), proposed)


def claims_to_wire(sequence: int, claims: tuple[core.Claim, ...]) -> pb.PeerMessage:
    """A heartbeat."""
    return pb.PeerMessage(
        heartbeat=pb.Heartbeat(
            sequence=sequence,
            claims=[pb.Claim(group=c.group, epoch=c.epoch, voters_version=c.voters_version) for c in claims],
        )
    )


def claim_from_wire(message: pb.Claim) -> core.Claim:
    """One claim of a heartbeat."""
    return core.Claim(message.group, message.epoch, message.voters_version)


def claim_answers_to_wire(sequence: int, answers: list[core.ClaimAnswer]) -> pb.PeerMessage:
    """The answer to a heartbeat."""
    return pb.PeerMessage(
        heartbeat_answer=pb.HeartbeatAnswer(
            sequence=sequence,
            answers=[
                pb.ClaimAnswer(
                    group=a.group,
                    epoch=a.epoch,
                    accepted=a.accepted,
                    reason=a.reason,
                    promised_epoch=a.promised_epoch,
                    promised_site=a.promised_site,
                )
                for a in answers
            ],
        )
    )


def claim_answer_from_wire(message: pb.ClaimAnswer) -> core.ClaimAnswer:
    """One answer to a claim."""
    return core.ClaimAnswer(
        message.group,
        message.epoch,
        message.accepted,
        message.reason,
        message.promised_epoch,
        message.promised_site,
    )


def request_to_wire(request: Request) -> pb.PeerMessage:
    """What a contender or holder asks of a voter."""
    match request:
        case core.Campaign():
            return pb.PeerMessage(
                campaign=pb.Campaign(
                    group=request.group,
                    epoch=request.epoch,
                    ttl_ns=request.ttl_ns,
                    voters=electorate_to_wire(request.voters),
                    known_set=set_to_wire(request.known_set),
                    lossless=request.lossless,
                    admits=request.admits,
                )
            )
        case core.Release():
            return pb.PeerMessage(
                release=pb.Release(
                    group=request.group,
                    epoch=request.epoch,
                    successor=request.successor,
                    cause=request.cause,
                    detect_ms=request.detect_ms,
                    operation=request.operation,
                )
            )
        case core.SetUpdate():
            return pb.PeerMessage(
                set_update=pb.SetUpdate(group=request.group, epoch=request.epoch, set=set_to_wire(request.new_set))
            )
        case core.Settle():
            return pb.PeerMessage(
                settle=pb.Settle(group=request.group, epoch=request.epoch, voters=voters_to_wire(request.voters))
            )


def request_from_wire(message: pb.PeerMessage) -> Request | None:
    """The request in a message, None when it holds something else.

    Raises:
        ValueError: the message is no well-formed request, e.g. an empty list of voters.
    """
    match message.WhichOneof("body"):
        case "campaign":
            campaign = message.campaign
            if not campaign.group or campaign.epoch < 1 or campaign.ttl_ns < 1:
                raise ValueError("a campaign needs a group, an epoch and a time to live")
            return core.Campaign(
                campaign.group,
                campaign.epoch,
                campaign.ttl_ns,
                electorate_from_wire(campaign.voters),
                set_from_wire(campaign.known_set),
                campaign.lossless,
                campaign.admits,
            )
        case "release":
            release = message.release
            return core.Release(
                release.group,
                release.epoch,
                release.successor,
                release.cause,
                release.detect_ms,
                release.operation,
            )
        case "set_update":
            update = message.set_update
            return core.SetUpdate(update.group, update.epoch, set_from_wire(update.set))
        case "settle":
            settle = message.settle
            return core.Settle(settle.group, settle.epoch, voters_from_wire(settle.voters))
        case _:
            return None


def answer_to_wire(answer: Answer) -> pb.PeerMessage:
    """What a voter answers."""
    match answer:
        case core.CampaignAnswer():
            return pb.PeerMessage(
                campaign_answer=pb.CampaignAnswer(
                    group=answer.group,
                    epoch=answer.epoch,
                    granted=answer.granted,
                    reason=answer.reason,
                    promised_epoch=answer.promised_epoch,
                    promised_site=answer.promised_site,
                    retry_after_ns=answer.retry_after_ns,
                    set=set_to_wire(answer.stored_set),
                    stored_voters=electorate_to_wire(answer.stored_voters) if answer.stored_voters else None,
                )
            )
        case core.ReleaseAnswer():
            return pb.PeerMessage(
                release_answer=pb.ReleaseAnswer(group=answer.group, epoch=answer.epoch, released=answer.released)
            )
        case core.SetAnswer():
            return pb.PeerMessage(
                set_answer=pb.SetAnswer(
                    group=answer.group,
                    epoch=answer.epoch,
                    set=set_to_wire(answer.new_set),
                    stored=answer.stored,
                    reason=answer.reason,
                )
            )
        case core.SettleAnswer():
            return pb.PeerMessage(
                settle_answer=pb.SettleAnswer(
                    group=answer.group,
                    epoch=answer.epoch,
                    voters=voters_to_wire(answer.voters),
                    stored=answer.stored,
                    reason=answer.reason,
                )
            )


def answer_from_wire(message: pb.PeerMessage) -> Answer | None:
    """The answer in a message, None when it holds something else.

    Raises:
        ValueError: the message is no well-formed answer.
    """
    match message.WhichOneof("body"):
        case "campaign_answer":
            campaign = message.campaign_answer
            return core.CampaignAnswer(
                campaign.group,
                campaign.epoch,
                campaign.granted,
                campaign.reason,
                campaign.promised_epoch,
                campaign.promised_site,
                campaign.retry_after_ns,
                set_from_wire(campaign.set),
                electorate_from_wire(campaign.stored_voters) if campaign.HasField("stored_voters") else None,
            )
        case "release_answer":
            release = message.release_answer
            return core.ReleaseAnswer(release.group, release.epoch, release.released)
        case "set_answer":
            update = message.set_answer
            return core.SetAnswer(update.group, update.epoch, set_from_wire(update.set), update.stored, update.reason)
        case "settle_answer":
            settle = message.settle_answer
            return core.SettleAnswer(
                settle.group, settle.epoch, voters_from_wire(settle.voters), settle.stored, settle.reason
            )
        case _:
            return None

"""What a site has to do to hand its group over: the effects of `graf.core.handover`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graf.api.values import Reason
    from graf.core.messages import Release


@dataclass(frozen=True, slots=True)
class Quiesce:
    """Let the data components come to rest and take their positions; tell `quiesced` or `quiesce_failed`."""

    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Prepare:
    """Ask the successor to prove the positions; tell `asked` or `unreachable`."""

    attempt: int
    target: str
    epoch: int
    operation: str
    positions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AwaitProof:
    """Begin to count the successor's time; when it is over tell `proof_timed_out`."""

    attempt: int


@dataclass(frozen=True, slots=True)
class ForgetData:
    """Ask nothing of the data components any more: what is dead stays dead until somebody decides."""


@dataclass(frozen=True, slots=True)
class CannotServe:
    """Note that this epoch was won in vain, whether it is released now or has to end by itself."""

    why: str


@dataclass(frozen=True, slots=True)
class ShutTraffic:
    """Take clients away; tell `gate_told`."""

    attempt: int


@dataclass(frozen=True, slots=True)
class StandDown:
    """Give the lease up in order: from now on nothing claims it."""


@dataclass(frozen=True, slots=True)
class SendRelease:
    """Tell every voter, the own one first and durably; then tell `released`, or `release_failed`."""

    attempt: int
    release: Release


@dataclass(frozen=True, slots=True)
class FenceSelf:
    """Give the role up and leave the lease to end by itself."""

    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class RollBack:
    """Let the data components accept again; tell `rolled_back`."""

    attempt: int
    epoch: int


@dataclass(frozen=True, slots=True)
class OpenTraffic:
    """Let clients in again."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """Stop everything that is under way for an earlier effect."""


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the manager how far an operation is."""

    operation: str
    state: str
    step: str
    message: str


@dataclass(frozen=True, slots=True)
class RecordRefusal:
    """Put a refusal into the record."""

    type: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class RecordRelease:
    """Put a loud release into the record."""

    epoch: int
    successor: str
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class WatchSuccessor:
    """See whether somebody takes over in time; when nobody does tell `nobody_took_over`."""

    operation: str
    target: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The hand-over is over: tell the other sites, decide again."""


Effect = (
    Quiesce | Prepare | AwaitProof | ForgetData | CannotServe | ShutTraffic | StandDown | SendRelease | FenceSelf
    | RollBack | OpenTraffic | Abandon | Report | RecordRefusal | RecordRelease | WatchSuccessor | Ended
)  # fmt: skip

"""What a drill measures and reports: frozen values, and their JSON shape.

All points in time are nanoseconds of this machine's CLOCK_MONOTONIC unless a name says `wall`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

MS = 1_000_000
SECOND = 1_000_000_000


class Result(StrEnum):
    """Outcome of a run. `invalid`: the measurement itself was not good enough to say pass or fail."""

    PASS = "pass"  # noqa: S105
    FAIL = "fail"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Ack:
    """One acknowledged write: client and sequence number name it, the times are the client's."""

    client: int
    seq: int
    sent_ns: int
    acked_ns: int


@dataclass(frozen=True, slots=True)
class ClientError:
    """One failed try of a client: during connect or during a write, with the first words of the error."""

    client: int
    at_ns: int
    kind: str
    detail: str


class Probe(StrEnum):
    """What the observer asks a site."""

    WRITE = "write"  # does the database itself acknowledge a write, the gate left aside
    READ = "read"  # does the site answer a read through its own gate


class Answer(StrEnum):
    """What came back. Only `accepted` counts against safety; the others tell the lanes of the timeline."""

    ACCEPTED = "accepted"
    REFUSED = "refused"  # the server answered with an error, e.g. read-only
    DOWN = "down"  # nobody listens, or the connection broke
    SILENT = "silent"  # no answer within the bound: a shut gate, a frozen process, a hung commit


@dataclass(frozen=True, slots=True)
class Sample:
    """One question of the observer to one site."""

    site: str
    probe: Probe
    start_ns: int
    end_ns: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Gap:
    """Longest interval without any acknowledgement in a window; `seconds` never, milliseconds always."""

    start_ns: int
    end_ns: int

    @property
    def ms(self) -> float:
        """Length in milliseconds."""
        return (self.end_ns - self.start_ns) / MS


@dataclass(frozen=True, slots=True)
class Window:
    """A named part of a run over which the longest gap is measured, with its limit if it has one.

    Attributes:
        name: Which part, e.g. `fault` or `part 2: local restart`.
        start_ns: Begin: the fault was injected.
        end_ns: End of the part.
        limit_ms: Largest gap that passes; None when the part has no limit.
        counts: Whether the part counts for the run's `gap_ms_max`.
    """

    name: str
    start_ns: int
    end_ns: int
    limit_ms: float | None
    counts: bool = True


@dataclass(frozen=True, slots=True)
class MeasuredWindow:
    """A window with what was measured in it."""

    name: str
    start_ns: int
    end_ns: int
    gap_ms: float
    limit_ms: float | None
    counts: bool


@dataclass(frozen=True, slots=True)
class Marker:
    """One event of the timeline: `lane` is who it concerns (drill, a site, manager, git)."""

    at_ns: int
    lane: str
    label: str


@dataclass(frozen=True, slots=True)
class RecordedOperation:
    """An operation as the controllers recorded it and the manager shows it."""

    type: str
    from_site: str
    to_site: str
    epoch_from: int
    epoch_to: int
    wall_ms: int
    phases_ms: dict[str, float]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation in the report: the record, the gap its clients saw, and its commit."""

    type: str
    from_site: str
    to_site: str
    epoch_from: int
    epoch_to: int
    rto_ms: float | None
    rpo_writes: int
    phases_ms: dict[str, float]
    git_commit: str
    at_ns: int

    def to_json(self) -> dict[str, Any]:
        """The shape that `report.json` promises."""
        return {
            "type": self.type,
            "from": self.from_site,
            "to": self.to_site,
            "epoch_from": self.epoch_from,
            "epoch_to": self.epoch_to,
            "rto_ms": None if self.rto_ms is None else round(self.rto_ms, 1),
            "rpo_writes": self.rpo_writes,
            "phases_ms": {name: round(value, 1) for name, value in self.phases_ms.items()},
            "git_commit": self.git_commit,
        }


@dataclass(frozen=True, slots=True)
class ClientSummary:
    """What the four clients measured."""

    acked: int
    lost: int
    gap_ms_max: float
    errors: int
    rate_before_fault: float
    lost_on_standby: int = 0
    lost_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StaleCalls:
    """Mutating driver calls with an old epoch that the drill tried, by outcome."""

    accepted: int = 0
    refused: int = 0
    unreachable: int = 0
    details: tuple[str, ...] = ()

    def plus(self, other: StaleCalls) -> StaleCalls:
        """Both together."""
        return StaleCalls(
            self.accepted + other.accepted,
            self.refused + other.refused,
            self.unreachable + other.unreachable,
            self.details + other.details,
        )


@dataclass(frozen=True, slots=True)
class SafetySummary:
    """What the observer and the stale calls measured."""

    dual_writable_samples: int
    dual_served_samples: int
    stale_epoch_accepted: int
    stale_epoch_refused: int
    samples: dict[str, int]
    blind_ms_max: dict[str, float]


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of the verdict, met or not, with the figure that decided it."""

    name: str
    ok: bool
    detail: str
    result_if_not: Result = Result.FAIL


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a scenario, complete: what `report.json` says about it and what the pages draw."""

    scenario: str
    profile: str
    group: str
    started_wall_ms: int
    origin_ns: int
    result: Result
    checks: tuple[Check, ...]
    client: ClientSummary
    safety: SafetySummary
    operations: tuple[Operation, ...]
    windows: tuple[MeasuredWindow, ...]
    markers: tuple[Marker, ...]
    steps: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)

    def and_beside(self, other: Run) -> Run:
        """One verdict on two groups in the same run: the other one's checks too, each with its group's name."""
        checks = tuple(replace(check, name=f"{other.group}: {check.name}") for check in other.checks)
        return replace(
            self,
            result=verdict_of([self, other]),
            checks=self.checks + checks,
            evidence={**self.evidence, "beside": other.to_json()},
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the run did not pass; empty when it did."""
        return tuple(f"{check.name}: {check.detail}" for check in self.checks if not check.ok)

    def to_json(self) -> dict[str, Any]:
        """The shape that `report.json` promises, and beside it what explains the figures."""
        return {
            "scenario": self.scenario,
            "profile": self.profile,
            "result": str(self.result),
            "reasons": list(self.reasons),
            "client": {
                "acked": self.client.acked,
                "lost": self.client.lost,
                "gap_ms_max": round(self.client.gap_ms_max, 1),
                "errors": self.client.errors,
                "acked_per_second_before_fault": round(self.client.rate_before_fault, 1),
                "lost_on_standby": self.client.lost_on_standby,
            },
            "safety": {
                "dual_writable_samples": self.safety.dual_writable_samples,
                "dual_served_samples": self.safety.dual_served_samples,
                "stale_epoch_accepted": self.safety.stale_epoch_accepted,
                "stale_epoch_refused": self.safety.stale_epoch_refused,
                "samples": self.safety.samples,
                "blind_ms_max": {name: round(value, 1) for name, value in self.safety.blind_ms_max.items()},
            },
            "operations": [operation.to_json() for operation in self.operations],
            "windows": [
                {
                    "name": window.name,
                    "gap_ms": round(window.gap_ms, 1),
                    "limit_ms": window.limit_ms,
                    "seconds": round((window.end_ns - window.start_ns) / SECOND, 2),
                }
                for window in self.windows
            ],
            "checks": [asdict(check) | {"result_if_not": str(check.result_if_not)} for check in self.checks],
            "steps": list(self.steps),
            "events": [
                {"at_ms": round((m.at_ns - self.origin_ns) / MS, 1), "lane": m.lane, "event": m.label}
                for m in self.markers
            ],
            "notes": list(self.notes),
            "evidence": self.evidence,
            "started_wall_ms": self.started_wall_ms,
            "group": self.group,
        }


@dataclass(frozen=True, slots=True)
class Raw:
    """What the pages draw beside a run: acknowledgement times in order, and the observer's samples."""

    ack_times: tuple[int, ...]
    samples: tuple[Sample, ...]


def drill_json(scenario: str, profile: str, runs: list[Run]) -> dict[str, Any]:
    """Top level of `report.json`."""
    return {
        "scenario": scenario,
        "profile": profile,
        "verdict": str(verdict_of(runs)),
        "runs": [run.to_json() for run in runs],
    }


def verdict_of(runs: list[Run]) -> Result:
    """Pass only if there was a run and every run passed; one failure fails; else invalid."""
    results = {run.result for run in runs}
    if Result.FAIL in results:
        return Result.FAIL
    if not runs or Result.INVALID in results:
        return Result.INVALID
    return Result.PASS

"""From what a run wrote down to the values that the verdict and the report use. Nothing here touches the lab."""

from __future__ import annotations

import time
from datetime import datetime

from graf.crd.group import HistoryEntry, RedundancyGroup
from graf.lab.drill import measure, overlap
from graf.lab.drill.errors import DrillError
from graf.lab.drill.model import (
    MS,
    Answer,
    ClientError,
    ClientSummary,
    Marker,
    MeasuredWindow,
    Operation,
    Probe,
    RecordedOperation,
    SafetySummary,
    Sample,
    Window,
)
from graf.lab.drill.session import Session

MOVES = ("Failover", "Switchover", "Failback")
WARM_UP_S = 5.0


def sites_of(group: RedundancyGroup) -> tuple[str, str]:
    """Preferred and spare site; a drill knows groups of two sites."""
    preferred = group.spec.preferred_site
    others = [name for name in group.spec.site_names if name != preferred]
    if len(others) != 1:
        raise DrillError(f"the group {group.name} has {len(others) + 1} sites; a drill needs exactly two")
    return preferred, others[0]


def wall_to_mono_ns() -> int:
    """What to add to a wall-clock time of this machine to get the monotonic one."""
    return time.monotonic_ns() - time.time_ns()


def wall_ms(entry: HistoryEntry) -> int:
    return int(datetime.fromisoformat(entry.at).timestamp() * 1000) if entry.at else 0


def recorded(session: Session) -> list[RecordedOperation]:
    """Moves between sites since the run began, in order of their epochs."""
    moves: dict[int, HistoryEntry] = {}
    for entry in session.history.values():
        between = entry.from_site and entry.to_site and entry.from_site != entry.to_site
        if entry.kind == "Decision" and entry.type in MOVES and between and entry.epoch > session.start_epoch:
            known = moves.get(entry.epoch)
            # Both sites may record a move; the winner's record has the phases.
            if known is None or (entry.phases_ms and not known.phases_ms):
                moves[entry.epoch] = entry
    return [
        RecordedOperation(
            entry.type,
            entry.from_site,
            entry.to_site,
            entry.epoch_from,
            entry.epoch,
            wall_ms(entry),
            dict(entry.phases_ms),
            entry.operation,
        )
        for _, entry in sorted(moves.items())
    ]


def newest_recorded_epoch(session: Session) -> int:
    """The highest epoch that a record of a site becoming active names: a move, or a site that resumed its own."""
    decisions = [e for e in session.history.values() if e.kind == "Decision" and e.type in (*MOVES, "Resume")]
    return max((entry.epoch for entry in decisions), default=0)


def record_markers(session: Session, begin_ns: int) -> list[Marker]:
    offset = wall_to_mono_ns()
    markers = []
    for entry in session.history.values():
        at_ns = wall_ms(entry) * MS + offset
        if entry.at and at_ns >= begin_ns:
            what = f"{entry.type} epoch {entry.epoch}" + (f": {entry.reasons[0]}" if entry.reasons else "")
            markers.append(Marker(at_ns, entry.site or "manager", what[:160]))
    return markers


def gap_markers(times: list[int], windows: list[Window]) -> list[Marker]:
    """Where the longest gap of each part begins and ends, on the clients' lane."""
    markers = []
    for window in windows:
        gap = measure.longest_gap(times, window.start_ns, window.end_ns)
        markers.append(Marker(gap.start_ns, "clients", f"{window.name}: last write before the longest gap"))
        markers.append(Marker(gap.end_ns, "clients", f"{window.name}: served again after {gap.ms:.0f} ms"))
    return markers


def client_summary(
    times: list[int],
    errors: list[ClientError],
    missing: dict[str, list[tuple[int, int]]],
    windows: list[MeasuredWindow],
    fault_ns: int,
    session: Session,
) -> ClientSummary:
    lost = set().union(*missing.values()) if missing else set()
    return ClientSummary(
        acked=len(times),
        lost=len(lost),
        gap_ms_max=max((w.gap_ms for w in windows if w.counts), default=0.0),
        errors=len(errors),
        rate_before_fault=measure.rate_per_second(times, fault_ns - int(WARM_UP_S * 1e9), fault_ns),
        lost_on_standby=len(set().union(*(ids for place, ids in missing.items() if place != "service"))),
        lost_ids=tuple(f"{session.workload.run_id}/{client}/{seq}" for client, seq in sorted(lost)),
    )


def safety_summary(samples: list[Sample], session: Session, begin_ns: int, end_ns: int) -> SafetySummary:
    return SafetySummary(
        dual_writable_samples=len(overlap.dual_ticks(samples, Probe.WRITE)),
        dual_served_samples=len(overlap.dual_ticks(samples, Probe.READ)),
        stale_epoch_accepted=session.stale.accepted,
        stale_epoch_refused=session.stale.refused,
        samples=overlap.counts(samples),
        # Up to the end of the last window: afterwards the drill itself stops the observer.
        blind_ms_max=overlap.blind_ms_max(samples, begin_ns, max((w.end_ns for w in session.windows), default=end_ns)),
    )


def controls(
    samples: list[Sample], session: Session, operations: list[Operation], fault_ns: int
) -> list[tuple[str, bool]]:
    """What a working observer must have seen: who serves is seen to serve, who does not is seen not to."""

    def seen(site: str, probe: Probe, answers: set[Answer], low: int, high: int) -> bool:
        return any(
            s.site == site and s.probe is probe and s.answer in answers and low <= s.end_ns <= high for s in samples
        )

    accepted, others = {Answer.ACCEPTED}, {Answer.REFUSED, Answer.DOWN, Answer.SILENT}
    controls = []
    for probe, verb in ((Probe.WRITE, "accepts a write"), (Probe.READ, "serves a read")):
        controls.append(
            (f"{session.preferred} {verb} before the fault", seen(session.preferred, probe, accepted, 0, fault_ns))
        )
        controls.append(
            (
                f"{session.spare} is seen not to before the fault ({probe})",
                seen(session.spare, probe, others, 0, fault_ns),
            )
        )
        for index, operation in enumerate(operations):
            high = operations[index + 1].at_ns if index + 1 < len(operations) else 2**63
            name = f"{operation.to_site} {verb} after the {operation.type}"
            controls.append((name, seen(operation.to_site, probe, accepted, operation.at_ns - 2_000 * MS, high)))
    return controls


def error_kinds(errors: list[ClientError]) -> dict[str, int]:
    kinds: dict[str, int] = {}
    for error in errors:
        key = f"{error.kind}: {error.detail}"
        kinds[key] = kinds.get(key, 0) + 1
    return dict(sorted(kinds.items(), key=lambda item: -item[1])[:12])

"""The verdict on a run: every condition is a named check with the figure that decided it. Pure.

Two kinds of failing: a check of the service (`fail`), and a check of the measurement itself (`invalid`): an observer
that saw nothing, clients that never wrote, a guard that nobody tried to pass. A run that is both is `fail`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graf.lab.drill.model import (
    Check,
    ClientSummary,
    MeasuredWindow,
    Operation,
    Result,
    SafetySummary,
    StaleCalls,
)

MIN_RATE_PER_SECOND = 50.0
BLIND_LIMIT_MS = 500.0

# Largest gap_ms_max by scenario and profile. `db-crash`, `switchover` and `manager-loss` wait for no time-out of the
# lease, so the profile does not matter to them.
_BY_PROFILE = {"metro": 1_200.0, "regional": 3_000.0, "wan": 9_000.0}
_SILENT_LOSS = ("site-loss", "site-partition", "site-freeze", "standby-loss", "volume-loss", "two-groups")
# The clients are held until what they wrote is acknowledged, before the site is cut off.
_SILENT_LOSS_WITH_TAIL = ("table-scope",)
_TAIL_MS = 500.0
# The route opens when a warm application's Pod is ready, so the start of a Pod is part of every move, planned or not.
_WITH_POD_START = ("workload-move",)
_POD_START_MS = 6_000.0
_FIXED = {"db-crash": 300.0, "switchover": 200.0, "manager-loss": 300.0}


def gap_limit_ms(scenario: str, profile: str) -> float:
    """Largest `gap_ms_max` with which the scenario passes under the profile."""
    if scenario in _SILENT_LOSS:
        return _BY_PROFILE[profile]
    if scenario in _SILENT_LOSS_WITH_TAIL:
        return _BY_PROFILE[profile] + _TAIL_MS
    if scenario in _WITH_POD_START:
        return _BY_PROFILE[profile] + _POD_START_MS
    return _FIXED[scenario]


@dataclass(frozen=True, slots=True)
class Expectation:
    """One operation that a scenario must see: its type (one of) and direction."""

    types: tuple[str, ...]
    from_site: str
    to_site: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a run may show and still pass.

    Attributes:
        lost_writes: Acknowledged writes that are missing.
        dual_writable: Samples of two sites that accept writes.
        dual_served: Samples of two sites that answer reads.
        max_moves: Any moves, but no more than this; None: exactly the expected ones.
    """

    lost_writes: int = 0
    dual_writable: int = 0
    dual_served: int = 0
    max_moves: int | None = None


STRICT = Allowed()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that the verdict looks at.

    Attributes:
        client: Figures of the clients.
        safety: Figures of the observer.
        stale: The calls with an old epoch that were tried.
        operations: Operations found in the record, in order.
        expected: Operations that the scenario must see, exactly and in order.
        windows: The measured windows.
        sites: Sites whose samples are needed.
        controls: Positive controls: `(name, seen)`; each must have been seen or the observer proves nothing.
        failures: Steps that failed, as sentences.
        own: Checks of the scenario itself.
        allowed: What is tolerated.
    """

    client: ClientSummary
    safety: SafetySummary
    stale: StaleCalls
    operations: Sequence[Operation]
    expected: Sequence[Expectation]
    windows: Sequence[MeasuredWindow]
    sites: Sequence[str]
    controls: Sequence[tuple[str, bool]]
    failures: Sequence[str] = ()
    own: Sequence[Check] = ()
    allowed: Allowed = STRICT


def judge(evidence: Evidence) -> tuple[Result, tuple[Check, ...]]:
    """All checks, and the result that follows from them."""
    checks = (
        *_of_measurement(evidence),
        *_of_service(evidence),
        *_of_operations(evidence),
        *evidence.own,
    )
    failed = {check.result_if_not for check in checks if not check.ok}
    if Result.FAIL in failed:
        return Result.FAIL, checks
    return (Result.INVALID if failed else Result.PASS), checks


def _of_measurement(evidence: Evidence) -> Iterable[Check]:
    client, safety = evidence.client, evidence.safety
    yield Check("clients wrote", client.acked > 0, f"{client.acked} writes acknowledged", Result.INVALID)
    yield Check(
        "load before the fault",
        client.rate_before_fault >= MIN_RATE_PER_SECOND,
        f"{client.rate_before_fault:.1f} acknowledged writes/s, needed {MIN_RATE_PER_SECOND:.0f}",
        Result.INVALID,
    )
    for site in evidence.sites:
        for probe in ("write", "read"):
            name = f"{site}/{probe}"
            number = safety.samples.get(name, 0)
            blind = safety.blind_ms_max.get(name)
            yield Check(f"observer sampled {name}", number > 0, f"{number} samples", Result.INVALID)
            yield Check(
                f"observer not blind on {name}",
                blind is not None and blind <= BLIND_LIMIT_MS,
                "no samples" if blind is None else f"blind for {blind:.0f} ms, at most {BLIND_LIMIT_MS:.0f} ms allowed",
                Result.INVALID,
            )
    for name, seen in evidence.controls:
        yield Check(f"positive control: {name}", seen, "seen" if seen else "never seen", Result.INVALID)
    if evidence.operations:
        yield Check(
            "epoch guard was tried",
            evidence.stale.accepted + evidence.stale.refused > 0,
            f"{evidence.stale.refused} calls with an old epoch refused, {evidence.stale.unreachable} not delivered",
            Result.INVALID,
        )


def _of_service(evidence: Evidence) -> Iterable[Check]:
    client, safety, allowed = evidence.client, evidence.safety, evidence.allowed
    for sentence in evidence.failures:
        yield Check("step", False, sentence)
    yield Check("no acknowledged write lost", client.lost <= allowed.lost_writes, _lost(client))
    yield Check(
        "no site accepts writes beside the other",
        safety.dual_writable_samples <= allowed.dual_writable,
        f"{safety.dual_writable_samples} dual-writable samples",
    )
    yield Check(
        "no site serves beside the other",
        safety.dual_served_samples <= allowed.dual_served,
        f"{safety.dual_served_samples} dual-served samples",
    )
    yield Check(
        "stale epochs refused",
        safety.stale_epoch_accepted == 0,
        f"{safety.stale_epoch_accepted} mutating calls with an old epoch accepted"
        + (f" ({'; '.join(evidence.stale.details)})" if safety.stale_epoch_accepted else ""),
    )
    for window in evidence.windows:
        if window.limit_ms is not None:
            yield Check(
                f"gap in {window.name}",
                window.gap_ms <= window.limit_ms,
                f"{window.gap_ms:.0f} ms, limit {window.limit_ms:.0f} ms"
                + ("" if window.gap_ms <= window.limit_ms else _costliest(evidence.operations)),
            )


def _lost(client: ClientSummary) -> str:
    text = f"{client.lost} of {client.acked} acknowledged writes missing ({client.lost_on_standby} at the standby)"
    return text + (f", first {', '.join(client.lost_ids[:5])}" if client.lost_ids else "")


def _costliest(operations: Sequence[Operation]) -> str:
    phases = [(value, name, op.type) for op in operations for name, value in op.phases_ms.items()]
    if not phases:
        return "; no phase was recorded"
    value, name, kind = max(phases)
    return f"; the costliest recorded phase is {name} of the {kind}: {value:.0f} ms"


def _of_operations(evidence: Evidence) -> Iterable[Check]:
    found, expected = evidence.operations, evidence.expected
    most = evidence.allowed.max_moves
    wanted = ", ".join(f"{'|'.join(e.types)} {e.from_site}->{e.to_site}" for e in expected) or "none"
    seen = ", ".join(f"{o.type} {o.from_site}->{o.to_site}" for o in found) or "none"
    match = len(found) == len(expected) and all(
        o.type in e.types and o.from_site == e.from_site and o.to_site == e.to_site
        for o, e in zip(found, expected, strict=True)
    )
    if most is None:
        yield Check("operations as expected", match, f"expected {wanted}; recorded {seen}")
    else:
        yield Check("operations as expected", len(found) <= most, f"expected {most} at most; recorded {seen}")
    last = 0
    for operation in found:
        name = f"{operation.type} {operation.from_site}->{operation.to_site}"
        rises = operation.epoch_to > operation.epoch_from >= last
        last = operation.epoch_to
        yield Check(f"epoch rises in {name}", rises, f"{operation.epoch_from} -> {operation.epoch_to}")
        yield Check(f"commit of {name}", bool(operation.git_commit), operation.git_commit or "no commit with its epoch")
        yield Check(
            f"phases of {name}",
            bool(operation.phases_ms),
            ", ".join(f"{key} {value:.0f} ms" for key, value in operation.phases_ms.items()) or "none recorded",
        )

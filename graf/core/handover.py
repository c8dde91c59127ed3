"""Handing a group over from its active site, event by event: planned, or loudly when its data component is lost.

Values in, values out: every function takes the state and one event and returns the new state with what the caller has
to do (`Effect`), as in `graf.core.participant`. Time limits are the caller's: a limit that is over is an event too.

    Idle -ordered-> Quiescing -quiesced-> Proving -all rules silent-> Releasing -released-> Idle
                        any of the first two -a failure-> RollingBack -rolled_back-> Idle
    Idle -data_lost-> Shutting -all rules silent-> Releasing -released-> Idle

Until the release everything can be rolled back; after it nothing is asked back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from graf.api.values import Reason
from graf.core.handover_effects import (
    Abandon,
    AwaitProof,
    CannotServe,
    Effect,
    Ended,
    FenceSelf,
    ForgetData,
    OpenTraffic,
    Prepare,
    Quiesce,
    RecordRefusal,
    RecordRelease,
    Report,
    RollBack,
    SendRelease,
    ShutTraffic,
    StandDown,
    WatchSuccessor,
)
from graf.core.handover_rules import (
    ORDER_RULES,
    RELEASE_RULES,
    WAIT,
    Ask,
    Attempt,
    Handover,
    Order,
    OrderRule,
    Phase,
    ReleaseRule,
)
from graf.core.messages import Release

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graf.core.view import GroupConfig, SiteView

Step = tuple[Handover, tuple[Effect, ...]]

REMEMBERED = 16

# -- events ------------------------------------------------------------------------------------------------------------
# `lease_epoch` is that of the lease which the site holds when the event arrives, 0 for none.


def ordered(
    state: Handover, order: Order, view: SiteView, now_ns: int, wall_ms: int, rules: tuple[OrderRule, ...] = ORDER_RULES
) -> Step:
    """The manager asks for a planned move: it begins, or is refused with every reason.

    Asked twice it is done once: a late answer to the first time would count as a proof for the second.
    """
    current = state.attempt
    if current is not None and current.order is not None and current.order.operation == order.operation:
        return state, (Report(order.operation, "Running", _step(state), "is under way"),)
    for report in state.ended:
        if report.operation == order.operation:
            return state, (report,)
    ask = Ask(order, state, view, now_ns, wall_ms)
    for _name, rule in rules:
        if refusals := rule(ask):
            message = "; ".join(str(reason) for reason in refusals)
            return state, (
                Report(order.operation, "Refused", "Precheck", message),
                RecordRefusal(order.type, refusals),
            )
    epoch = view.lease.epoch if view.lease is not None else 0
    number = state.count + 1
    attempt = Attempt(number, epoch, order.target, now_ns, order)
    return replace(state, phase=Phase.QUIESCING, attempt=attempt, count=number), (
        Report(order.operation, "Running", "Quiesce", f"{view.site} stops accepting writes"),
        Quiesce(number, epoch),
    )


def data_lost(state: Handover, successor: str, reasons: tuple[Reason, ...], lease_epoch: int, since_ns: int) -> Step:
    """The data component is lost here; the successor, or anybody if it is empty, can take over at once.

    What is being rolled back gives way: it waits for the component that is lost.
    """
    if state.under_way or not lease_epoch:
        return state, ()
    effects: tuple[Effect, ...] = (ForgetData(), ShutTraffic(state.count + 1))
    if not successor:
        # Noted now: where the gate is not proved to be shut there is no release, and still others shall go first.
        effects = (CannotServe("; ".join(reason.detail for reason in reasons)), *effects)
    if state.attempt is not None and state.attempt.order is not None:
        message = f"{_why(state.attempt)}; and the data component was lost meanwhile"
        report = Report(state.attempt.order.operation, "Failed", "RollBack", message)
        state, effects = _ended(state, report), (Abandon(), report, *effects)
    # Whether it has everything was asked before this was decided: nothing was acknowledged without it.
    attempt = Attempt(state.count + 1, lease_epoch, successor, since_ns, reasons=reasons, proved=True)
    return replace(state, phase=Phase.SHUTTING, attempt=attempt, count=attempt.number), effects


def quiesced(state: Handover, number: int, positions: Mapping[str, str]) -> Step:
    """All data components are at rest, at these positions."""
    attempt = _attempt(state, number, Phase.QUIESCING)
    if attempt is None or attempt.order is None:
        return state, ()
    return replace(state, phase=Phase.PROVING), (
        Prepare(number, attempt.successor, attempt.epoch, attempt.order.operation, positions),
    )


def quiesce_failed(state: Handover, config: GroupConfig, number: int, why: str, lease_epoch: int) -> Step:
    """A data component did not come to rest."""
    attempt = _attempt(state, number, Phase.QUIESCING)
    if attempt is None:
        return state, ()
    return _not_released(state, config, attempt, Reason("QuiesceFailed", why), lease_epoch)


def asked(state: Handover, number: int) -> Step:
    """The successor has been asked. The gate is shut while it proves its position: writes have ended already."""
    if _attempt(state, number, Phase.PROVING) is None:
        return state, ()
    return state, (ShutTraffic(number), AwaitProof(number))


def unreachable(state: Handover, config: GroupConfig, number: int, lease_epoch: int) -> Step:
    """The successor could not be asked."""
    attempt = _attempt(state, number, Phase.PROVING)
    if attempt is None:
        return state, ()
    why = Reason("PeerUnreachable", f"the link to {attempt.successor} is down")
    return _not_released(state, config, attempt, why, lease_epoch)


def answered(
    state: Handover,
    config: GroupConfig,
    operation: str,
    epoch: int,
    ready: bool,
    why: str,
    lease_epoch: int,
    now_ns: int,
    rules: tuple[ReleaseRule, ...] = RELEASE_RULES,
) -> Step:
    """The successor says whether it has everything. Only its first word to the running operation counts."""
    attempt = state.attempt
    if attempt is None or attempt.order is None or state.phase is not Phase.PROVING or attempt.proved is not None:
        return state, ()
    if (operation, epoch) != (attempt.order.operation, attempt.epoch):
        return state, ()
    failure = None if ready else Reason("SuccessorNotReady", f"{attempt.successor} cannot take over: {why}")
    return _judge(state, config, replace(attempt, proved=ready, failure=failure), lease_epoch, now_ns, rules)


def proof_timed_out(
    state: Handover,
    config: GroupConfig,
    number: int,
    lease_epoch: int,
    now_ns: int,
    rules: tuple[ReleaseRule, ...] = RELEASE_RULES,
) -> Step:
    """The successor's time is over."""
    attempt = _attempt(state, number, Phase.PROVING)
    if attempt is None or attempt.proved is not None:
        return state, ()
    failure = Reason("NotProvedInTime", f"{attempt.successor} did not prove its position in time")
    return _judge(state, config, replace(attempt, proved=False, failure=failure), lease_epoch, now_ns, rules)


def gate_told(
    state: Handover,
    config: GroupConfig,
    number: int,
    is_shut: bool,
    lease_epoch: int,
    now_ns: int,
    rules: tuple[ReleaseRule, ...] = RELEASE_RULES,
) -> Step:
    """Every driver of the traffic stage has proved that it is shut, or one of them has not."""
    attempt = _attempt(state, number, Phase.PROVING, Phase.SHUTTING)
    if attempt is None:
        return state, ()
    return _judge(state, config, replace(attempt, gate_shut=is_shut), lease_epoch, now_ns, rules)


def lease_lost(state: Handover, config: GroupConfig) -> Step:
    """The site fences itself: whatever was planned is off. What is being released goes on: it was given up before."""
    attempt = state.attempt
    if attempt is None or state.phase is Phase.RELEASING:
        return state, ()
    if attempt.order is None:
        return _ended(state), (Abandon(),)
    why = f"{_why(attempt)}; and " if attempt.failure is not None else ""
    message = f"{why}{config.site} lost its lease and fenced itself"
    report = Report(attempt.order.operation, "Failed", _step(state), message)
    return _ended(state, report), (Abandon(), report)


def released(state: Handover, config: GroupConfig, number: int) -> Step:
    """The own voter has the release on its disk, and the others are told."""
    attempt = _attempt(state, number, Phase.RELEASING)
    if attempt is None:
        return state, ()
    if attempt.order is None:
        return _ended(state), (RecordRelease(attempt.epoch, attempt.successor, attempt.reasons), Ended())
    operation = attempt.order.operation
    report = Report(operation, "Running", "Released", f"{config.site} released epoch {attempt.epoch}")
    return _ended(state, report), (
        report,
        WatchSuccessor(operation, attempt.successor, attempt.epoch),
        Ended(),
    )


def release_failed(state: Handover, config: GroupConfig, number: int, why: str) -> Step:
    """The release could not be told: the voters learn of it when the lease ends. It is not tried again."""
    attempt = _attempt(state, number, Phase.RELEASING)
    if attempt is None:
        return state, ()
    reason = Reason("ReleaseFailed", f"{config.site} could not release epoch {attempt.epoch}: {why}")
    kind = attempt.order.type if attempt.order is not None else "Release"
    effects: tuple[Effect, ...] = (RecordRefusal(kind, (reason,)), Ended())
    if attempt.order is None:
        return _ended(state), effects
    report = Report(attempt.order.operation, "Failed", "Released", reason.detail)
    return _ended(state, report), (report, *effects)


def rolled_back(state: Handover, config: GroupConfig, number: int, problems: tuple[str, ...], lease_epoch: int) -> Step:
    """The data components accept again, but for those that are named: clients may come back."""
    attempt = _attempt(state, number, Phase.ROLLING_BACK)
    if attempt is None or attempt.order is None or attempt.failure is None:
        return state, ()
    if lease_epoch != attempt.epoch:
        return _not_released(state, config, attempt, attempt.failure, lease_epoch)
    message = "; ".join((_why(attempt), f"{config.site} stays active in epoch {attempt.epoch}", *problems))
    reasons = (Reason("RolledBack", _why(attempt)), Reason(attempt.failure.code))
    report = Report(attempt.order.operation, "RolledBack", "RollBack", message)
    return _ended(state, report), (
        OpenTraffic(attempt.epoch),
        report,
        RecordRefusal(attempt.order.type, reasons),
        Ended(),
    )


def nobody_took_over(watch: WatchSuccessor, waited: str) -> tuple[Effect, ...]:
    """The successor reports success itself; that nobody took over in time is told from here."""
    message = f"{watch.target} did not take over within {waited}; look at graf status"
    return (Report(watch.operation, "Failed", "TakeOver", message),)


# -- inside ------------------------------------------------------------------------------------------------------------


def _attempt(state: Handover, number: int, *phases: Phase) -> Attempt | None:
    """The attempt that an event is about; None for a late event, which changes nothing."""
    attempt = state.attempt
    if attempt is None or attempt.number != number or state.phase not in phases:
        return None
    return attempt


def _judge(
    state: Handover,
    config: GroupConfig,
    attempt: Attempt,
    lease_epoch: int,
    now_ns: int,
    rules: tuple[ReleaseRule, ...],
) -> Step:
    state = replace(state, attempt=attempt)
    for _name, rule in rules:
        reason = rule(attempt, lease_epoch)
        if reason is WAIT:
            return state, ()
        if reason is not None:
            return _not_released(state, config, attempt, reason, lease_epoch)
    order = attempt.order
    cause = order.type if order is not None else attempt.reasons[0].code
    operation = order.operation if order is not None else ""
    detect_ms = (now_ns - attempt.began_ns) / 1e6
    release = Release(config.group, attempt.epoch, attempt.successor, cause, detect_ms, operation)
    return replace(state, phase=Phase.RELEASING), (StandDown(), SendRelease(attempt.number, release))


def _not_released(state: Handover, config: GroupConfig, attempt: Attempt, reason: Reason, lease_epoch: int) -> Step:
    order = attempt.order
    lost = lease_epoch != attempt.epoch
    if order is None:
        # The data is lost, there is no way back: the lease is left to end by itself, in the kernel and at the voters.
        waits = Reason(reason.code, f"{reason.detail}; waiting for the lease")
        return _ended(state), ((Ended(),) if lost else (FenceSelf((waits,)), Ended()))
    if lost:
        message = f"{reason.detail}; and {config.site} lost its lease meanwhile"
        report = Report(order.operation, "Failed", "RollBack", message)
        return _ended(state, report), (report, Ended())
    state = replace(state, phase=Phase.ROLLING_BACK, attempt=replace(attempt, failure=reason))
    return state, (RollBack(attempt.number, attempt.epoch),)


def _ended(state: Handover, *reports: Report) -> Handover:
    return Handover(count=state.count, ended=(*state.ended, *reports)[-REMEMBERED:])


def _why(attempt: Attempt) -> str:
    return attempt.failure.detail if attempt.failure is not None else ""


def _step(state: Handover) -> str:
    return "RollBack" if state.phase is Phase.ROLLING_BACK else "Quiesce"

"""Judge: what the workloads that were seen mean for the component. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graf_driver_sdk.types import Health, Role

from graf_driver_workload.evidence import is_full, remembered
from graf_driver_workload.objects import Workload
from graf_driver_workload.parameters import Fencing, Mode, Parameters


@dataclass(frozen=True, slots=True)
class Verdict:
    """The component's role and health as observed."""

    role: Role
    health: Health
    accepting: bool
    message: str


def keeps(parameters: Parameters, role: Role) -> int | None:
    """How many pods of each workload may run in a role; None: all of its own."""
    if is_full(parameters.mode, role):
        return None
    if role is Role.STANDBY:
        return parameters.standby_replicas
    if parameters.mode is Mode.HOT and parameters.fencing is Fencing.GATE:
        return None
    return 0


def needed(parameters: Parameters, replicas: int) -> int:
    """How many pods must be ready."""
    return math.ceil(replicas * parameters.min_ready_percent / 100)


def is_down_to(workload: Workload, count: int) -> bool:
    """Observed: no more than `count` pods are left, terminating ones included, and none is to come."""
    return workload.replicas <= count and workload.settled and workload.pods.live <= count


def is_up(parameters: Parameters, workload: Workload) -> bool:
    """Observed by the workload's own probes."""
    pods = workload.pods
    return workload.replicas > 0 and workload.settled and pods.ready >= needed(parameters, workload.replicas)


def objection(parameters: Parameters, workload: Workload) -> str:
    """Why the driver must not take this workload, whatever the role; empty when it may."""
    if workload.held:
        return f"{workload.title} is {deleting(workload)}; nobody scales it any more. Make it anew when it is gone"
    if (hpa := workload.autoscaler) is not None:
        if hpa.keda:
            return f"KEDA scales {workload.title} ({hpa.name}) from and to zero by itself; remove the ScaledObject"
        if hpa.low == 0:
            return f"autoscaler {hpa.name} has minReplicas 0, so it would start {workload.title} at a standby; set 1"
        if parameters.standby_replicas > 0:
            return (
                f"autoscaler {hpa.name} would scale {workload.title} to at least {hpa.low} at a standby: "
                f"use standbyReplicas 0, where an autoscaler rests"
            )
    if workload.reconciler:
        return (
            f"{workload.reconciler} owns spec.replicas of {workload.title} and would scale it back; "
            f"leave replicas out of the manifest in Git"
        )
    return ""


def count_known(parameters: Parameters, workload: Workload) -> int | None:
    """How many replicas the workload has when it is scaled out; None: nobody has said so."""
    known = remembered(
        parameters.mode, parameters.standby_replicas, workload.evidence, workload.replicas, workload.declared
    )
    return workload.fallback if known is None else known


def judge(parameters: Parameters, workloads: Sequence[Workload], recorded: Role | None = None) -> Verdict:
    """The verdict on workloads of which at least one is there.

    Args:
        parameters: of the component.
        workloads: as they were seen.
        recorded: the role of the driver's record, where it makes the objects itself; None elsewhere.
    """
    roles = {workload.evidence.role for workload in workloads} | ({recorded} if recorded is not None else set())
    ready = sum(workload.pods.ready for workload in workloads)
    live = sum(workload.pods.live for workload in workloads)
    if len(roles) > 1:
        listed = ", ".join(sorted(role.name for role in roles))
        new = [workload.title for workload in workloads if workload.evidence.role is Role.UNSPECIFIED]
        told = f" ({', '.join(new)} without a role yet: it is given one with the next role)" if new else ""
        return Verdict(Role.UNSPECIFIED, Health.INITIALISING, ready > 0, f"changing its role: {listed}{told}")
    (role,) = roles
    if role is Role.UNSPECIFIED:
        return _without_role(parameters, live, ready)
    allowed = keeps(parameters, role)
    if allowed is None:
        return _running(parameters, role, workloads)
    late = [workload for workload in workloads if not is_down_to(workload, allowed)]
    if late:
        said = "; ".join(remaining(one) for one in late)
        return Verdict(Role.UNSPECIFIED, Health.INITIALISING, ready > 0, f"{role.name} allows {allowed}: {said}")
    if allowed > 0:
        return _running(parameters, role, workloads)
    return Verdict(role, Health.HEALTHY, False, "no pod is left")


def _without_role(parameters: Parameters, live: int, ready: int) -> Verdict:
    if live == 0:
        return Verdict(Role.FENCED, Health.INITIALISING, False, "no role has been given yet; no pod runs")
    serving = ready > 0 and parameters.mode is not Mode.HOT
    return Verdict(Role.UNSPECIFIED, Health.INITIALISING, serving, f"no role has been given yet; {live} pods run")


def _running(parameters: Parameters, role: Role, workloads: Sequence[Workload]) -> Verdict:
    ready = sum(workload.pods.ready for workload in workloads)
    accepting = role is Role.ACTIVE and ready > 0
    short = [workload for workload in workloads if not is_up(parameters, workload)]
    if not short:
        return Verdict(role, Health.HEALTHY, accepting, f"{ready} pods are ready")
    said = "; ".join(describe(parameters, workload) for workload in short)
    if all(workload.replicas == 0 and workload.pods.live == 0 for workload in workloads):
        return Verdict(role, Health.DEAD, False, f"scaled to zero by somebody else: {said}")
    broken = any(workload.pods.troubles or workload.replicas == 0 for workload in short)
    return Verdict(role, Health.UNHEALTHY if broken else Health.INITIALISING, accepting, said)


def remaining(workload: Workload) -> str:
    """The pods that are left of it, and what keeps them."""
    pods = workload.pods
    held = f" (it is {deleting(workload)}: delete its pods by hand)" if workload.held else ""
    return f"{workload.title}: {pods.live} pods are left, {pods.terminating} of them terminating{held}"


def deleting(workload: Workload) -> str:
    """What is so with a workload that somebody deletes: its controller scales it neither in nor out."""
    return f"being deleted, which waits for {workload.held}"


def describe(parameters: Parameters, workload: Workload) -> str:
    """A workload in one line."""
    pods = workload.pods
    text = f"{workload.title}: {pods.ready} of {workload.replicas} ready"
    if workload.held:
        text += f", {deleting(workload)}"
    if pods.terminating:
        text += f", {pods.terminating} terminating"
    if not workload.settled:
        text += ", its controller has not caught up"
    return text + (f" ({'; '.join(pods.troubles[:3])})" if pods.troubles else "")

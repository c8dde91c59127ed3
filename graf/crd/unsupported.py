"""What the models can say and this release does not do: refused with a reason, never ignored. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.crd.base import Problem
from graf.crd.group import RedundancyGroup
from graf.crd.operation import RedundancyOperation
from graf.crd.policy import RedundancyPolicy
from graf.crd.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graf.crd.base import Resource


def _problem(field: str, value: object, fix: str) -> Problem:
    return Problem(field, f"{value} is not yet supported", fix)


def _site(site: Site) -> Iterator[Problem]:
    if site.spec.maintenance:
        yield _problem("spec.maintenance", "true", "leave it out; move groups away with a RedundancyOperation")
    if site.spec.drain:
        yield _problem("spec.drain", "true", "leave it out; move groups away with a RedundancyOperation")
    if site.spec.gitops_agent != "BuiltIn":
        yield _problem("spec.gitopsAgent", site.spec.gitops_agent, "use BuiltIn: the GRAF controller applies")


def _policy(policy: RedundancyPolicy) -> Iterator[Problem]:
    failover, failback = policy.spec.failover, policy.spec.failback
    if failover.timeout_seconds is not None:
        yield _problem("spec.failover.timeoutSeconds", "a time-out", "leave it out: the group holds until it is safe")
    if failover.on_timeout != "Abort":
        yield _problem("spec.failover.onTimeout", failover.on_timeout, "use Abort: nothing is forced")
    if failover.rate_limit is not None:
        yield _problem("spec.failover.rateLimit", "a rate limit", "leave it out")
    if failback.maintenance_windows:
        yield _problem(
            "spec.failback.maintenanceWindows",
            "a maintenance window",
            "leave it out, or use failback.mode: Manual and ask for the failback in the window",
        )
    if failback.max_concurrent is not None:
        yield _problem("spec.failback.maxConcurrent", "a concurrency limit", "leave it out")
    if failback.traffic_steps:
        yield _problem("spec.failback.trafficSteps", "traffic in steps", "leave it out: it moves at once")
    if policy.spec.divergence.handling != "ArchiveAndRebuild":
        yield _problem("spec.divergence.handling", policy.spec.divergence.handling, "use ArchiveAndRebuild")


def _group(group: RedundancyGroup) -> Iterator[Problem]:
    if group.spec.peers:
        yield _problem("spec.peers", "re-homing of outside peers", "leave it out")
    for index, component in enumerate(group.spec.components):
        if component.stage == "peers":
            yield _problem(f"spec.components[{index}].stage", "the stage peers", "use data, workload or traffic")


def _operation(operation: RedundancyOperation) -> Iterator[Problem]:
    if operation.spec.type in ("Failover", "Drill"):
        yield _problem(
            "spec.type",
            operation.spec.type,
            "use Switchover or Failback; an unplanned failover is the sites' own decision",
        )


def unsupported(resource: Resource) -> list[Problem]:
    """Every field of the object that asks for what this release does not do."""
    match resource:
        case Site():
            return list(_site(resource))
        case RedundancyPolicy():
            return list(_policy(resource))
        case RedundancyGroup():
            return list(_group(resource))
        case RedundancyOperation():
            return list(_operation(resource))
        case _:
            return []

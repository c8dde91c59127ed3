"""The workload driver behind the SDK: what the contract asks, in the backend's words, and what it observed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.driver import Driver
from graf_driver_sdk.errors import DriverError, InvalidParametersError
from graf_driver_sdk.types import (
    EnsureRole,
    FieldProblem,
    Health,
    Info,
    Peer,
    Progress,
    Readiness,
    Role,
    Spec,
    Status,
)

from graf_driver_workload.api import ApiUnreachableError, ForbiddenError, KubeApi
from graf_driver_workload.backend import Backend, NotFoundError, Observation
from graf_driver_workload.judge import Verdict, count_known, describe, judge, objection
from graf_driver_workload.manifests import ManifestError, check_overrides
from graf_driver_workload.parameters import Mode, Parameters, parse

_NAMES: Final = {Role.ACTIVE: "runs", Role.STANDBY: "is a standby"}


class WorkloadDriver(Driver):
    """Gives workloads of this cluster their role. Keeps nothing in memory: what is known is written on the objects."""

    def __init__(self) -> None:
        """Connects to nothing yet."""
        super().__init__()
        self._api: KubeApi | None = None

    def info(self) -> Info:
        """Constant. No capability: a workload holds no data, has no position, and its gate is the network driver's."""
        return Info("workload.graf.dev", version("graf-driver-workload"))

    async def start(self) -> None:
        """Finds the way to the API server, which need not answer yet."""
        self._api = KubeApi()

    async def probe(self) -> Readiness:
        """Ready when the API server answers."""
        try:
            await run_blocking(self._ready_api.get, "/version")
        except DriverError as error:
            return Readiness(False, str(error))
        return Readiness(True)

    async def validate(self, spec: Spec, peers: Sequence[Peer]) -> Sequence[FieldProblem]:
        """The parameters themselves; then, when the API server answers, whether they fit what is there."""
        parameters, problems = parse(spec.parameters)
        if parameters is None:
            return problems
        return await run_blocking(_problems, self._backend(spec, parameters), parameters)

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Scales, applies, removes; see the backend.

        Raises:
            DriverError: among others that the API server does not answer: then nothing is known.
        """
        backend = self._backend(request.spec, _parsed(request.spec))
        return await run_blocking(backend.ensure, request.role, request.epoch)

    async def status(self, spec: Spec) -> Status:
        """Asks the API server now."""
        parameters = _parsed(spec)
        try:
            seen = await run_blocking(self._backend(spec, parameters).observe)
        except NotFoundError as error:
            return Status(Role.UNSPECIFIED, Health.UNHEALTHY, promotable_reason=str(error), message=str(error))
        except DriverError as error:
            return Status.unknown(str(error))
        verdict = _verdict(parameters, seen)
        obstacle = _obstacle(parameters, seen)
        return Status(
            role=verdict.role,
            health=verdict.health,
            accepting=verdict.accepting,
            promotable=not obstacle,
            promotable_reason=obstacle,
            message=verdict.message,
            facts=_facts(parameters, seen),
        )

    def _backend(self, spec: Spec, parameters: Parameters) -> Backend:
        return Backend(self._ready_api, spec.key, parameters)

    @property
    def _ready_api(self) -> KubeApi:
        if self._api is None:
            raise DriverError("the driver has not been started", reason="not-started")
        return self._api


def _parsed(spec: Spec) -> Parameters:
    parameters, problems = parse(spec.parameters)
    if parameters is None:
        raise InvalidParametersError(problems, f"parameters of {spec.key}")
    return parameters


def _problems(backend: Backend, parameters: Parameters) -> list[FieldProblem]:
    where = "manifests" if parameters.manifests else "kustomization" if parameters.kustomization else "targets"
    try:
        if parameters.applies:
            backend.rendered()
            check_overrides(parameters)
        seen = backend.observe()
    except (ApiUnreachableError, ForbiddenError) as error:
        return [FieldProblem("", str(error), "let the driver reach the API server with its permissions")]
    except ManifestError as error:
        return [FieldProblem(where, str(error), "correct the manifests or the overrides")]
    except DriverError as error:
        return [FieldProblem(where, str(error), "see the cause")]
    found = []
    for workload in seen.workloads:
        if cause := objection(parameters, workload):
            found.append(FieldProblem(where, cause, "see the cause"))
        if count_known(parameters, workload) is None:
            found.append(
                FieldProblem(
                    where,
                    f"nobody has said how many replicas {workload.title} is to have when it is active",
                    "targets[].replicas, or the annotation workload.graf.dev/replicas on the object",
                )
            )
    return found


def _verdict(parameters: Parameters, seen: Observation) -> Verdict:
    kept = seen.record
    if not parameters.applies:
        return judge(parameters, seen.workloads)
    if kept is None:
        return Verdict(Role.FENCED, Health.INITIALISING, False, "no role has been given yet; nothing was applied")
    if seen.left:
        return Verdict(
            Role.UNSPECIFIED, Health.INITIALISING, False, f"{seen.left} pods of objects that are deleted are left"
        )
    if seen.workloads:
        return judge(parameters, seen.workloads, kept.role)
    if kept.role is Role.ACTIVE or (kept.role is Role.STANDBY and parameters.mode is not Mode.COLD):
        return Verdict(Role.UNSPECIFIED, Health.DEAD, False, "its objects are not there: deleted, or not applied yet")
    return Verdict(kept.role, Health.HEALTHY, False, "nothing of it runs here")


def _obstacle(parameters: Parameters, seen: Observation) -> str:
    """Why it could not be made active; empty when it could."""
    for workload in seen.workloads:
        if cause := objection(parameters, workload):
            return cause
        if count_known(parameters, workload) is None:
            return f"nobody has said how many replicas {workload.title} is to have"
    return ""


def _facts(parameters: Parameters, seen: Observation) -> dict[str, str]:
    facts = {"mode": parameters.mode.value, "workloads": str(len(seen.workloads))}
    pods = [workload.pods for workload in seen.workloads]
    facts["pods"] = str(sum(one.live for one in pods) + seen.left)
    facts["pods_ready"] = str(sum(one.ready for one in pods))
    facts["pods_terminating"] = str(sum(one.terminating for one in pods))
    for workload in seen.workloads:
        count = count_known(parameters, workload)
        facts[workload.title] = (
            f"{describe(parameters, workload)}; when active {'unknown' if count is None else count}; "
            f"epoch {workload.evidence.epoch}"
        )
        if workload.autoscaler is not None:
            facts[f"{workload.title} autoscaler"] = workload.autoscaler.name
    if seen.record is not None:
        facts["applied"] = str(len(seen.record.entries))
        facts["applied_digest"] = seen.record.digest
        facts["record_epoch"] = str(seen.record.epoch)
    return facts

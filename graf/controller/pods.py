"""What the Pod of a driver tells about it: ready, or the reason why not. Pure, from the facts that kubelet writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from graf.controller.rendering import CLASS_LABEL, REVISION

if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ErrImageNeverPull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
START_REASONS = frozenset({"CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun"})
COMMAND_WORDS = ("executable file not found", "no such file or directory", "permission denied", "exec format error")
# Exit status of a shell whose command cannot be run, or is not there (POSIX 2.8.2).
COMMAND_CODES = frozenset({126, 127})
LONGEST_MESSAGE = 400
CRASHES = 2

IMAGE_MISSING, COMMAND_MISSING, CRASH_LOOP = "ImageMissing", "CommandMissing", "CrashLoop"
# A revision with one of these cannot become ready by waiting.
HOPELESS = frozenset(
    {IMAGE_MISSING, COMMAND_MISSING, CRASH_LOOP, "ConfigurationMissing", "NotStarted", "Unschedulable"}
)
# A quota that lags behind a Pod that just ended refuses the next one for a moment, and what is said of the ReplicaSet
# before is said of its Deployment until that one is scaled down: only one that stays cannot be waited for.
POD_REFUSED = "PodRefused"


@dataclass(frozen=True, slots=True)
class PodFacts:
    """The driver's newest Pod.

    Attributes:
        revision: of the template it was made from; empty without a Pod.
        ready: whether kubelet calls it ready.
        reason: why not, in CamelCase; empty when ready.
        message: the reason for people.
    """

    revision: str = ""
    ready: bool = False
    reason: str = "NoPod"
    message: str = "no Pod of it has been made yet"


def facts(pods: Iterable[dict[str, Any]], now_s: float) -> dict[str, PodFacts]:
    """Driver class -> facts of its newest Pod that is not being deleted, or of one that is; else it is left out.

    `now_s` is by the wall clock, as what the API server writes.
    """
    newest: dict[str, dict[str, Any]] = {}
    ending: dict[str, PodFacts] = {}
    for pod in sorted(pods, key=lambda item: str(item["metadata"].get("creationTimestamp", ""))):
        name = pod["metadata"].get("labels", {}).get(CLASS_LABEL)
        if name and "deletionTimestamp" in pod["metadata"]:
            ending[name] = _ending(pod, now_s)
        elif name:
            newest[name] = pod
    return ending | {name: facts_of(pod) for name, pod in newest.items()}


def _ending(pod: dict[str, Any], now_s: float) -> PodFacts:
    """Two Pods of a driver never run side by side, so the next one is made when this one has gone."""
    metadata = pod["metadata"]
    node = pod.get("spec", {}).get("nodeName", "")
    where = f" at node {node}" if node else ""
    who, until = f"Pod {metadata.get('name', '')}{where}", str(metadata["deletionTimestamp"])
    if now_s < datetime.fromisoformat(until).timestamp():
        # The time that it is given lies ahead: so it is in every upgrade.
        return PodFacts(reason="Stopping", message=f"{who} has until {until} to end")
    return PodFacts(reason="Ending", message=f"{who} was to end at {until} and is still there")


def facts_without_pod(deployment: dict[str, Any]) -> PodFacts:
    """Why there is no Pod: what the API server said when one was to be made, such as a quota or Pod security."""
    status = deployment.get("status", {})
    if int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 0)):
        return PodFacts()  # said of the template before
    for condition in status.get("conditions", []):
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            revision = deployment["metadata"].get("annotations", {}).get(REVISION, "")
            return PodFacts(revision, False, POD_REFUSED, str(condition.get("message", ""))[:LONGEST_MESSAGE])
    return PodFacts()


def facts_of(pod: dict[str, Any]) -> PodFacts:
    """Facts of one Pod."""
    revision = pod["metadata"].get("annotations", {}).get(REVISION, "")
    status = pod.get("status", {})
    conditions = {item["type"]: item for item in status.get("conditions", [])}
    if conditions.get("Ready", {}).get("status") == "True":
        return PodFacts(revision, ready=True, reason="", message="")
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        if found := _trouble(container):
            return PodFacts(revision, False, found[0], f"container {container['name']}: {found[1]}"[:LONGEST_MESSAGE])
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return PodFacts(revision, False, "Unschedulable", str(scheduled.get("message", ""))[:LONGEST_MESSAGE])
    if status.get("phase") == "Failed":
        message = f"{status.get('reason', '')} {status.get('message', '')}".strip()
        return PodFacts(revision, False, "PodFailed", message[:LONGEST_MESSAGE])
    name = pod["metadata"].get("name", "NAME")
    message = f"Pod {name} is not ready yet; if it stays so: kubectl -n graf-system describe pod {name}"
    return PodFacts(revision, False, "Starting", message)


def _trouble(container: dict[str, Any]) -> tuple[str, str] | None:
    state = container.get("state", {})
    waiting = state.get("waiting", {})
    reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
    image = container.get("image", "")
    if reason in IMAGE_REASONS:
        return IMAGE_MISSING, f"the image {image} cannot be had ({reason}): {message or 'no details'}"
    if reason == "CreateContainerConfigError":
        return "ConfigurationMissing", message or "a Secret or ConfigMap that the template names is missing"
    ended = state.get("terminated") or container.get("lastState", {}).get("terminated") or {}
    if reason in START_REASONS:
        return _not_started(reason, message)
    if ended and (reason == "CrashLoopBackOff" or "terminated" in state):
        return _crashed(container, ended)
    return None


def _not_started(reason: str, message: str) -> tuple[str, str]:
    if any(word in message for word in COMMAND_WORDS):
        return COMMAND_MISSING, f"its command cannot be run ({reason}): {message}"
    return "NotStarted", f"{reason}: {message or 'no details'}"


def _crashed(container: dict[str, Any], ended: dict[str, Any]) -> tuple[str, str]:
    why, code = str(ended.get("reason", "")), ended.get("exitCode", 0)
    said = str(ended.get("message", "")).strip()
    if why in START_REASONS and any(word in said for word in COMMAND_WORDS):
        return COMMAND_MISSING, f"its command cannot be run ({why}): {said}"
    if code in COMMAND_CODES:
        return COMMAND_MISSING, f"its command cannot be run (exit status {code}): {said or 'it said nothing'}"
    count = container.get("restartCount", 0)
    last = f"; it said last: {said[-LONGEST_MESSAGE // 2 :]}" if said else "; it said nothing"
    # One crash may have a reason outside, such as the end of the driver before; kubelet starts it again.
    reason = CRASH_LOOP if count >= CRASHES else "Restarting"
    return reason, f"it ended with status {code} ({why or 'no reason'}) and was restarted {count} times{last}"

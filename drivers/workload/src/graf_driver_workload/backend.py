"""Backend: roles made of scales and objects. Blocking; each call begins or continues, and keeps nothing in memory.

Order is what makes it safe against a crash at any line:

- scaling in: what the count was, the role and the epoch go onto the object *first*; a crash after that loses nothing;
- scaling out: the count and the epoch first, then the scale, and the role *last*: while it is not written, the object
  still counts as scaled in, so the count is not read off a half-way state.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from graf_driver_sdk.errors import DriverError, PreconditionError, StaleEpochError
from graf_driver_sdk.types import ComponentKey, Progress, Role

from graf_driver_workload import apply as objects_of_ours
from graf_driver_workload import names, record
from graf_driver_workload.api import ConflictError, ForbiddenError, KubeApi, NoSuchKindError, Object
from graf_driver_workload.evidence import Evidence, is_full
from graf_driver_workload.judge import count_known, describe, is_down_to, is_up, keeps, remaining
from graf_driver_workload.manifests import Manifests, manifests
from graf_driver_workload.objects import NoScaleError, Objects, Workload
from graf_driver_workload.parameters import Mode, Parameters, Target
from graf_driver_workload.record import CONFIG_MAP, Entry, Record

_T = TypeVar("_T")
_SOON_MS = 100
_LATER_MS = 300


class NotFoundError(PreconditionError):
    """A workload is not there, so nothing can be observed of it."""

    reason = "not-found"


class ReplicasUnknownError(PreconditionError):
    """Nobody has said how many replicas there are to be."""

    reason = "replicas-unknown"


class ClaimedError(PreconditionError):
    """Another component has the workload."""

    reason = "claimed"


@dataclass(frozen=True, slots=True)
class Observation:
    """What is there: `record` only where the driver makes the objects; `left` are pods of objects that are gone."""

    workloads: tuple[Workload, ...]
    record: Record | None = None
    left: int = 0


class Backend:
    """One component at one site, for one call."""

    def __init__(self, api: KubeApi, key: ComponentKey, parameters: Parameters) -> None:
        self._api = api
        self._key = key
        self._parameters = parameters
        self._namespace = parameters.namespace

    def observe(self) -> Observation:
        """What is there now; changes nothing.

        Raises:
            NotFoundError: a target is not there.
        """
        objects = Objects(self._api, self._namespace)
        if not self._parameters.applies:
            return Observation(self._targets(objects))
        kept = record.load(self._api, self._namespace, self._key)
        return self._observe_recorded(objects, kept)

    def rendered(self) -> Manifests:
        """What the component would apply here."""
        return manifests(self._api, self._key, self._parameters)

    def ensure(self, role: Role, epoch: int) -> Progress:
        """Begins or continues giving the role."""
        try:
            trouble: list[DriverError] = []
            self._marked(role, epoch, trouble)
            if self._parameters.applies:
                progress = self._ensure_recorded(role, epoch)
            else:
                objects = Objects(self._api, self._namespace)
                # What is there ends also when something else is not there, or is none that could be scaled.
                found = self._targets(objects, None if role is Role.ACTIVE else trouble)
                progress = self._bring(found, role, epoch)
        except ConflictError as error:
            return Progress.pending(f"changed by somebody else meanwhile, looking again: {error}", _SOON_MS)
        if trouble:
            raise trouble[0]
        return progress

    def _marked(self, role: Role, epoch: int, trouble: list[DriverError]) -> None:
        """Tells the application; `trouble` is why not, where a role that serves nothing is brought about all the same.

        Raises:
            DriverError: ACTIVE is not begun; of any role when the marker proves another owner or a newer epoch.
        """
        try:
            self._mark(role, epoch)
        except (ClaimedError, StaleEpochError):
            raise
        except DriverError as error:
            if role is Role.ACTIVE:
                raise
            trouble.append(error)

    # Workloads that are there.

    def _targets(self, objects: Objects, trouble: list[DriverError] | None = None) -> tuple[Workload, ...]:
        """All of them; with `trouble`, those that can be had, and there why others cannot.

        Raises:
            NotFoundError, NoScaleError, NoSuchKindError, ForbiddenError: the first, without `trouble`.
        """
        parameters, found = self._parameters, {}
        for target in parameters.targets:
            if (workload := _had(trouble, partial(self._target, objects, target))) is not None:
                found[target.kind, target.name] = workload
        if parameters.selector is not None:
            # A workload that has lost its label is still ours: it must not go on running when we are fenced.
            selectors = parameters.selector, f"{names.COMPONENT}={names.component_label(self._key)}"
            for kind, selector in itertools.product(parameters.selector_kinds, selectors):
                for target, item in _had(trouble, partial(objects.selected, kind, selector)) or ():
                    if (target.kind, target.name) in found:
                        continue
                    if (workload := _had(trouble, partial(objects.workload, target, item))) is not None:
                        found[target.kind, target.name] = workload
            if not found and not trouble:
                kinds = ", ".join(kind.kind for kind in parameters.selector_kinds)
                raise NotFoundError(
                    f"selector {parameters.selector!r} matches none of {kinds} in namespace {self._namespace}; "
                    f"label them, or correct it"
                )
        return tuple(found.values())

    def _target(self, objects: Objects, target: Target) -> Workload:
        workload = objects.workload(target)
        if workload is None:
            raise NotFoundError(
                f"{target.kind.kind}/{target.name} is not in namespace {self._namespace}, so its pods cannot be "
                f"told; create it (with replicas 0 at a standby), or correct the target"
            )
        return workload

    def _check(self, workloads: Sequence[Workload], epoch: int) -> None:
        for workload in workloads:
            self._check_claim(workload.title, workload.evidence.owner, workload.evidence.epoch, epoch)

    def _check_claim(self, title: str, owner: str, seen: int, epoch: int) -> None:
        if owner and owner != str(self._key):
            raise ClaimedError(
                f"{title} in {self._namespace} belongs to {owner}, not to {self._key}: two components must not have "
                f"one workload. Correct the targets, or remove the annotation {names.OWNER} when the other one is gone"
            )
        if seen > epoch:
            raise StaleEpochError(
                f"epoch {epoch} of {self._key} is refused: {title} has been touched in epoch {seen}, which this driver "
                f"has no record of (was its state directory lost?). Read the group's status and decide anew",
                asked=epoch,
                highest=seen,
            )

    def _bring(self, workloads: Sequence[Workload], role: Role, epoch: int) -> Progress:
        self._check(workloads, epoch)
        counts = [self._wanted(workload, role) for workload in workloads]
        changed = False
        for workload, count in zip(workloads, counts, strict=True):
            changed |= self._step(workload, role, epoch, count)
        if changed:
            objects = Objects(self._api, self._namespace)
            again = [objects.workload(_target(workload)) for workload in workloads]
            workloads = [workload for workload in again if workload is not None]
            if len(workloads) != len(again):
                return Progress.pending("a workload was deleted meanwhile, looking again", _SOON_MS)
        return self._outcome(workloads, role)

    def _wanted(self, workload: Workload, role: Role) -> int:
        """The `spec.replicas` of a role."""
        parameters, now = self._parameters, workload.replicas
        known, kept = count_known(parameters, workload), keeps(parameters, role)
        if kept is not None:
            return kept if known is None else min(kept, known)
        if not is_full(parameters.mode, role):
            return now  # hot, fenced by the gate alone
        if known is None:
            raise ReplicasUnknownError(
                f"{workload.title} has no pods and nobody has said how many it is to have; give targets[].replicas, or "
                f"annotate it: {names.REPLICAS}=N"
            )
        low = 0 if workload.autoscaler is None else workload.autoscaler.low
        if is_full(parameters.mode, workload.evidence.role) and now > 0:
            # It has the role already: whoever scales it (people, an autoscaler) is left alone.
            return now if workload.declared is None or workload.autoscaler is not None else known
        return max(known, low)

    def _step(self, workload: Workload, role: Role, epoch: int, count: int) -> bool:
        known = count_known(self._parameters, workload)
        final = Evidence(str(self._key), role, epoch, known)
        before = replace(final, role=workload.evidence.role) if count > workload.replicas else final
        version = self._write(workload, before, workload.version)
        if count == workload.replicas:
            return version != workload.version
        path = workload.resource.path(self._namespace, workload.name, "scale")
        scaled = self._api.merge(path, {"metadata": {"resourceVersion": version}, "spec": {"replicas": count}})
        if scaled is None:
            raise ConflictError(f"{workload.title} was deleted")
        if before != final:
            self._write(replace(workload, evidence=before), final, scaled["metadata"]["resourceVersion"])
        return True

    def _write(self, workload: Workload, evidence: Evidence, version: str) -> str:
        label = names.component_label(self._key)
        if evidence == workload.evidence and workload.labels.get(names.COMPONENT) == label:
            return version
        metadata = {
            "annotations": evidence.annotations(),
            "labels": {names.COMPONENT: label},
            "resourceVersion": version,
        }
        path = workload.resource.path(self._namespace, workload.name)
        written = self._api.merge(path, {"metadata": metadata})
        if written is None:
            raise ConflictError(f"{workload.title} was deleted")
        return str(written["metadata"]["resourceVersion"])

    def _outcome(self, workloads: Sequence[Workload], role: Role) -> Progress:
        parameters = self._parameters
        kept = keeps(parameters, role)
        if kept is not None:
            late = [workload for workload in workloads if not is_down_to(workload, kept)]
            if not late:
                return Progress.done(f"{role.name}: no more than {kept} pods are left of each workload")
            said = "; ".join(remaining(one) for one in late)
            return Progress.pending(f"waiting for pods to end: {said}", _LATER_MS)
        if role is not Role.ACTIVE:
            return Progress.done(f"{role.name}: it goes on running")
        late = [workload for workload in workloads if not is_up(parameters, workload)]
        if not workloads:
            return Progress.pending("its objects were deleted meanwhile, looking again", _SOON_MS)
        if late:
            return Progress.pending("; ".join(describe(parameters, workload) for workload in late), _LATER_MS)
        return Progress.done(f"{sum(workload.pods.ready for workload in workloads)} pods are ready")

    # Objects that the driver makes.

    def _observe_recorded(self, objects: Objects, kept: Record | None) -> Observation:
        if kept is None:
            return Observation(())
        workloads, left = [], 0
        for entry in kept.entries:
            if entry.replicas is None:
                continue
            workload = objects.workload(entry.target)
            if workload is not None and workload.applied:
                workloads.append(workload)
            elif workload is None and entry.selector:
                left += objects.pods(entry.selector).live
        return Observation(tuple(workloads), kept, left)

    def _ensure_recorded(self, role: Role, epoch: int) -> Progress:
        kept = record.load(self._api, self._namespace, self._key)
        if kept is not None:
            self._check_claim(f"the record {names.record_name(self._key)}", kept.owner, kept.epoch, epoch)
        if role is Role.ACTIVE or (role is Role.STANDBY and self._parameters.mode is not Mode.COLD):
            kept = self._applied(kept, role, epoch)
        kept = self._stored(kept, Record(str(self._key), role, epoch, kept.digest if kept else "", _entries(kept)))
        seen = self._observe_recorded(Objects(self._api, self._namespace), kept)
        kept = self._stored(kept, replace(kept, entries=_with_selectors(kept.entries, seen.workloads)))
        progress = self._bring(seen.workloads, role, epoch)
        if seen.left:
            return Progress.pending(f"{seen.left} pods of deleted objects are left", _LATER_MS)
        if not progress.completed or role is Role.ACTIVE or self._parameters.mode is not Mode.COLD:
            return progress
        if left := objects_of_ours.remove(self._api, self._key, self._namespace, kept.entries):
            return Progress.pending(f"waiting for objects to go: {', '.join(left)}", _LATER_MS)
        if pods := self._observe_recorded(Objects(self._api, self._namespace), kept).left:
            return Progress.pending(f"{pods} pods of deleted objects are left", _LATER_MS)
        self._stored(kept, replace(kept, digest="", entries=()))
        return Progress.done(f"{role.name}: nothing of it is left")

    def _applied(self, kept: Record | None, role: Role, epoch: int) -> Record:
        """Applies what is new, removes what has gone out of the manifests."""
        wanted = self.rendered()
        entries = tuple(Entry(item.kind, item.name, item.replicas) for item in wanted.items)
        begun = Record(str(self._key), role, epoch, "", record.union(entries, _entries(kept)))
        done = replace(begun, digest=wanted.digest)
        if kept == done and self._all_there(done.entries):
            return done
        self._stored(kept, begun)
        for item in wanted.items:
            objects_of_ours.apply(self._api, self._key, self._namespace, item, force=self._parameters.force_conflicts)
        names_wanted = {entry.identity for entry in entries}
        gone = tuple(entry for entry in begun.entries if entry.identity not in names_wanted)
        if gone and objects_of_ours.remove(self._api, self._key, self._namespace, gone):
            return begun
        done = replace(done, entries=tuple(entry for entry in done.entries if entry.identity in names_wanted))
        return self._stored(begun, done)

    def _all_there(self, entries: Sequence[Entry]) -> bool:
        return all(
            self._api.get(self._api.resource(entry.kind).path(self._namespace, entry.name)) is not None
            for entry in entries
        )

    def _stored(self, old: Record | None, new: Record) -> Record:
        if old != new:
            record.store(self._api, self._namespace, self._key, new)
        return new

    def _mark(self, role: Role, epoch: int) -> None:
        """Tells the application its role, where it wants to be told by a ConfigMap."""
        name = self._parameters.marker
        if name is None:
            return
        path = self._api.resource(CONFIG_MAP).path(self._namespace, name)
        data = {"role": role.name, "epoch": str(epoch), "site": self._key.site, "group": self._key.group}
        live = self._api.get(path)
        if live is not None:
            old: Object = live.get("data") or {}
            seen, owner = old.get("epoch", ""), (live["metadata"].get("annotations") or {}).get(names.OWNER, "")
            if not owner and _is_foreign(old, data):
                raise objects_of_ours.NotOursError(
                    f"ConfigMap/{name} is in {self._namespace} already and has somebody else's content; give "
                    f"markerConfigMap a name of its own, or remove that one"
                )
            # Without an owner it has what this driver writes and no more: somebody has replaced it by a copy.
            self._check_claim(f"ConfigMap/{name}", owner, int(seen) if seen.isdigit() else 0, epoch)
            if owner and all(old.get(field) == value for field, value in data.items()):
                return
        metadata = {"name": name, "namespace": self._namespace, "annotations": {names.OWNER: str(self._key)}}
        self._api.apply(path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}, force=True)


def _had(trouble: list[DriverError] | None, ask: Callable[[], _T]) -> _T | None:
    """What was asked for; None when that one cannot be had, and `trouble` is to say why."""
    try:
        return ask()
    except (NotFoundError, NoScaleError, NoSuchKindError, ForbiddenError) as error:
        if trouble is None:
            raise
        trouble.append(error)
        return None


def _is_foreign(old: Object, data: Mapping[str, str]) -> bool:
    """Whether a marker's content is not what this component writes there, whichever its role and epoch."""
    return bool(set(old) - set(data)) or any(old.get(field, data[field]) != data[field] for field in ("site", "group"))


def _entries(kept: Record | None) -> tuple[Entry, ...]:
    return () if kept is None else kept.entries


def _target(workload: Workload) -> Target:
    return Target(workload.resource.kind, workload.name, workload.declared, workload.selector, workload.fallback)


def _with_selectors(entries: Sequence[Entry], workloads: Sequence[Workload]) -> tuple[Entry, ...]:
    known = {(workload.resource.kind, workload.name): workload.selector for workload in workloads}
    return tuple(replace(entry, selector=known.get(entry.identity, entry.selector)) for entry in entries)

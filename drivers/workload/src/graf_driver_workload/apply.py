"""Apply: makes and removes the objects that are the driver's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from graf_driver_sdk.errors import PreconditionError
from graf_driver_sdk.types import ComponentKey

from graf_driver_workload import names
from graf_driver_workload.api import ConflictError, KubeApi, Object
from graf_driver_workload.manifests import Manifest
from graf_driver_workload.record import Entry

# What holds data outlives its workload. A person removes it.
KEPT: Final = ("PersistentVolumeClaim",)


class NotOursError(PreconditionError):
    """An object is in the way that this component has not made."""

    reason = "not-ours"


class FieldConflictError(PreconditionError):
    """Others own fields that the manifests set."""

    reason = "field-conflict"


def apply(api: KubeApi, key: ComponentKey, namespace: str, manifest: Manifest, *, force: bool) -> None:
    """Applies one object without changing how many replicas run: a new one starts with none.

    Raises:
        NotOursError: the object is there and was not made by this component.
        FieldConflictError: who owns which field.
        ConflictError: it was changed meanwhile; call again.
    """
    path = api.resource(manifest.kind).path(namespace, manifest.name)
    live = api.get(path)
    if live is not None and not is_ours(key, live) and not force:
        raise NotOursError(
            f"{manifest.kind.kind}/{manifest.name} is in {namespace} already and this component has not made it; "
            f"remove it, take it out of the manifests, or set forceConflicts to take it over"
        )
    try:
        api.apply(path, _body(manifest, live), force=force)
    except ConflictError as error:
        if not error.fields:
            raise
        raise FieldConflictError(
            f"{manifest.kind.kind}/{manifest.name} cannot be applied, others own: {'; '.join(error.fields)}. Take "
            f"these fields out of the manifests or overrides, or set forceConflicts to take them over"
        ) from error


def _body(manifest: Manifest, live: Object | None) -> Object:
    body: Object = dict(manifest.body)
    if live is not None:
        # Nobody may have scaled it between the look and the write.
        body["metadata"] = {**body["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}
    if manifest.replicas is not None:
        # Never left out: a field that its last owner drops goes back to the default, and that is one replica.
        count = 0 if live is None else int(live.get("spec", {}).get("replicas", 0))
        body["spec"] = {**(body.get("spec") or {}), "replicas": count}
    return body


def is_ours(key: ComponentKey, live: Object) -> bool:
    """Whether this component has made the object."""
    labels = live["metadata"].get("labels") or {}
    return names.APPLIED in labels and labels.get(names.COMPONENT) == names.component_label(key)


def remove(api: KubeApi, key: ComponentKey, namespace: str, entries: Iterable[Entry]) -> list[str]:
    """Deletes what is ours, the last first.

    Returns:
        What is still there: call again.
    """
    left = []
    for entry in reversed(tuple(entries)):
        if entry.kind.kind in KEPT:
            continue
        path = api.resource(entry.kind).path(namespace, entry.name)
        live = api.get(path)
        if live is None or not is_ours(key, live):
            continue
        if not live["metadata"].get("deletionTimestamp"):
            api.delete(path, live["metadata"]["uid"])
            live = api.get(path)
        if live is not None:
            left.append(f"{entry.kind.kind}/{entry.name}")
    return left

"""Record: a ConfigMap beside the objects that the driver makes, so that a restarted driver removes what it has applied.

It is written before anything is applied. So the list may hold what was never made, and never lacks what was.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from graf_driver_sdk.errors import DriverError
from graf_driver_sdk.types import ComponentKey, Role

from graf_driver_workload import names
from graf_driver_workload.api import KubeApi
from graf_driver_workload.parameters import Kind, Target

CONFIG_MAP: Final = Kind("v1", "ConfigMap")
_FIELD: Final = "record.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """An object that the driver has made, or was about to.

    Attributes:
        replicas: how many its manifest gives it; None: it has no scale.
        selector: of its pods, once known.
    """

    kind: Kind
    name: str
    replicas: int | None = None
    selector: str = ""

    @property
    def target(self) -> Target:
        """As a target."""
        return Target(self.kind, self.name, fallback=self.replicas)

    @property
    def identity(self) -> tuple[Kind, str]:
        """What it is called."""
        return self.kind, self.name


@dataclass(frozen=True, slots=True)
class Record:
    """What was applied, for which role and epoch; `digest` is empty until all of it was."""

    owner: str
    role: Role
    epoch: int
    digest: str = ""
    entries: tuple[Entry, ...] = ()


def load(api: KubeApi, namespace: str, key: ComponentKey) -> Record | None:
    """The record; None when there is none.

    Raises:
        DriverError: it cannot be trusted; never taken for "nothing was applied".
    """
    path = api.resource(CONFIG_MAP).path(namespace, names.record_name(key))
    found = api.get(path)
    if found is None:
        return None
    try:
        values = json.loads((found.get("data") or {})[_FIELD])
        entries = tuple(
            Entry(Kind(e["apiVersion"], e["kind"]), e["name"], e["replicas"], e["selector"]) for e in values["entries"]
        )
        return Record(values["owner"], Role[values["role"]], int(values["epoch"]), values["digest"], entries)
    except (KeyError, TypeError, ValueError) as error:
        raise DriverError(
            f"the record {namespace}/{names.record_name(key)} cannot be read ({error!r}), so what was applied is not "
            f"known. Remove what the component has there (label {names.COMPONENT}={names.component_label(key)}), then "
            f"the ConfigMap",
            reason="record",
        ) from error


def store(api: KubeApi, namespace: str, key: ComponentKey, record: Record) -> None:
    """Writes the record."""
    name = names.record_name(key)
    values: dict[str, Any] = {
        "owner": record.owner,
        "role": record.role.name,
        "epoch": record.epoch,
        "digest": record.digest,
        "entries": [
            {
                "apiVersion": entry.kind.api_version,
                "kind": entry.kind.kind,
                "name": entry.name,
                "replicas": entry.replicas,
                "selector": entry.selector,
            }
            for entry in record.entries
        ],
    }
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {names.COMPONENT: names.component_label(key)},
            "annotations": {names.OWNER: record.owner},
        },
        "data": {_FIELD: json.dumps(values, sort_keys=True)},
    }
    api.apply(api.resource(CONFIG_MAP).path(namespace, name), body, force=True)


def union(first: Iterable[Entry], then: Iterable[Entry]) -> tuple[Entry, ...]:
    """All of `first`, and what only `then` has; a selector that either knows is kept."""
    found = {entry.identity: entry for entry in then}
    known = {identity: entry.selector for identity, entry in found.items()}
    merged = {
        entry.identity: Entry(entry.kind, entry.name, entry.replicas, entry.selector or known.get(entry.identity, ""))
        for entry in first
    }
    return tuple((found | merged)[identity] for identity in [*merged, *(i for i in found if i not in merged)])

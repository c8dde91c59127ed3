"""Mode ``volsync``: the component's own objects, written and removed under its epoch. Blocking: for threads only.

Invariants: an object is written or removed only when it is this component's and of no higher epoch, and as it was read.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Final

from graf_driver_sdk.errors import PreconditionError, StaleEpochError

from graf_driver_pv import volsync_objects as objects
from graf_driver_pv.volsync_cluster import CLAIM, Cluster, ConflictError, Kind
from graf_driver_pv.volsync_parameters import VolSync

_TRIES: Final = 4


class Waits(Exception):  # noqa: N818 - no error: the call goes on when it is made again
    """Something was begun and is not there yet."""


class Owned:
    """Objects of one component, `GROUP/COMPONENT`."""

    def __init__(self, component: str, parameters: VolSync, cluster: Cluster) -> None:
        self.component = component
        self.parameters = parameters
        self._cluster = cluster

    def get(self, kind: Kind, name: str = "") -> dict[str, Any] | None:
        """The object; of VolSync's kinds there is one name."""
        return self._cluster.get(kind, name or self.parameters.name)

    def claim(self) -> dict[str, Any] | None:
        """The PVC.

        Raises:
            Waits: it is being deleted.
        """
        found = self.get(CLAIM, self.parameters.source)
        if objects.is_ending(found):
            raise Waits(_ends(CLAIM, self.parameters.source))
        return found

    def has(self, found: Mapping[str, Any] | None) -> bool:
        """Whether an object is this component's."""
        return found is not None and objects.annotation(found, objects.COMPONENT) == self.component

    def pause(self, kind: Kind, epoch: int) -> dict[str, Any] | None:
        """Nothing is copied from now on; the object as it is then. What is not there copies nothing."""
        return self._write(kind, epoch, None)

    def run(self, kind: Kind, epoch: int, spec: dict[str, Any]) -> dict[str, Any]:
        """The whole spec; the object as it is then."""
        written = self._write(kind, epoch, spec)
        assert written is not None
        return written

    def create(self, kind: Kind, body: dict[str, Any], marks: Mapping[str, str]) -> dict[str, Any]:
        """Makes an object of another kind than VolSync's, as this component's."""
        body["metadata"]["annotations"] = {objects.COMPONENT: self.component, **marks}
        return self._cluster.create(kind, body)

    def adopt(self, kind: Kind, found: Mapping[str, Any]) -> None:
        """Writes down whose it is."""
        self._mark(kind, found, {objects.COMPONENT: self.component})

    def remove(self, kind: Kind, name: str = "") -> None:
        """Returns when it is gone.

        Raises:
            Waits: it is not yet.
        """
        name = name or self.parameters.name
        found = self.get(kind, name)
        if found is None:
            return
        self._is_mine(kind, found)
        if not objects.is_ending(found):
            self._cluster.delete(kind, found)
            if self.get(kind, name) is None:
                return
        raise Waits(_ends(kind, name))

    def _write(self, kind: Kind, epoch: int, spec: dict[str, Any] | None) -> dict[str, Any] | None:
        """None pauses what is there and makes nothing."""
        for tried in range(_TRIES):
            found = self.get(kind)
            if found is None and spec is None:
                return None
            try:
                if found is None:
                    body = objects.new_object(kind, self.parameters, self.parameters.name) | {"spec": spec}
                    return self.create(kind, body, {objects.EPOCH: str(epoch)})
                self.may_write(kind, found, epoch)
                if spec is not None and objects.is_ending(found):
                    raise Waits(_ends(kind, self.parameters.name))
                body = {**found, "spec": spec if spec is not None else {**found.get("spec", {}), "paused": True}}
                return self._mark(kind, body, {objects.EPOCH: str(epoch)}, found)
            except ConflictError:
                if tried == _TRIES - 1:
                    raise
        return None

    def _mark(
        self, kind: Kind, body: Mapping[str, Any], marks: Mapping[str, str], found: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        marked = copy.deepcopy(dict(body))
        marked["metadata"]["annotations"] = {**(marked["metadata"].get("annotations") or {}), **marks}
        return marked if marked == (body if found is None else found) else self._cluster.replace(kind, marked)

    def may_write(self, kind: Kind, found: Mapping[str, Any], epoch: int) -> None:
        """Returns when it is this component's and of no higher epoch.

        Raises:
            PreconditionError: it is not.
        """
        self._is_mine(kind, found)
        there = objects.epoch_of(found)
        if there > epoch:
            what = f"{kind.name} {self.parameters.name}"
            raise StaleEpochError(f"{what} is of epoch {there}, {epoch} is refused", asked=epoch, highest=there)

    def _is_mine(self, kind: Kind, found: Mapping[str, Any]) -> None:
        if self.has(found):
            return
        whose = objects.annotation(found, objects.COMPONENT) or "somebody who is no GRAF driver"
        raise PreconditionError(
            f"{kind.name} {found['metadata']['name']} belongs to {whose}; give {self.component} a name of its own, or "
            f"annotate the object with {objects.COMPONENT}={self.component}",
            reason="not-mine",
        )


def _ends(kind: Kind, name: str) -> str:
    return f"{kind.name} {name} is being deleted{'; a Pod still uses it?' if kind is CLAIM else ''}"

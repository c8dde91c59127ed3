"""The driver dies after every request that changes something; the next one goes on."""

from __future__ import annotations

from typing import Any

import pytest
from graf_driver_sdk.types import Role
from graf_driver_workload.api import KubeApi, Object
from graf_driver_workload.backend import Backend
from graf_driver_workload.parameters import parse
from workload_cluster import wait_for
from workload_site import Site, deployment


class Died(BaseException):
    """As a kill: nothing of the driver's own runs after it."""


class Mortal:
    """The API, by way of a process that dies right after its nth change."""

    def __init__(self, api: KubeApi, at: int) -> None:
        self._api, self._left = api, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)

    def merge(self, path: str, body: Object) -> Object | None:
        return self._die(self._api.merge(path, body))

    def apply(self, path: str, body: Object, *, force: bool = False) -> Object | None:
        return self._die(self._api.apply(path, body, force=force))

    def delete(self, path: str, uid: str) -> None:
        self._api.delete(path, uid)
        self._die(None)

    def _die(self, answer: Object | None) -> Object | None:
        self._left -= 1
        if self._left == 0:
            raise Died
        return answer


def brought(site: Site, role: Role, epoch: int, api: Any = None) -> None:
    wait_for(role.name, lambda: backend(site, api or site.cluster.api).ensure(role, epoch).completed)


def backend(site: Site, api: Any) -> Backend:
    parameters, problems = parse(site.spec.parameters)
    assert parameters is not None, problems
    return Backend(api, site.spec.key, parameters)


def dies_everywhere(site: Site, role: Role, epoch: int, back: Role) -> int:
    """From `back` to `role`, with one death after each change in turn; gives how many changes there are."""
    for at in range(1, 30):
        mortal = Mortal(site.cluster.api, at)
        try:
            brought(site, role, epoch, mortal)
            return at - 1
        except Died:
            brought(site, role, epoch)
        assert_whole(site, role)
        brought(site, back, epoch)
        assert_whole(site, back)
    raise AssertionError("it never ends")


def assert_whole(site: Site, role: Role) -> None:
    assert len(site.pods()) == (2 if role is Role.ACTIVE else 0)


@pytest.mark.parametrize(("role", "back"), [(Role.FENCED, Role.ACTIVE), (Role.ACTIVE, Role.STANDBY)])
async def test_a_warm_workload_keeps_its_count_over_a_death_at_any_change(site: Site, role: Role, back: Role) -> None:
    site.parameters = {"mode": "warm", "targets": [{"kind": "Deployment", "name": "app"}]}
    site.create(deployment("app", 2))
    brought(site, Role.ACTIVE, 1)
    brought(site, back, 1)
    # Scaling in: evidence, scale. Scaling out: scale, role.
    assert dies_everywhere(site, role, 1, back) == 2
    brought(site, Role.ACTIVE, 2)
    assert site.replicas("app") == 2


async def test_a_cold_component_is_whole_or_gone_after_a_death_at_any_change(site: Site) -> None:
    site.parameters = {"mode": "cold", "manifests": deployment("app", 2)}
    brought(site, Role.STANDBY, 1)
    # At least: record, object, record, selector in the record, evidence, scale, role.
    assert dies_everywhere(site, Role.ACTIVE, 1, Role.STANDBY) >= 7
    # At least: record, evidence, scale, deletion, record.
    assert dies_everywhere(site, Role.STANDBY, 1, Role.ACTIVE) >= 5
    assert site.get("app") is None

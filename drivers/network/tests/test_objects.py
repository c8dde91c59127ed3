"""Modes metallb and cilium against a real kube-apiserver with the real custom resource definitions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
from graf_driver_network.object_bodies import COMPONENT, EPOCH, body_of, contains
from graf_driver_network.parameters import parse
from graf_driver_network.parameters_objects import Objects
from graf_driver_network.testing import SERVICE, World, wait_until
from graf_driver_network.testing_api import WHERE, Api, MissingDefinitionsError, api_server, definitions, parameters
from graf_driver_network.testing_site import Speaker, speaker
from graf_driver_sdk.types import Health, Role

from graf.lab.binaries import located


@pytest.fixture(scope="module")
def api(whole_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    try:
        crds = definitions()
    except MissingDefinitionsError as error:
        pytest.skip(str(error))
    with api_server(whole_world, "east", tmp_path_factory.mktemp("apiserver"), located(), crds) as found:
        yield found


@pytest.mark.parametrize("mode", ["metallb", "cilium"])
def test_the_body_has_the_epoch_and_what_was_asked_for(mode: str) -> None:
    own: dict[str, Any] = {"name": "vcu-db", "communities": ["65010:1:2", "65010:100"], "localPreference": "epoch"}
    own |= {"addressPools": ["graf"]} if mode == "metallb" else {"serviceSelector": {"app": "db"}}
    found, problems = parse({"mode": mode, "serviceAddress": "198.19.255.1/32", mode: own})
    assert problems == []
    assert found is not None
    assert found.service_address == IPv4Address(SERVICE)
    assert isinstance(found.announcement, Objects)
    body = body_of(mode, found.announcement, "vcu-db/route", 7)
    assert body["metadata"]["annotations"] == {EPOCH: "7", COMPONENT: "vcu-db/route"}
    if mode == "metallb":
        assert body["spec"] == {
            "ipAddressPools": ["graf"],
            "communities": ["large:65010:1:2", "65010:100"],
            "localPref": 7,
        }
    else:
        assert body["spec"]["advertisements"][0]["attributes"] == {
            "communities": {"standard": ["65010:100"], "large": ["65010:1:2"]},
            "localPreference": 7,
        }
    assert contains({**body, "status": {}}, body)
    assert not contains({**body, "spec": {}}, body)


@pytest.mark.root
@pytest.mark.parametrize("mode", ["metallb", "cilium"])
def test_the_object_is_there_for_the_active_site_alone(world: World, api: Api, mode: str) -> None:
    with speaker(world, "east", parameters(api, mode, localPreference="epoch")) as east:
        east.ensured(Role.STANDBY, 6)
        assert api.get(*WHERE[mode]) == {}
        assert "is there for epoch 7" in east.ensured(Role.ACTIVE, 7)
        assert api.get(*WHERE[mode])["metadata"]["annotations"][EPOCH] == "7"
        status = east.status()
        assert (status.role, status.health, status.accepting) == (Role.ACTIVE, Health.HEALTHY, True), status
        assert east.renew(7, 60_000)
        east.ensured(Role.ACTIVE, 8)
        assert api.get(*WHERE[mode])["metadata"]["annotations"][EPOCH] == "8"
        assert "there is no" in east.ensured(Role.FENCED, 9)
        assert api.get(*WHERE[mode]) == {}
        status = east.status()
        assert (status.role, status.health, status.accepting) == (Role.FENCED, Health.HEALTHY, False), status


@pytest.mark.root
def test_an_address_of_a_link_is_announced_by_metallb_as_well(world: World, api: Api) -> None:
    with speaker(world, "east", parameters(api, "metallb", kind="l2")) as east:
        east.ensured(Role.ACTIVE, 7)
        where = ("l2advertisement", "vcu-db", "-n", "metallb-system")
        assert api.get(*where)["spec"]["ipAddressPools"] == ["graf"]
        east.ensured(Role.STANDBY, 8)
        assert api.get(*where) == {}


@pytest.mark.root
def test_what_is_somebody_elses_or_of_a_higher_epoch_is_left_alone(world: World, api: Api) -> None:
    theirs = {
        "apiVersion": "metallb.io/v1beta1",
        "kind": "BGPAdvertisement",
        "metadata": {"name": "vcu-db", "namespace": "metallb-system"},
        "spec": {"ipAddressPools": ["theirs"]},
    }
    api.kubectl("apply", "-f", "-", stdin=json.dumps(theirs))
    with speaker(world, "east", parameters(api, "metallb")) as east:
        assert "belongs to somebody who is no GRAF driver" in east.ensure(Role.ACTIVE, 7).message
        assert "somebody else's and stays" in east.ensured(Role.FENCED, 8)
        assert api.get(*WHERE["metallb"])["spec"]["ipAddressPools"] == ["theirs"]
        api.kubectl("delete", *WHERE["metallb"])
        east.ensured(Role.ACTIVE, 9)
        api.kubectl("annotate", *WHERE["metallb"], "--overwrite", f"{EPOCH}=12")
        assert "is of epoch 12" in east.ensure(Role.ACTIVE, 10).message
        east.ensured(Role.FENCED, 13)


@pytest.mark.root
def test_what_a_person_changed_is_told_and_written_again(world: World, api: Api) -> None:
    with speaker(world, "east", parameters(api, "cilium")) as east:
        east.ensured(Role.ACTIVE, 7)
        patch = '{"spec": {"advertisements": [{"advertisementType": "PodCIDR"}]}}'
        api.kubectl("patch", *WHERE["cilium"], "--type=merge", "-p", patch)
        wait_until("it is told", lambda: "not as this component wrote it" in east.status().message, 20)
        east.ensured(Role.ACTIVE, 7)
        assert api.get(*WHERE["cilium"])["spec"]["advertisements"][0]["advertisementType"] == "Service"
        east.ensured(Role.FENCED, 8)


@pytest.mark.root
def test_without_the_api_server_the_gate_shuts_but_only_gate_fencing_completes(world: World, api: Api) -> None:
    by_objects, by_gate = parameters(api, "metallb"), parameters(api, "metallb", fencing="gate")
    with speaker(world, "east", by_objects) as east:
        east.ensured(Role.ACTIVE, 7)
        api.stop()
        try:
            progress = east.ensure(Role.FENCED, 8)
            assert not progress.completed
            assert "does not answer" in progress.message
            assert not world.gate("east").read(SERVICE).open
            wait_until("it is told", lambda: "is not known" in east.status().message, 20)
            with_gate = Speaker(world, "east", by_gate)
            assert with_gate.ensure(Role.FENCED, 8).completed
            with_gate.close()
        finally:
            api.start()
        east.ensured(Role.FENCED, 8)
        assert api.get(*WHERE["metallb"]) == {}


@pytest.mark.root
def test_a_missing_permission_is_told_with_what_to_do(world: World, api: Api) -> None:
    powerless = parameters(api, "cilium", kubeconfig=str(api.work / "powerless"))
    with speaker(world, "east", powerless) as east:
        progress = east.ensure(Role.ACTIVE, 7)
        assert not progress.completed
        assert "lacks the permission" in progress.message
    with speaker(world, "east", parameters(api, "cilium", kubeconfig="/no/such/file")) as east:
        assert "no way to the API server" in east.ensure(Role.ACTIVE, 8).message

"""Modes metallb and cilium against a real kube-apiserver with the real custom resource definitions."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
import yaml
from graf_driver_network.object_bodies import COMPONENT, EPOCH, body_of, contains
from graf_driver_network.parameters import parse
from graf_driver_network.parameters_objects import Objects
from graf_driver_network.testing import SERVICE, World, wait_until
from graf_driver_network.testing_site import Speaker, speaker
from graf_driver_sdk.testing_kubernetes import apiserver_command, etcd_command
from graf_driver_sdk.types import Health, Role

from graf.lab.binaries import located

METALLB = ("go.universe.tf/metallb", "v0.15.2", "config/crd/bases")
CILIUM = ("github.com/cilium/cilium", "v1.18.4", "pkg/k8s/apis/cilium.io/client/crds/v2")
WANTED = ("bgpadvertisements", "l2advertisements", "servicebgpstatuses", "servicel2statuses", "ciliumbgp")
TOKEN = "only-of-this-test"
PORT, ETCD_PORT, ETCD_PEER_PORT = 6443, 2379, 2380


def definitions(module: str, version: str, folder: str) -> list[Path]:
    """The project's own files, as its published Go module has them. Downloaded once, then from Go's cache."""
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip(f"the definitions come with the Go module {module}, and Go is not installed")
    with tempfile.TemporaryDirectory() as elsewhere:
        done = subprocess.run(
            [go, "mod", "download", "-json", f"{module}@{version}"],
            cwd=elsewhere,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    if done.returncode != 0:
        pytest.skip(f"{module}@{version} cannot be downloaded: {done.stdout} {done.stderr}")
    files = sorted(Path(json.loads(done.stdout)["Dir"], folder).glob("*.yaml"))
    return [file for file in files if any(name in file.name for name in WANTED)]


@dataclass
class Api:
    """A kube-apiserver in east's namespace."""

    world: World
    work: Path
    programs: Path

    @property
    def kubeconfig(self) -> Path:
        return self.work / "kubeconfig"

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        command = [str(self.programs / "kubectl"), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(
            self.world.command("east", *command), input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--ignore-not-found", "-o", "json") or "{}")
        return found

    def start(self) -> None:
        command = apiserver_command(self.programs, self.work, ETCD_PORT, PORT)
        with (self.work / "apiserver.log").open("ab") as log:
            self.process = self.world.start("east", *command, stdout=log, stderr=log)
        wait_until("kube-apiserver is ready", self._ready, 90)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _ready(self) -> bool:
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except AssertionError:
            return False


@pytest.fixture(scope="module")
def api(whole_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    crds = [file for project in (METALLB, CILIUM) for file in definitions(*project)]
    work = tmp_path_factory.mktemp("apiserver")
    found = Api(whole_world, work, located())
    subprocess.run(
        ["openssl", "genrsa", "-traditional", "-out", str(work / "sa.key"), "2048"], capture_output=True, check=True
    )
    (work / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\nno-one,nobody,nobody\n")
    found.kubeconfig.write_text(kubeconfig(TOKEN, work))
    (work / "powerless").write_text(kubeconfig("no-one", work))
    with (work / "etcd.log").open("wb") as log:
        command = etcd_command(found.programs, work, ETCD_PORT, ETCD_PEER_PORT)
        etcd = whole_world.start("east", *command, stdout=log, stderr=log)
    found.start()
    found.kubectl("create", "namespace", "metallb-system")
    for file in crds:
        found.kubectl("apply", "--server-side", "-f", str(file))
    found.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    yield found
    found.stop()
    etcd.kill()
    etcd.wait()


def kubeconfig(token: str, work: Path) -> str:
    cluster = {
        "server": f"https://127.0.0.1:{PORT}",
        "certificate-authority": str(work / "pki" / "apiserver.crt"),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    return str(yaml.safe_dump(content))


def parameters(api: Api, mode: str, **more: Any) -> dict[str, Any]:
    own: dict[str, Any] = {"name": "vcu-db", "kubeconfig": str(api.kubeconfig), "communities": ["65010:100"]}
    if mode == "metallb":
        own |= {"addressPools": ["graf"], "peers": ["edge"]}
    else:
        own |= {"serviceSelector": {"app": "db"}, "labels": {"advertise": "bgp"}}
    own |= more
    if own.get("kind") == "l2":
        own.pop("communities")
        own.pop("peers")
    return {"mode": mode, "serviceAddress": f"{SERVICE}/32", mode: own}


WHERE = {
    "metallb": ("bgpadvertisement", "vcu-db", "-n", "metallb-system"),
    "cilium": ("ciliumbgpadvertisement", "vcu-db"),
}


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

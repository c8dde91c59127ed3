"""A real kube-apiserver at a site of the tests' world, with the own definitions of MetalLB and Cilium.

Not used by the driver itself.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graf_driver_sdk.testing_kubernetes import apiserver_command, etcd_command, kubeconfig, kubectl

from graf_driver_network.testing import SERVICE, World, wait_until

METALLB = ("go.universe.tf/metallb", "v0.15.2", "config/crd/bases")
CILIUM = ("github.com/cilium/cilium", "v1.18.4", "pkg/k8s/apis/cilium.io/client/crds/v2")
WHERE = {
    "metallb": ("bgpadvertisement", "vcu-db", "-n", "metallb-system"),
    "cilium": ("ciliumbgpadvertisement", "vcu-db"),
}
"""What kubectl is given to name the object that :func:`parameters` names."""
_WANTED = ("bgpadvertisements", "l2advertisements", "servicebgpstatuses", "servicel2statuses", "ciliumbgp")
TOKEN = "only-of-this-test"  # noqa: S105 - a test's own API server
_PORT, _ETCD_PORT, _ETCD_PEER_PORT = 6443, 2379, 2380


class MissingDefinitionsError(Exception):
    """This machine has no way to the definitions; the message says what is missing."""


def definitions() -> list[Path]:
    """Both projects' own files, as their published Go modules have them. Downloaded once, then from Go's cache.

    Raises:
        MissingDefinitionsError: there is no Go, or no way to the modules.
    """
    return [file for project in (METALLB, CILIUM) for file in _definitions(*project)]


def _definitions(module: str, version: str, folder: str) -> list[Path]:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        raise MissingDefinitionsError(f"the definitions come with the Go module {module}, and Go is not installed")
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
        raise MissingDefinitionsError(f"{module}@{version} cannot be downloaded: {done.stdout} {done.stderr}")
    files = sorted(Path(json.loads(done.stdout)["Dir"], folder).glob("*.yaml"))
    return [file for file in files if any(name in file.name for name in _WANTED)]


@dataclass
class Api:
    """A kube-apiserver in a site's namespace, on that site's own loopback."""

    world: World
    name: str
    work: Path
    programs: Path

    @property
    def kubeconfig(self) -> Path:
        """Of somebody who may do everything."""
        return self.work / "kubeconfig"

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs kubectl, which must succeed."""
        program = str(self.programs / "kubectl")
        command = self.world.command(self.name, program, "--kubeconfig", str(self.kubeconfig))
        return kubectl(command, *arguments, stdin=stdin)

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object; empty when it is not there."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "--ignore-not-found", "-o", "json") or "{}")
        return found

    def start(self) -> None:
        """Starts the server (again) and waits until it is ready."""
        command = apiserver_command(self.programs, self.work, _ETCD_PORT, _PORT)
        with (self.work / "apiserver.log").open("ab") as log:
            self.process = self.world.start(self.name, *command, stdout=log, stderr=log)
        wait_until("kube-apiserver is ready", self._ready, 90)

    def stop(self) -> None:
        """Ends the server at once; etcd keeps what it had."""
        self.process.kill()
        self.process.wait()

    def _ready(self) -> bool:
        try:
            return self.kubectl("get", "--raw", "/readyz") == "ok"
        except AssertionError:
            return False


@contextlib.contextmanager
def api_server(world: World, name: str, work: Path, programs: Path, crds: list[Path]) -> Iterator[Api]:
    """An etcd and a kube-apiserver with the definitions, ended with the context.

    Args:
        world: the namespaces.
        name: the site.
        work: an empty folder for data, keys and logs.
        programs: the folder of the binaries.
        crds: what :func:`definitions` gives.
    """
    found = Api(world, name, work, programs)
    subprocess.run(
        ["openssl", "genrsa", "-traditional", "-out", str(work / "sa.key"), "2048"], capture_output=True, check=True
    )
    (work / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\nno-one,nobody,nobody\n")
    found.kubeconfig.write_text(kubeconfig(work, _PORT, TOKEN))
    (work / "powerless").write_text(kubeconfig(work, _PORT, "no-one"))
    with (work / "etcd.log").open("wb") as log:
        command = etcd_command(programs, work, _ETCD_PORT, _ETCD_PEER_PORT)
        etcd = world.start(name, *command, stdout=log, stderr=log)
    try:
        found.start()
        try:
            found.kubectl("create", "namespace", "metallb-system")
            for file in crds:
                found.kubectl("apply", "--server-side", "-f", str(file))
            found.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
            yield found
        finally:
            found.stop()
    finally:
        etcd.kill()
        etcd.wait()


def parameters(api: Api, mode: str, **more: Any) -> dict[str, Any]:
    """A component in the mode, whose object is called ``vcu-db``; ``more`` is of the mode's own object."""
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

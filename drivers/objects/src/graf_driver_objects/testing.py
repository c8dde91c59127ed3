"""For tests: certificates, and real etcd + kube-apiserver pairs on loopback that stand for sites."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from graf_driver_sdk.client import Deadlines, DriverClient
from graf_driver_sdk.testing import running
from graf_driver_sdk.testing_kubernetes import apiserver_command, etcd_command, kubectl
from graf_driver_sdk.types import ComponentKey, EnsureRole, Peer, Progress, Role, Spec, Status

from graf_driver_objects.driver import ObjectsDriver

ACCESS = "objects-test"
NAMES = ("east", "west")
NUMBERS = itertools.count(1)
PATIENT = Deadlines(30, 30, 30, 30, 30, 30, 30, 30, 30)  # a busy machine is no failure of the driver
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "slices.test.graf.dev"},
    "spec": {
        "group": "test.graf.dev",
        "names": {"kind": "Slice", "plural": "slices", "singular": "slice"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "dnn": {"type": "string"},
                                    "sessions": {"type": "integer", "default": 100},
                                },
                            }
                        },
                    }
                },
            }
        ],
    },
}


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


def wait_until(what: str, check: Callable[[], Any], timeout_s: float = 40.0) -> Any:
    """Polls until `check` gives something true; says what it waited for when it never does."""
    ends = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < ends:
        try:
            last = check()
            if last:
                return last
        except (AssertionError, OSError, KeyError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:g} s in vain for: {what}; last seen: {last!r}")


class Authority:
    """A CA that writes directories as a Secret of certificates is mounted."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "objects test")])
        self._certificate = self._sign(self._name, self._key.public_key(), None)

    def issue(self, directory: Path, dns: str) -> Path:
        """ca.crt, tls.crt and tls.key of `dns`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns)])
        directory.mkdir(parents=True, exist_ok=True)
        encoding = serialization.Encoding.PEM
        (directory / "ca.crt").write_bytes(self._certificate.public_bytes(encoding))
        (directory / "tls.crt").write_bytes(self._sign(name, key.public_key(), dns).public_bytes(encoding))
        private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (directory / "tls.key").write_bytes(private)
        return directory

    def _sign(self, subject: x509.Name, key: Any, dns: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder(
                issuer_name=self._name,
                subject_name=subject,
                public_key=key,
                serial_number=x509.random_serial_number(),
                not_valid_before=now - datetime.timedelta(hours=1),
                not_valid_after=now + datetime.timedelta(days=1),
            )
            .add_extension(x509.BasicConstraints(ca=dns is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if dns is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
        else:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        return builder.sign(self._key, hashes.SHA256())


@dataclass(frozen=True)
class Site:
    """One API server, by kubectl."""

    name: str
    kubeconfig: Path
    program: Path
    server: subprocess.Popen[bytes] | None = None

    def away(self, seconds: float) -> None:
        """The API server answers nobody for a while: it is stopped, and goes on by itself."""
        assert self.server is not None
        self.server.send_signal(signal.SIGSTOP)
        back = threading.Timer(seconds, self.server.send_signal, (signal.SIGCONT,))
        back.daemon = True
        back.start()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Runs kubectl.

        Raises:
            AssertionError: it failed.
        """
        return kubectl([str(self.program), "--kubeconfig", str(self.kubeconfig)], *arguments, stdin=stdin)

    def put(self, *manifests: dict[str, Any]) -> None:
        """Applies manifests, as a person does."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(listed))

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any] | None:
        """The object; None when it is not there."""
        text = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        found: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return found

    def data(self, name: str, namespace: str) -> dict[str, str] | None:
        """`data` of a ConfigMap; None when it is not there."""
        found = self.get("configmap", name, namespace)
        return None if found is None else found.get("data", {})


@contextlib.contextmanager
def site(name: str, programs: Path, work: Path) -> Iterator[Site]:
    """A real etcd and kube-apiserver with RBAC and the CRD of `Slice`; ended with the context."""
    work.mkdir(parents=True, exist_ok=True)
    client, peer, secure = free_ports(3)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (work / "sa.key").write_bytes(private)
    (work / "tokens.csv").write_text(f"{ACCESS},admin,admin,system:masters\nlimited-test,limited,limited,\n")
    etcd = etcd_command(programs, work, client, peer)
    server = apiserver_command(programs, work, client, secure)
    kubeconfig = write_kubeconfig(work, secure, ACCESS)
    write_kubeconfig(work, secure, "limited-test", "limited")
    with _process(etcd, work / "etcd.log"), _process(server, work / "apiserver.log") as started:
        found = Site(name, kubeconfig, programs / "kubectl", started)
        wait_until(f"the API server of {name}", lambda: found.kubectl("get", "--raw", "/readyz") == "ok", 90)
        found.put(CRD)
        found.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "slices.test.graf.dev")
        yield found


def write_kubeconfig(work: Path, port: int, access: str, name: str = "kubeconfig") -> Path:
    """A kubeconfig with a static access text."""
    path = work / name
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "test",
                "cluster": {
                    "server": f"https://127.0.0.1:{port}",
                    "certificate-authority": str(work / "pki" / "apiserver.crt"),
                },
            }
        ],
        "users": [{"name": "test", "user": {"token": access}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(json.dumps(content))
    return path


@contextlib.contextmanager
def _process(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        started = subprocess.Popen(arguments, stdout=output, stderr=output)
        try:
            yield started
        finally:
            started.kill()
            started.wait(10)


class Pair:
    """The component at both sites; `namespace` is the same at both."""

    def __init__(self, sites: dict[str, Site], directory: Path, setenv: Callable[[str, str], None]) -> None:
        self.sites = sites
        self.east, self.west = sites["east"], sites["west"]
        self.namespace = f"upf-{next(NUMBERS)}"
        self.directory = directory
        self.authority = Authority()
        self.clients: dict[str, DriverClient] = {}
        self.parameters: dict[str, dict[str, Any]] = {}
        self._setenv = setenv
        self._stacks: dict[str, AsyncExitStack] = {}
        for name, port in zip(NAMES, free_ports(2), strict=True):
            sites[name].kubectl("create", "namespace", self.namespace)
            self.authority.issue(directory / name / "tls", f"{name}.objects.graf.dev")
            self.parameters[name] = {
                "objects": [
                    {"apiVersion": "v1", "kind": kind, "namespace": self.namespace, "labelSelector": "app=upf"}
                    for kind in ("ConfigMap", "Secret")
                ]
                + [{"apiVersion": "test.graf.dev/v1", "kind": "Slice", "namespace": self.namespace, "names": ["s1"]}],
                "endpoint": f"127.0.0.1:{port}",
                "tlsDirectory": str(directory / name / "tls"),
                "kubeconfig": str(sites[name].kubeconfig),
            }

    def spec(self, name: str) -> Spec:
        """This site's component."""
        return Spec(ComponentKey("vcu", "config", name), self.parameters[name])

    def peer(self, name: str, role: Role) -> Peer:
        """As the other site is told of it."""
        return Peer(name, role, self.parameters[name])

    def state(self, name: str) -> Path:
        """Its state directory."""
        return self.directory / name / "state"

    async def start(self, name: str) -> DriverClient:
        """Starts its driver, as a new process would be."""
        self._setenv("GRAF_OBJECTS_STATE_DIR", str(self.state(name) / "objects"))
        stack = self._stacks[name] = AsyncExitStack()
        driver = ObjectsDriver()
        driver.component(self.spec(name))  # its folder is that of the environment now
        served = running(driver, state_dir=self.state(name), deadlines=PATIENT)
        self.clients[name] = await stack.enter_async_context(served)
        return self.clients[name]

    async def stop(self, name: str) -> None:
        """Ends its driver."""
        await self._stacks.pop(name).aclose()

    async def close(self) -> None:
        """Ends what runs."""
        for name in list(self._stacks):
            await self.stop(name)

    async def role(self, name: str, role: Role, epoch: int) -> Progress:
        """Gives it a role, over as many calls as it takes."""
        other = NAMES[1 - NAMES.index(name)]
        theirs = Role.ACTIVE if role is Role.STANDBY else Role.STANDBY
        request = EnsureRole(self.spec(name), role, epoch, (self.peer(other, theirs),))
        for _ in range(200):
            progress = await self.clients[name].ensure_role(request)
            if progress.completed:
                return progress
            await asyncio.sleep(progress.retry_after_ms / 1000)
        raise AssertionError(f"{name} did not become {role.name}: {progress.message}")

    async def status(self, name: str) -> Status:
        """Its status."""
        return await self.clients[name].status(self.spec(name))

    def config(self, name: str, **data: str) -> dict[str, Any]:
        """A chosen ConfigMap."""
        metadata = {"name": name, "namespace": self.namespace, "labels": {"app": "upf"}}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    async def until(self, what: str, check: Callable[[], Any], timeout_s: float = 40.0) -> Any:
        """Polls `check` (kubectl) off the loop."""
        return await asyncio.to_thread(wait_until, what, check, timeout_s)

    async def until_status(
        self, name: str, what: str, check: Callable[[Status], Any], timeout_s: float = 40.0
    ) -> Status:
        """Polls its status."""
        ends = asyncio.get_running_loop().time() + timeout_s
        while True:
            status = await self.status(name)
            if check(status):
                return status
            assert asyncio.get_running_loop().time() < ends, f"waited in vain for: {what}; last: {status}"
            await asyncio.sleep(0.05)

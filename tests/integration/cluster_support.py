"""A real etcd and kube-apiserver on loopback, a bare Git repository, certificates, and a manager as a process."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from graf_driver_sdk.testing_kubernetes import apiserver_command, etcd_command

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "integration-test"


def wait_for(what: str, check: Callable[[], Any], timeout_s: float = 20.0) -> Any:
    """Polls until `check` gives something true; says what it waited for when it never does."""
    end = time.monotonic() + timeout_s
    last: Exception | None = None
    while time.monotonic() < end:
        try:
            if result := check():
                return result
            last = None
        except Exception as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"waited {timeout_s:.0f} s for {what}" + (f"; last error: {last!r}" if last else ""))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]
    finally:
        for item in sockets:
            item.close()


class Authority:
    """A CA that writes directories as the Secret graf-tls is mounted."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "integration")])
        self._certificate = self._sign(self._name, self._key.public_key(), None)

    def _sign(self, subject: x509.Name, key: Any, dns: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=subject,
            public_key=key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(days=1),
        ).add_extension(x509.BasicConstraints(ca=dns is None, path_length=None), critical=True)
        if dns is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, directory: Path, dns: str) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns)])
        directory.mkdir(parents=True, exist_ok=True)
        encoding = serialization.Encoding.PEM
        (directory / "ca.crt").write_bytes(self._certificate.public_bytes(encoding))
        (directory / "tls.crt").write_bytes(self._sign(name, key.public_key(), dns).public_bytes(encoding))
        (directory / "tls.key").write_bytes(
            key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return directory


@dataclass(frozen=True)
class Api:
    """The API server of the test."""

    kubeconfig: Path
    kubectl_program: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [str(self.kubectl_program), "--kubeconfig", str(self.kubeconfig), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout + ("" if check else done.stderr)


@contextlib.contextmanager
def process(arguments: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        started = subprocess.Popen(arguments, stdout=output, stderr=output, **options)
        try:
            yield started
        finally:
            started.kill()
            started.wait(10)


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """kube-apiserver with the CRDs of crds/ and the namespace graf-system. The programs come from `make setup`."""
    from graf.lab.binaries import located

    programs = located()
    work = tmp_path_factory.mktemp("apiserver")
    client, peer, secure = free_ports(3)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (work / "sa.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (work / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    kubeconfig = work / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [
                    {
                        "name": "test",
                        "cluster": {
                            "server": f"https://127.0.0.1:{secure}",
                            "certificate-authority": str(work / "pki" / "apiserver.crt"),
                        },
                    }
                ],
                "users": [{"name": "admin", "user": {"token": TOKEN}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
                "current-context": "test",
            }
        )
    )
    etcd = etcd_command(programs, work, client, peer)
    apiserver = apiserver_command(programs, work, client, secure)
    with process(etcd, work / "etcd.log"), process(apiserver, work / "apiserver.log"):
        found = Api(kubeconfig, programs / "kubectl")
        wait_for("kube-apiserver to be ready", lambda: found.kubectl("get", "--raw", "/readyz") == "ok", 60)
        found.kubectl("create", "namespace", "graf-system")
        found.kubectl("apply", "--server-side", "-k", str(REPOSITORY / "crds"))
        found.kubectl(
            "wait", "--for=condition=Established", "--timeout=20s", "crd", "-l", "app.kubernetes.io/part-of=graf"
        )
        yield found


class Git:
    """A bare repository, and a person who pushes to it."""

    def __init__(self, work: Path) -> None:
        self.bare = work / "gitops.git"
        self.tree = work / "person"
        self.run("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare), cwd=work)
        shutil.copytree(REPOSITORY / "gitops" / "example", self.tree)
        self.run("init", "--quiet", "--initial-branch=main")
        self.run("remote", "add", "origin", str(self.bare))

    def run(self, *arguments: str, cwd: Path | None = None) -> str:
        identity = ["-c", "user.name=Person", "-c", "user.email=person@graf.dev"]
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=cwd or self.tree,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, f"git {arguments}: {done.stderr}"
        return done.stdout.strip()

    def push(self, message: str, files: dict[str, str]) -> str:
        for path, content in files.items():
            (self.tree / path).write_text(content)
        self.run("add", "--all")
        self.run("commit", "--quiet", "-m", message)
        if self.run("ls-remote", "origin"):
            self.run("pull", "--quiet", "--rebase", "origin", "main")
        self.run("push", "--quiet", "origin", "main")
        return self.run("rev-parse", "HEAD")

    def log(self, shape: str = "%B") -> str:
        return self.run("--git-dir", str(self.bare), "log", f"--format={shape}", "main")

    def show(self, path: str) -> str:
        return self.run("--git-dir", str(self.bare), "show", f"main:{path}")


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git(tmp_path)


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@dataclass(frozen=True)
class Manager:
    """A running graf-manager."""

    port: int
    log: Path
    process: subprocess.Popen[bytes]


@pytest.fixture
def start_manager(api: Api, git: Git, authority: Authority, tmp_path: Path) -> Iterator[Callable[[str], Manager]]:
    """Starts managers; each ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Manager:
            (port,) = free_ports(1)
            work = tmp_path / name
            authority.issue(work / "tls", "manager.graf.dev")
            config = {
                "listen": f"127.0.0.1:{port}",
                "tlsDir": str(work / "tls"),
                "kubeconfig": str(api.kubeconfig),
                "git": {"url": f"file://{git.bare}", "pollSeconds": 0.3, "workDir": str(work / "repo")},
                "election": {"leaseSeconds": 4, "renewSeconds": 3, "retrySeconds": 1},
            }
            (work / "manager.yaml").write_text(yaml.safe_dump(config))
            environment = {**os.environ, "POD_NAME": name, "KUBECONFIG": str(api.kubeconfig)}
            environment.pop("KUBERNETES_SERVICE_HOST", None)
            program = [sys.executable, "-m", "graf_orchestrator.main", "--config", str(work / "manager.yaml")]
            running = stack.enter_context(process(program, work / "log", env=environment))
            return Manager(port, work / "log", running)

        yield start

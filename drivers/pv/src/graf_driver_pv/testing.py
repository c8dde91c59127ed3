"""For tests and the benchmark: identities made with openssl, and sites whose drivers are processes of their own."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graf_driver_sdk.client import DriverClient
from graf_driver_sdk.testing import eventually
from graf_driver_sdk.types import Assessment, ComponentKey, EnsureRole, Peer, Progress, Role, Spec, Status, Verdict


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def make_authority(folder: Path) -> None:
    """A certification authority: `ca.crt`, `ca.key`."""
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
        *("-subj", "/CN=test authority", "-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.crt")),
    )


def make_identity(folder: Path, name: str) -> dict[str, Any]:
    """A certificate for a name by the folder's authority; gives the `tls` parameter."""
    key, request, certificate = (folder / f"{name}.{suffix}" for suffix in ("key", "csr", "crt"))
    _openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
        *("-addext", f"subjectAltName=DNS:{name}", "-keyout", str(key), "-out", str(request)),
    )
    _openssl(
        *("x509", "-req", "-in", str(request), "-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key")),
        *("-CAcreateserial", "-days", "30", "-copy_extensions", "copy", "-out", str(certificate)),
    )
    return {"caFile": str(folder / "ca.crt"), "certFile": str(certificate), "keyFile": str(key), "name": name}


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def digest_of(tree: Path) -> dict[str, str]:
    """Every file of a tree with its checksum, read by nothing of the driver."""
    found = {}
    for folder, _, files in os.walk(tree):
        for name in files:
            path = Path(folder, name)
            content = os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
            found[str(path.relative_to(tree))] = hashlib.sha256(content).hexdigest()
    return found


@dataclass
class SiteUnderTest:
    """One site: its folder, its parameters, and its driver's process."""

    name: str
    folder: Path
    parameters: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None
    client: DriverClient | None = None
    peers: list[SiteUnderTest] = field(default_factory=list)

    @property
    def spec(self) -> Spec:
        """The component here."""
        return Spec(ComponentKey("vcu", "pv", self.name), self.parameters)

    @property
    def volume(self) -> Path:
        """Root of the volume."""
        return Path(self.parameters["directory"])

    @property
    def current(self) -> Path:
        """What the application opens."""
        return self.volume / "current"

    @property
    def generations(self) -> list[str]:
        """Complete generations, the oldest first."""
        folder = self.volume / "generations"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    async def start(self) -> None:
        """Starts the driver's process, in a process group of its own."""
        socket_path = self.folder / "d.sock"
        log = (self.folder / "driver.log").open("ab")
        with log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - a test's own process
                [
                    *(sys.executable, "-m", "graf_driver_pv.main", "--endpoint", f"unix:{socket_path}"),
                    *("--state-dir", str(self.folder / "state")),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.client = DriverClient(f"unix:{socket_path}")
        client = self.client

        async def answers() -> bool:
            with contextlib.suppress(Exception):
                await client.info()
                return True
            return False

        await eventually(f"the driver of {self.name}", answers, 110, 0.05)

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends the process with a signal and waits for its end."""
        if self.client is not None:
            await self.client.close()
            self.client = None
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            self.process.wait(60)
            self.process = None

    async def kill(self) -> None:
        """SIGKILL."""
        await self.stop(signal.SIGKILL)

    def peer(self, role: Role) -> Peer:
        """This site as another one sees it."""
        return Peer(self.name, role, self.parameters)

    async def ensure(self, role: Role, epoch: int, active: str = "") -> Progress:
        """Calls EnsureRole until it is completed."""
        peers = tuple(p.peer(Role.ACTIVE if p.name == active else Role.STANDBY) for p in self.peers)
        request = EnsureRole(self.spec, role, epoch, peers)
        assert self.client is not None
        client = self.client
        progress: Progress = Progress.pending("")

        async def done() -> bool:
            nonlocal progress
            progress = await client.ensure_role(request, 60)
            return progress.completed

        await eventually(f"{self.name} to be {role.name}", done, 60)
        return progress

    async def quiesce(self, epoch: int) -> str:
        """Calls Quiesce until it is completed; the position."""
        assert self.client is not None
        client, position = self.client, ""

        async def done() -> bool:
            nonlocal position
            answer = await client.quiesce(self.spec, epoch, 30)
            position = answer.position
            return answer.progress.completed

        await eventually("the last generation", done, 60)
        return position

    async def verdict(self, active: SiteUnderTest) -> Assessment:
        """Calls Assess until there is a verdict."""
        assert self.client is not None
        client = self.client

        async def told() -> Assessment | None:
            assessment = await client.assess(self.spec, active.peer(Role.ACTIVE), 30)
            return None if assessment.verdict is Verdict.UNKNOWN else assessment

        found = await eventually("a verdict", told, 60, 0.05)
        assert isinstance(found, Assessment)
        return found

    async def status(self) -> Status:
        """Observed now."""
        assert self.client is not None
        return await self.client.status(self.spec, 30)

    async def wait_generation_with(self, tree: Path, timeout_s: float = 60) -> None:
        """Waits until the newest complete generation here has exactly the files of a tree."""
        wanted = digest_of(tree)

        def same() -> bool:
            names = self.generations
            if not names:
                return False
            try:
                return digest_of(self.volume / "generations" / names[-1] / "tree") == wanted
            except FileNotFoundError:
                return False  # replaced by a newer one while it was read

        await eventually(f"a generation at {self.name} with {len(wanted)} files of {tree}", same, timeout_s, 0.05)


@contextlib.asynccontextmanager
async def two_sites(folder: Path, **parameters: Any) -> AsyncIterator[tuple[SiteUnderTest, SiteUnderTest]]:
    """`east` and `west` with their drivers running and no role given yet."""
    make_authority(folder / "pki")
    sites = []
    for name in ("east", "west"):
        own: dict[str, Any] = {"directory": str(folder / name / "volume"), "intervalSeconds": 0.1, **parameters}
        if "repository" not in parameters:
            identity = make_identity(folder / "pki", f"{name}.pv.test")
            own |= {"endpoint": f"127.0.0.1:{free_port()}", "tls": identity}
        (folder / name).mkdir(parents=True)
        sites.append(SiteUnderTest(name, folder / name, own))
    east, west = sites
    east.peers, west.peers = [west], [east]
    try:
        for site in sites:
            await site.start()
        yield east, west
    finally:
        for site in sites:
            await site.stop()

"""Images from the layout into a location's container runtime."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

from graf.lab import binaries, images, process
from graf.lab.daemons import CONTAINERD_SOCKET
from graf.lab.errors import LabError
from graf.lab.images import Image
from graf.lab.topology import Topology

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def wait_runtime(topology: Topology, location: str, timeout_s: float = 30.0) -> None:
    """Wait until a location's container runtime answers.

    Raises:
        LabError: It does not; `why` is the end of its log.
    """
    log = topology.log_dir(location) / "containerd.log"
    wait_answer(client(topology, location), f"containerd of {location}", log, timeout_s)


def wait_answer(ctr: list[str], what: str, log: Path, timeout_s: float) -> None:
    """Wait until a container runtime answers its client.

    Raises:
        LabError: It does not; `why` is the end of its log.
    """
    process.wait_for(
        lambda: subprocess.run([*ctr, "version"], capture_output=True, check=False).returncode == 0,
        what,
        timeout_s,
        why=lambda: process.tail(log, 4),
        interval_s=0.1,
    )


def client(topology: Topology, location: str) -> list[str]:
    """Command prefix that speaks to a location's container runtime."""
    return [*process.location_prefix(topology, location), *ctr_of(CONTAINERD_SOCKET)]


def ctr_of(socket: str) -> list[str]:
    """Command prefix that speaks to the container runtime at a socket, about kubelet's images."""
    return [str(binaries.located() / "ctr"), "--address", socket, "--namespace", "k8s.io"]


def ensure(topology: Topology, location: str, wanted: list[Image]) -> list[str]:
    """Import the images that a location does not have; layers that it has are not unpacked again.

    Returns:
        Names of the images that were imported.

    Raises:
        LabError: The runtime refused them.
    """
    wait_runtime(topology, location)
    return ensure_with(client(topology, location), wanted)


def ensure_with(ctr: list[str], wanted: list[Image]) -> list[str]:
    """Do what `ensure` does with a runtime's client."""
    there = set(_output([*ctr, "images", "list", "--quiet"]))
    missing = [image for image in wanted if image.name not in there]
    if missing:
        _import(ctr, missing, held=set(_output([*ctr, "content", "list", "--quiet"])))
    return [image.name for image in missing]


def _output(argv: list[str]) -> list[str]:
    return process.command(*argv).split()


def _import(ctr: list[str], wanted: list[Image], held: set[str]) -> None:
    argv = [*ctr, "images", "import", "--local", "-"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            with tarfile.open(fileobj=child.stdin, mode="w|", bufsize=1 << 20) as archive:
                _write_layout(archive, wanted, held)
            child.stdin.close()
        text = child.stdout.read().decode(errors="replace")
    if child.returncode != 0:
        names = ", ".join(image.name for image in wanted)
        raise LabError(f"containerd refused the images {names}", text.strip()[-600:], "graf lab down, then up again")


def _write_layout(archive: tarfile.TarFile, wanted: list[Image], held: set[str]) -> None:
    """Write an OCI layout with these images, each under its hashed and its development name.

    Blobs that the runtime holds are left out: new code is then one small layer and not a whole image.
    """
    _add_text(archive, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}))
    files: dict[str, Path] = {}
    manifests = []
    for image in wanted:
        manifest, *others = images.blobs(image)
        for blob in [manifest, *(b for b in others if f"sha256:{b.name}" not in held)]:
            files[str(blob.relative_to(images.layout_dir()))] = blob
        for name in (image.name, image.dev_name):
            manifests.append(
                {
                    "mediaType": _MANIFEST,
                    "digest": image.manifest,
                    "size": images.blob_path(image.manifest).stat().st_size,
                    "annotations": {"io.containerd.image.name": name},
                }
            )
    for name, path in files.items():
        archive.add(path, arcname=name, recursive=False)
    index = {"schemaVersion": 2, "manifests": manifests}
    _add_text(archive, "index.json", json.dumps(index))


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    info = tarfile.TarInfo(name)
    data = text.encode()
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))

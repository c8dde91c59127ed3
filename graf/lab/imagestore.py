"""A container runtime's image store, unpacked once for the machine.

Three clusters hold the same images. Unpacking them three times costs half a minute of disk; so the large layers are
unpacked once into a template, and a new location's store starts as hard links to it. Layers are never changed by a
runtime (containers write into layers of their own), its small databases are copied. Newer code, one small layer, is
imported on top in the usual way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from graf.lab import binaries, daemons, images, imports, process
from graf.lab.errors import LabError
from graf.lab.images import Image
from graf.lab.state import one_builder, write_atomically
from graf.lab.topology import Topology, cache_root

_START_TIMEOUT_S = 30.0
_DONE = "graf-template"


def template_dir(wanted: list[Image]) -> Path:
    """Where the template for these images is: its name follows from the layers below our own code."""
    digest = hashlib.sha256()
    for image in wanted:
        layers = json.loads(images.blob_path(image.manifest).read_text())["layers"]
        for layer in layers[:-1] if image.spec.packages else layers:
            digest.update(layer["digest"].encode())
    return cache_root() / "stores" / digest.hexdigest()[:16]


def ensure(wanted: list[Image]) -> Path:
    """Make the template, when there is none for these layers.

    Raises:
        LabError: The runtime does not start or refuses an image.
    """
    target = template_dir(wanted)
    with one_builder(target.parent):
        if (target / _DONE).is_file():
            return target
        for old in target.parent.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
        target.mkdir(parents=True)
        _unpack(target, wanted)
        write_atomically(target / _DONE, "complete\n")
    return target


def _unpack(root: Path, wanted: list[Image]) -> None:
    """Import images with a runtime that runs only for this, in mounts of its own."""
    bin_dir = binaries.located()
    with tempfile.TemporaryDirectory(prefix="graf-store-", dir="/run") as scratch:
        socket = f"{scratch}/c.sock"
        config = Path(scratch) / "containerd.toml"
        config.write_text(daemons.containerd_config(bin_dir, str(root), f"{scratch}/state", socket))
        log = Path(scratch) / "log"
        # It ends with this command, also when this command is killed.
        argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"]
        argv += [str(bin_dir / "containerd"), f"--config={config}", "--log-level=warn"]
        env = {**os.environ, "PATH": f"{bin_dir}:{os.environ.get('PATH', '')}"}
        with (
            log.open("wb") as stream,
            subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env) as runtime,
        ):
            try:
                ctr = imports.ctr_of(socket)
                imports.wait_answer(ctr, "containerd of the image store", log, _START_TIMEOUT_S)
                imports.ensure_with(ctr, wanted)
            finally:
                runtime.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    runtime.wait(_START_TIMEOUT_S)
                runtime.kill()


def seed(topology: Topology, location: str, template: Path) -> bool:
    """Start a location's image store from the template, when the location never ran.

    Returns:
        Whether that was done now.

    Raises:
        LabError: The files could not be linked.
    """
    store = process.disk_path(topology, location, "/var/lib/containerd")
    if store.is_dir() and any(store.iterdir()):
        return False
    partial = store.with_name(f"{store.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    linked = subprocess.run(
        ["cp", "--archive", "--link", str(template), str(partial)], capture_output=True, text=True, check=False
    )
    if linked.returncode != 0:
        # Another file system than the cache's has no links to it.
        shutil.rmtree(partial, ignore_errors=True)
        process.command("cp", "--archive", "--reflink=auto", str(template), str(partial))
    for database in partial.rglob("*.db"):
        copy = database.with_suffix(".copy")
        shutil.copy2(database, copy)
        copy.replace(database)
    (partial / _DONE).unlink()
    if store.is_dir():
        store.rmdir()
    try:
        partial.rename(store)
    except OSError as problem:
        raise LabError(f"the image store of {location} could not be made", str(problem)) from problem
    return True

"""The lab's Git server: a real bare repository at the management location, seeded from `gitops/example`."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from graf.lab import application, daemons, made_with, process, scope, second_group, volume
from graf.lab.build import REPOSITORY
from graf.lab.errors import LabError
from graf.lab.made_with import Extra
from graf.lab.topology import MANAGEMENT, Topology

EXAMPLE = REPOSITORY / "gitops" / "example"
_IDENTITY = ("-c", "user.name=GRAF lab", "-c", "user.email=lab@graf.dev")


def ensure_repository(topology: Topology) -> bool:
    """Make and seed the bare repository, when there is none.

    Returns:
        Whether it was made now.

    Raises:
        LabError: Git failed, or the example is missing.
    """
    bare = topology.git_repository
    if (bare / "refs" / "heads" / "main").exists() or (bare / "packed-refs").exists():
        return False
    if not any(EXAMPLE.glob("**/*.yaml")):
        raise LabError("the example repository is missing", f"{EXAMPLE} has no manifests", "git checkout gitops")
    shutil.rmtree(bare, ignore_errors=True)
    bare.mkdir(parents=True)
    _git(bare, "init", "--quiet", "--bare", "--initial-branch=main")
    _git(bare, "config", "receive.denyNonFastForwards", "true")
    _git(bare, "config", "http.receivepack", "true")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch) / "work"
        shutil.copytree(EXAMPLE, work)
        for manifest in sorted(work.rglob("*")):
            if manifest.is_file():
                manifest.write_text(localise(manifest.read_text(), topology))
        if made_with.has(topology, Extra.GROUPS):  # first: the second group is made from the plain first one
            second_group.add_to_example(work)
        if made_with.has(topology, Extra.VOLUME):
            volume.add_to_example(work, topology)
        if made_with.has(topology, Extra.SCOPE):
            scope.add_to_example(work)
        if made_with.has(topology, Extra.WORKLOAD):
            application.add_to_example(work, topology)
        _git(work, "init", "--quiet", "--initial-branch=main")
        _git(work, "add", "--all")
        _git(work, *_IDENTITY, "commit", "--quiet", "-m", "Start with the example of the GRAF repository")
        _git(work, "push", "--quiet", str(bare), "main")
    return True


def localise(text: str, topology: Topology) -> str:
    """Put this lab's addresses in the place of those of lab 0, for which the example is written."""
    return text.replace("198.18.0.", f"198.18.{topology.index}.")


def start(topology: Topology) -> None:
    """Serve the repository, unless it is served."""
    process.start_daemon(topology, MANAGEMENT, daemons.git_daemon(topology))


def stop(topology: Topology) -> None:
    """Stop serving.

    Raises:
        LabError: It is not served.
    """
    if not process.stop_daemon(topology, MANAGEMENT, "git-daemon"):
        raise LabError("the Git server does not run", "it was stopped before", "graf lab fault git up")


def _git(directory: Path, *argv: str) -> None:
    done = subprocess.run(["git", *argv], cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"git {' '.join(argv[:3])} failed in {directory}", done.stderr.strip()[-400:])

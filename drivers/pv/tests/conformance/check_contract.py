"""The conformance kit, against processes of this driver with real volumes, seen by a real application: once with rsync
over TLS from site to site, once by way of a restic repository; and, of mode volsync, against a real kube-apiserver with
a stand-in for VolSync's controller and for what makes volumes.

Some minutes, so it is no part of the default suite: `make pv-sanity`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from graf_driver_pv.testing import free_port, make_authority, make_identity
from graf_driver_pv.testing_restic import make_repository
from graf_driver_pv.testing_volsync import CLAIM_NAME, TOKEN, api_server, parameters
from graf_driver_pv.testing_volsync_controller import StandIn
from graf_driver_pv.volsync_cluster import CLAIM, DESTINATION
from graf_driver_pv.volsync_objects import COMPONENT
from graf_driver_sanity import Config, Report, run
from graf_driver_sanity.config import Budget, Hook, Invalid, Side

from graf.lab.binaries import located

# What this driver rightly cannot be asked, and why; another reason is a gap in this test.
RIGHTLY_SKIPPED = (
    "the driver does not declare GATE",  # a volume has no lease: its link is taken away by FENCED
    "the driver does not declare SYNCHRONOUS",  # it follows within the RPO
    "the driver declares POSITION",  # the check is of drivers without it
    "the driver declares RESYNC",
    "the driver takes one component only",  # of one volume: another component needs a folder of its own
)

# Of mode volsync. What lies behind the last two is tested with the same stand-in by test_pv_volsync_safeguards.py.
_NO_GATE = "applications use the PVC itself; to stop them is for a component of the stage workload"
_NO_DATA = "VolSync tells of copies and not of what is in them: two of the same data are two positions"
_NEVER_CLEAN = "the check wants a verdict CLEAN, and VolSync does not tell whether the newest copy is all there is"
_NO_OTHER = "the verdict is by this site's own record: the other site is not asked, and need not be reached"
_AT_REST = (
    "a quiesced source copies no more: who begins to follow only then gets nothing, and a successor follows before"
)
VOLSYNC_SKIPS: dict[str, str] = {
    "position-is-waited-for": _AT_REST,
    "position-is-reached-after-kill": _AT_REST,
    "role-standby-refuses-write": _NO_GATE,
    "role-fenced-refuses-write": _NO_GATE,
    "role-invalidated-refuses-write": _NO_GATE,
    "role-quiesced-refuses-write": _NO_GATE,
    "position-no-write-after-quiesce": _NO_GATE,
    "position-after-unquiesce-without-writes": _NO_DATA,
    "status-position-after-write": _NO_DATA,
    "resync-verdict-unknown": _NO_OTHER,
    "resync-verdict-clean": _NEVER_CLEAN,
    "resync-verdict-behind": _NEVER_CLEAN,
    "resync-verdict-diverged": _NEVER_CLEAN,
    "resync-verdict-ahead": _NEVER_CLEAN,
    "resync-invalidated-follows-nobody": _NEVER_CLEAN,
    "resync-follow-catches-up": _NEVER_CLEAN,
    "resync-rebuild-of-clean": _NEVER_CLEAN,
    "resync-archive-stays": _NEVER_CLEAN,
    "resync-cancelled-half-way": _NEVER_CLEAN,
    "resync-killed-half-way": _NEVER_CLEAN,
    "resync-beside-a-promotion": _NEVER_CLEAN,
    "resync-from-nowhere": _NEVER_CLEAN,
    "resync-names-divergent": _NEVER_CLEAN,
    "resync-verdict-empty": _NEVER_CLEAN,
    "resync-wiped-not-promotable": _NEVER_CLEAN,
    "resync-assess-keeps-divergent": _NEVER_CLEAN,
    "resync-rebuilds": _NEVER_CLEAN,
    "resync-driver-chooses": _NEVER_CLEAN,
    "resync-archives": _NEVER_CLEAN,
    "resync-archive-holds": _NEVER_CLEAN,
    "resync-brings-data": _NEVER_CLEAN,
    "resync-diverged-does-not-follow": _NEVER_CLEAN,
    "resync-follow-of-diverged": _NEVER_CLEAN,
    "resync-catches-up": _NEVER_CLEAN,
    "resync-ten-times": _NEVER_CLEAN,
}


def hooks(folder: Path) -> dict[str, Callable[[str, str], str | None]]:
    """An application with a file per value; it knows nothing of the volume but `current`."""

    def current(site: str) -> Path:
        return folder / site / "current"

    def write(site: str, value: str) -> None:
        with (current(site) / value).open("x") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())

    def read(site: str, _: str) -> str:
        return " ".join(path.read_text() for path in current(site).iterdir())

    def wipe(site: str, _: str) -> None:
        """As if the volume were on a new disk."""
        for path in (folder / site).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def lose(site: str, _: str) -> None:
        """The live copy goes away under the application, and the link to it stays."""
        (folder / site / "live" / "tree").rename(folder / f"lost-{site}")

    def archived(_: str, archive: str) -> str:
        return " ".join(path.name for path in Path(archive).rglob("sanity-*"))

    return {"write": write, "read": read, "wipe": wipe, "break": lose, "archived": archived}


def told(report: Report, name: str) -> None:
    """Writes the report, with the seconds of each check, where GRAF_SANITY_OUT says."""
    out = Path(os.environ.get("GRAF_SANITY_OUT", "out/sanity"))
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report.as_json() | {"seconds": report.seconds}, indent=2) + "\n")


def direct(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of both sites, for rsync over TLS."""
    make_authority(folder / "pki")

    def of(name: str) -> dict[str, Any]:
        return {
            "directory": str(folder / name),
            "endpoint": f"127.0.0.1:{free_port()}",
            "listen": "127.0.0.1",
            "tls": make_identity(folder / "pki", f"{name}.pv.test"),
            "intervalSeconds": 0.1,
        }

    return of("east"), of("west")


@pytest.mark.timeout(1200)
async def test_the_driver_keeps_the_contract() -> None:
    with tempfile.TemporaryDirectory(prefix="gpv-") as directory:
        folder = Path(directory)
        east, west = direct(folder)
        key = (folder / "pki" / "east.pv.test.key").read_text().splitlines()[1]
        invalid = (
            Invalid("endpoint", {"endpoint": "nowhere"}),
            Invalid("tls.name", {"tls": {**east["tls"], "name": "two words"}}),
            Invalid("tls.keyFile", {"tls": {**east["tls"], "keyFile": "relative"}}),
            Invalid("tls", remove=("tls",)),
        )
        unreachable = {**west, "endpoint": f"127.0.0.1:{free_port()}"}
        await check("pv", folder, (east, west), unreachable, invalid, (key, str(east["tls"]["keyFile"])))


@pytest.mark.timeout(2400)
async def test_the_driver_keeps_the_contract_with_a_repository() -> None:
    with tempfile.TemporaryDirectory(prefix="gpv-") as directory:
        folder = Path(directory)
        repository = make_repository(folder / "shared", confirmSeconds=0.5, pollSeconds=0.2)
        east, west = (
            {"directory": str(folder / name), "repository": repository, "intervalSeconds": 0.1}
            for name in ("east", "west")
        )
        password = (folder / "shared" / "password").read_text().strip()
        invalid = (
            Invalid("repository", {"repository": "a text"}),
            Invalid("repository.location", {"repository": {**repository, "location": "here"}}),
            Invalid("repository.passwordFile", {"repository": {**repository, "passwordFile": "relative"}}),
            Invalid("repository.passwordFile", {"repository": {**repository, "passwordFile": "/nowhere/password"}}),
            Invalid("repository.keep", {"repository": {**repository, "keep": 0}}),
            Invalid("endpoint", {"endpoint": "127.0.0.1:1"}),
        )
        unreachable = {**west, "repository": {**repository, "location": str(folder / "elsewhere")}}
        await check("pv-repository", folder, (east, west), unreachable, invalid, (password,))


def applications(world: StandIn) -> dict[str, Hook]:
    """Applications that have the PVC mounted, whatever the driver says: to stop them is the workload's."""

    def write(site: str, value: str) -> None:
        world.write(site, value)

    def read(site: str, _: str) -> str:
        return " ".join(world.read(site))

    def wipe(site: str, _: str) -> None:
        """As if the cluster were a new one."""
        world.end(site, CLAIM)
        world.end(site, DESTINATION)

    def lose(site: str, _: str) -> None:
        """Somebody pauses what copies. That the PVC goes away is another test: nothing older is opened then."""
        world.pause(site)

    return {"write": write, "read": read, "wipe": wipe, "break": lose}


@pytest.mark.timeout(3600)
async def test_the_driver_keeps_the_contract_with_volsync() -> None:
    with tempfile.TemporaryDirectory(prefix="gpv-") as directory, api_server(Path(directory), located()) as api:
        api.install()
        for name in ("east", "west"):
            api.add_site(name)
            claim = f"{CLAIM.plural}/{CLAIM_NAME}"
            api.kubectl("annotate", claim, "-n", name, f"{COMPONENT}=sanity/volume")
        east, west = (parameters(api, name) | {"rpoSeconds": 3600.0} for name in ("east", "west"))
        invalid = (
            Invalid("volsync", remove=("volsync",)),
            Invalid("volsync.source", {"volsync": {**east["volsync"], "source": "Not A Name"}}),
            Invalid("volsync.schedule", {"volsync": {**east["volsync"], "schedule": "often"}}),
            Invalid("volsync.kubeconfig", {"volsync": {**east["volsync"], "kubeconfig": "/nowhere/kubeconfig"}}),
            Invalid("rpoSeconds", {"rpoSeconds": 0}),
            Invalid("directory", {"directory": "/volume"}),
        )
        elsewhere = {
            **west,
            "volsync": {**west["volsync"], "mover": {"keySecret": "files-key", "address": "192.0.2.1"}},
        }
        world = StandIn(api, "east", "west", spare=True, pace_s=1.2)
        with world.running():
            await kit("pv-volsync", (east, west), elsewhere, invalid, (TOKEN,), applications(world), VOLSYNC_SKIPS)


async def check(
    name: str,
    folder: Path,
    sites: tuple[dict[str, Any], dict[str, Any]],
    unreachable: dict[str, Any],
    invalid: tuple[Invalid, ...],
    secrets: tuple[str, ...],
) -> None:
    """Runs the kit with a volume and an application."""
    all_invalid = (
        Invalid("directory", {"directory": "here"}),
        Invalid("mode", {"mode": "Sometimes"}),
        Invalid("rpoSeconds", {"rpoSeconds": 0}),
        Invalid("keep", {"keep": 1.5}),
        Invalid("hooks.freeze", {"hooks": {"freeze": "a text"}}),
        Invalid("volsync", {"volsync": {}}),
        Invalid("colour", {"colour": "red"}),
        *invalid,
    )
    await kit(name, sites, unreachable, all_invalid, secrets, hooks(folder), {})


async def kit(
    name: str,
    sites: tuple[dict[str, Any], dict[str, Any]],
    unreachable: dict[str, Any],
    invalid: tuple[Invalid, ...],
    secrets: tuple[str, ...],
    applications: Mapping[str, Hook],
    skips: Mapping[str, str],
) -> None:
    """Everything but what is rightly skipped must pass."""
    command = (sys.executable, "-m", "graf_driver_pv.main")
    east, west = (
        Side(site, command=command, parameters=parameters)
        for site, parameters in zip(("east", "west"), sites, strict=True)
    )
    report = await run(
        Config(
            name=name,
            component="volume",
            site=east,
            peer=west,
            unreachable_peer=unreachable,
            invalid=invalid,
            secrets=secrets,
            hooks=applications,
            skip=skips,
            budget=Budget(start_s=60, transition_s=60, call_s=20, status_s=5),
        ),
    )
    told(report, name)
    assert [(failure.id, failure.seen) for failure in report.failures] == []
    assert len(report.passed) >= 190
    reasons = {skip.reason for skip in report.skipped}
    rightly = (*RIGHTLY_SKIPPED, *(f"configuration: {reason}" for reason in skips.values()))
    assert [reason for reason in reasons if not reason.startswith(rightly)] == []

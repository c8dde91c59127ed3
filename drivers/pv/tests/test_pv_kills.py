"""The copy is killed in the middle, again and again: what a promotion opens is always one complete generation.

`make pv-kills` does it 50 times, the default suite a few times.
"""

import asyncio
import fcntl
import os
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from graf_driver_pv import small
from graf_driver_pv.driver import PvDriver
from graf_driver_pv.testing import SiteUnderTest, digest_of, two_sites
from graf_driver_pv.testing_restic import make_repository, restic
from graf_driver_sdk.testing import eventually, running
from graf_driver_sdk.types import EnsureRole, Role

KILLS = int(os.environ.get("GRAF_PV_KILLS", "3"))
REPOSITORY_KILLS = int(os.environ.get("GRAF_PV_KILLS", "2"))  # of each side
FILES = 80
SIZE = 64 << 10


def write_round(folder: Path, number: int) -> None:
    """Every file anew, in order, each by a rename; it begins with the round's number.

    Two rounds have a larger file, so that they come by rsync; the next two come without.
    """
    fresh = folder.resolve().parents[2] / "fresh"
    for index in range(FILES):
        size = 2 * small.FILE_BYTES if number % 4 < 2 and index == FILES - 1 else SIZE
        content = f"{number:08d}".encode() + random.randbytes(size)
        fresh.write_bytes(content)
        fresh.rename(folder / f"f{index:04d}")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def copier_has_ended(volume: Path) -> bool:
    """Whether nobody holds the lock of the copy in flight: a copier outlives its driver for a moment."""
    try:
        with (volume / "incoming" / "lock").open() as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


async def promoted(site: SiteUnderTest, scratch: Path) -> tuple[str, Path]:
    """Promotes a copy of the site's folder as it was left; gives the generation and the open tree."""
    shutil.rmtree(scratch, ignore_errors=True)
    await eventually("the killed driver's copier to have ended", lambda: copier_has_ended(site.volume), 20)
    shutil.copytree(site.volume, scratch / "volume", symlinks=True)
    # It must reach nobody, nor say in the sites' repository that it is active.
    nowhere: dict[str, Any] = {"endpoint": "127.0.0.1:1"}
    if "repository" in site.parameters:
        nowhere = {"repository": site.parameters["repository"] | {"location": str(scratch / "repository")}}
    parameters = site.parameters | {"directory": str(scratch / "volume")} | nowhere
    spec = site.spec.__class__(site.spec.key, parameters)
    async with running(PvDriver(), state_dir=scratch / "state") as client:
        progress = await client.ensure_role(EnsureRole(spec, Role.ACTIVE, 1_000_000), 60)
    assert progress.completed
    return progress.message.removeprefix("opened generation "), scratch / "volume" / "current"


async def opens_one_generation(site: SiteUnderTest, maker: SiteUnderTest, scratch: Path) -> None:
    """What a promotion of the site opens now is one of the maker's generations, whole."""
    name, tree = await promoted(site, scratch)
    assert digest_of(tree) == digest_of(maker.volume / "generations" / name / "tree"), name
    rounds = [int((tree / f"f{index:04d}").read_bytes()[:8]) for index in range(FILES)]
    assert rounds == sorted(rounds, reverse=True)
    assert rounds[0] - rounds[-1] <= 1


async def test_a_killed_copy_is_never_served(tmp_path: Path) -> None:
    in_flight = by_rsync = 0
    async with two_sites(tmp_path, keep=100) as (east, west):
        await east.ensure(Role.ACTIVE, 1)
        west.parameters["bandwidthKiBps"] = 12_000  # a copy takes about half a second
        write_round(east.current, 0)
        await west.ensure(Role.STANDBY, 1, "east")
        await west.wait_generation_with(east.current)
        for number in range(1, KILLS + 1):
            write_round(east.current, number)
            begun = west.volume / "incoming" / "of"
            await eventually("a copy to have begun", begun.exists, 60, 0.005)
            await asyncio.sleep(random.random() * 0.5)  # the moment is what is tried
            await west.kill()
            in_flight += begun.exists()
            by_rsync += (west.volume / "incoming" / "files").exists()
            await opens_one_generation(west, east, tmp_path / "scratch")
            await west.start()
            await west.ensure(Role.STANDBY, 1, "east")
        await west.wait_generation_with(east.current)
    assert in_flight * 3 >= KILLS, f"only {in_flight} of {KILLS} kills met a copy in flight"
    if KILLS >= 20:  # both ways have been killed
        assert 5 <= by_rsync <= in_flight - 5, f"{by_rsync} of {in_flight} copies in flight were of rsync"
    report = (
        f"killed {KILLS} times, {in_flight} in the middle of a copy, {by_rsync} of them by rsync; "
        f"every promotion opened a complete generation\n"
    )
    await tell(report)


async def tell(report: str) -> None:
    if out := os.environ.get("GRAF_PV_KILLS_OUT"):
        await asyncio.to_thread(_write, Path(out), report)


def locks(site: SiteUnderTest) -> set[str]:
    """Of each restic that writes into the site's repository, or was killed while it did."""
    folder = Path(site.parameters["repository"]["location"]) / "locks"
    return {path.name for path in folder.iterdir() if "tmp" not in path.name}


def newly_locked(site: SiteUnderTest, before: set[str]) -> bool:
    return bool(locks(site) - before)


async def test_a_killed_upload_or_restore_is_never_served(tmp_path: Path) -> None:
    in_restore = in_upload = 0
    repository = make_repository(tmp_path / "shared", confirmSeconds=60)  # so that what locks it is an upload
    # restic lets a second's worth of it go at once; the rest of a round takes 0.7 s.
    async with two_sites(tmp_path, keep=100, rpoSeconds=100, repository=repository, bandwidthKiBps=3_000) as sites:
        east, west = sites
        await east.ensure(Role.ACTIVE, 1)
        write_round(east.current, 0)
        await west.ensure(Role.STANDBY, 1, "east")
        await west.wait_generation_with(east.current)
        for number in range(1, REPOSITORY_KILLS + 1):
            write_round(east.current, 2 * number - 1)
            restored = west.volume / "incoming" / "restored"
            await eventually("a restore to have begun", restored.exists, 60, 0.005)
            await asyncio.sleep(random.random() * 0.5)  # the moment is what is tried
            await west.kill()
            in_restore += restored.exists()
            await opens_one_generation(west, east, tmp_path / "scratch")
            await west.start()
            await west.ensure(Role.STANDBY, 1, "east")
            before = locks(east)  # what an earlier kill left; restic hangs when a lock of its own is taken away
            write_round(east.current, 2 * number)
            await eventually("an upload to have begun", partial(newly_locked, east, before), 60, 0.005)
            await asyncio.sleep(random.random() * 0.5)
            await east.kill()
            in_upload += newly_locked(east, before)
            await east.start()
            await east.ensure(Role.ACTIVE, 1)
            await west.wait_generation_with(east.current)
    restic(repository, "unlock", "--remove-all")  # nobody writes any more
    restic(repository, "check")
    assert in_restore * 3 >= REPOSITORY_KILLS, f"only {in_restore} of {REPOSITORY_KILLS} kills met a restore in flight"
    assert in_upload * 3 >= REPOSITORY_KILLS, f"only {in_upload} of {REPOSITORY_KILLS} kills met an upload in flight"
    await tell(
        f"repository: killed {in_restore} times in the middle of a restore and {in_upload} times in the middle of an "
        f"upload; every promotion opened a complete generation\n"
    )

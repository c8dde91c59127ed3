"""The copy is killed in the middle, again and again: what a promotion opens is always one complete generation.

`make pv-kills` does it 50 times, the default suite a few times.
"""

import asyncio
import fcntl
import os
import random
import shutil
from pathlib import Path

from graf_driver_pv import small
from graf_driver_pv.driver import PvDriver
from graf_driver_pv.testing import SiteUnderTest, digest_of, two_sites
from graf_driver_sdk.testing import eventually, running
from graf_driver_sdk.types import EnsureRole, Role

KILLS = int(os.environ.get("GRAF_PV_KILLS", "3"))
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
    path.write_text(text)


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
    parameters = site.parameters | {"directory": str(scratch / "volume"), "endpoint": "127.0.0.1:1"}
    spec = site.spec.__class__(site.spec.key, parameters)
    async with running(PvDriver(), state_dir=scratch / "state") as client:
        progress = await client.ensure_role(EnsureRole(spec, Role.ACTIVE, 1_000_000), 60)
    assert progress.completed
    return progress.message.removeprefix("opened generation "), scratch / "volume" / "current"


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
            name, tree = await promoted(west, tmp_path / "scratch")
            assert digest_of(tree) == digest_of(east.volume / "generations" / name / "tree"), name
            rounds = [int((tree / f"f{index:04d}").read_bytes()[:8]) for index in range(FILES)]
            assert rounds == sorted(rounds, reverse=True)
            assert rounds[0] - rounds[-1] <= 1
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
    if out := os.environ.get("GRAF_PV_KILLS_OUT"):
        await asyncio.to_thread(_write, Path(out), report)

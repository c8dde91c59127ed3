"""What file systems allow and a copy must get right: odd names, kinds that change, other names of a file, mappings."""

import ctypes
import mmap
import os
import shutil
from pathlib import Path

from graf_driver_pv.testing import SiteUnderTest, digest_of, two_sites
from graf_driver_sdk.testing import eventually
from graf_driver_sdk.types import Role

Pair = tuple[SiteUnderTest, SiteUnderTest]
RENAME_EXCHANGE = 2
LARGE = b"large " * 60_000  # rsync brings it
ODD = [
    b"a\nb",
    b"a\rb",
    b"-rf",
    b"--",
    b" ",
    b"#comment",
    b";comment",
    b"*[a]?",
    b"'\"`$(x)",
    b"\\back",
    b":colon",
    b"x" * 255,
    "žluť".encode(),
    b"\xff\xfe",
]


async def follow(east: SiteUnderTest, west: SiteUnderTest) -> Path:
    await east.ensure(Role.ACTIVE, 1)
    await west.ensure(Role.STANDBY, 1, "east")
    return east.current


def newest(site: SiteUnderTest) -> Path:
    return site.volume / "generations" / site.generations[-1] / "tree"


async def test_odd_names_come_as_they_are(sites: Pair) -> None:
    east, west = sites
    top = await follow(east, west)
    for name in map(os.fsdecode, ODD):
        (top / name).write_text("small")
        (top / "large" / name).mkdir(parents=True)
        (top / "large" / name / name).write_bytes(LARGE)
    await west.wait_generation_with(east.current)
    assert len(digest_of(newest(west))) == 2 * len(ODD)


async def test_modes_that_a_change_of_owner_takes_are_kept(sites: Pair) -> None:
    """A generation that is not as its manifest says never arrives whole: nothing newer would come any more."""
    east, west = sites
    top = await follow(east, west)
    (top / "program").write_bytes(LARGE)
    os.chown(top / "program", 1000, 1000)
    (top / "program").chmod(0o6755)
    (top / "shut").write_bytes(LARGE)
    (top / "shut").chmod(0)
    (top / "folder").mkdir()
    os.chown(top / "folder", 0, 1000)
    (top / "folder").chmod(0o2775)
    await west.wait_generation_with(top)
    for name, mode in (("program", 0o6755), ("shut", 0), ("folder", 0o2775)):
        for site in sites:
            assert (newest(site) / name).stat().st_mode & 0o7777 == mode, f"{name} at {site.name}"


async def test_a_folder_becomes_a_file_and_a_link_becomes_a_folder(sites: Pair) -> None:
    east, west = sites
    top = await follow(east, west)
    (top / "folder").mkdir()
    (top / "folder" / "in").write_text("x")
    (top / "file").write_bytes(LARGE)
    (top / "link").symlink_to("/etc")
    (top / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "pipe")
    (top / "empty").mkdir()
    await west.wait_generation_with(without_pipes(top))
    assert (newest(west) / "empty").is_dir()
    shutil.rmtree(top / "folder")
    (top / "folder").write_text("a file now")
    (top / "file").unlink()
    (top / "file" / "deep").mkdir(parents=True)
    (top / "file" / "deep" / "large").write_bytes(LARGE + b"2")
    (top / "link").unlink()
    (top / "link").mkdir()
    (top / "link" / "passwd").write_text("of the volume")
    await west.wait_generation_with(without_pipes(top))
    assert (await east.status()).message == ""
    assert (newest(west) / "link").is_dir()
    assert not (newest(west) / "link").is_symlink()


def without_pipes(top: Path) -> Path:
    """Reading one would never end; it is not kept."""
    (top / "pipe").unlink(missing_ok=True)
    return top


async def test_links_beside_large_files_come_at_once(sites: Pair) -> None:
    """rsync leaves a link's time when it is in the second in which it copies."""
    east, west = sites
    top = await follow(east, west)
    for index in range(3):
        (top / f"large{index}").write_bytes(LARGE)
        (top / f"link{index}").symlink_to(f"large{index}")
        await west.wait_generation_with(top)
    assert "did not arrive whole" not in (west.folder / "driver.log").read_text()


async def test_what_is_written_by_one_name_of_a_file_is_copied_by_each(sites: Pair) -> None:
    """The kernel tells the name that was used, and no other."""
    east, west = sites
    top = await follow(east, west)
    (top / "one").write_text("first")
    (top / "folder").mkdir()
    os.link(top / "one", top / "folder" / "other")
    await west.wait_generation_with(top)
    with (top / "one").open("r+") as file:
        file.write("again")
    await west.wait_generation_with(top)
    assert (newest(west) / "folder" / "other").read_text() == "again"


async def test_folders_that_change_their_names_leave_nothing_behind_and_are_heard_on(sites: Pair) -> None:
    east, west = sites
    top = await follow(east, west)
    for name in ("release", "next"):
        (top / name / "sub").mkdir(parents=True)
        (top / name / "sub" / f"only-in-{name}").write_text(name)
    await west.wait_generation_with(top)
    (top / "release").rename(top / "old")
    (top / "next").rename(top / "release")
    await west.wait_generation_with(top)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.renameat2(-100, os.fsencode(top / "release"), -100, os.fsencode(top / "old"), RENAME_EXCHANGE) == 0
    await west.wait_generation_with(top)
    for name in ("release", "old"):
        (top / name / "sub" / "later").write_text(f"written into {name}")
    await west.wait_generation_with(top)


def mapped(path: Path) -> mmap.mmap:
    """Two pages of a new file, which is closed."""
    with path.open("w+b") as file:
        file.write(b"0" * 8192)
        file.flush()
        return mmap.mmap(file.fileno(), 8192)


async def test_what_is_written_through_a_mapping_is_found(tmp_path: Path) -> None:
    """The kernel tells it when the mapping goes, which may be never: the tree is compared now and then."""
    async with two_sites(tmp_path, rpoSeconds=2) as (east, west):
        top = await follow(east, west)
        mapping = mapped(top / "mapped")
        await west.wait_generation_with(top)
        for text in (b"first", b"again", b"third"):  # into one page: it shows in the file's time once it is on disk
            mapping[: len(text)] = text
            await west.wait_generation_with(top)


async def test_a_planned_move_has_what_is_written_through_a_mapping(tmp_path: Path) -> None:
    async with two_sites(tmp_path, rpoSeconds=600) as (east, west):
        top = await follow(east, west)
        mapping = mapped(top / "mapped")
        await west.wait_generation_with(top)

        async def quiet() -> bool:
            return (await east.status()).facts["pending_change_seconds"] == "0.00"

        await eventually("what was written to be in a generation", quiet, 60, 0.05)
        mapping[:6] = b"mapped"
        await east.quiesce(1)
        assert (newest(east) / "mapped").read_bytes().startswith(b"mapped")


async def test_a_driver_that_ends_leaves_no_traceback(sites: Pair) -> None:
    east, west = sites
    await follow(east, west)

    async def connected() -> bool:
        return any(follower.connected for follower in (await east.status()).followers)

    await eventually("west to be connected", connected, 60, 0.05)
    await east.stop()
    assert "Traceback" not in (east.folder / "driver.log").read_text()

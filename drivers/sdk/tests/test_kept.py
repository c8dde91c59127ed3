"""A small file is replaced as a whole, also when the disk is full."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from graf_driver_sdk.epoch import EpochGuard
from graf_driver_sdk.kept import keep_room, replace_kept
from graf_driver_sdk.testing import small_disk


@pytest.fixture(name="small_disk")
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 1) as where:
        yield where


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for _ in range(1000):
            file.write(b"f" * 4096)
    assert shutil.disk_usage(folder).free == 0


def test_it_is_replaced_on_a_full_disk_again_and_again(small_disk: Path) -> None:
    path = small_disk / "record"
    replace_kept(path, b"first, and longer than what comes")
    fill(small_disk)
    for index in range(5):
        replace_kept(path, b"%d" % index)
        assert path.read_bytes() == b"%d" % index


def test_a_file_of_the_version_before_gets_its_room(small_disk: Path) -> None:
    path = small_disk / "record"
    path.write_bytes(b"old")
    keep_room(path)
    fill(small_disk)
    replace_kept(path, b"new")
    assert path.read_bytes() == b"new"
    keep_room(path)


def test_what_a_crash_has_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "record"
    replace_kept(path, b"one")
    path.with_name(".record.old").hardlink_to(path)
    path.with_name(".record.new").write_bytes(b"a part of someth")
    replace_kept(path, b"two")
    assert path.read_bytes() == b"two"
    path.with_name(".record.new").unlink()
    replace_kept(path, b"three")
    assert path.read_bytes() == b"three"


def test_a_higher_epoch_is_admitted_on_a_full_disk(small_disk: Path) -> None:
    guard = EpochGuard(small_disk)
    guard.admit("g", "c", 1)
    fill(small_disk)
    guard.admit("g", "c", 2)
    assert EpochGuard(small_disk).highest("g", "c") == 2


def test_a_file_that_a_crash_left_by_its_other_name_is_room_enough(small_disk: Path) -> None:
    path = small_disk / "record"
    replace_kept(path, b"one")
    replace_kept(path, b"two")
    path.with_name(".record.new").rename(path.with_name(".record.old"))  # ended between its two renames
    fill(small_disk)
    keep_room(path)
    replace_kept(path, b"three")
    assert path.read_bytes() == b"three"


def test_what_is_the_file_itself_is_no_room(tmp_path: Path) -> None:
    path = tmp_path / "record"
    path.write_bytes(b"one")
    path.with_name(".record.old").hardlink_to(path)
    keep_room(path)
    assert not path.with_name(".record.new").samefile(path)


def test_an_epoch_of_the_version_before_gets_its_room_when_it_is_read(small_disk: Path) -> None:
    EpochGuard(small_disk).admit("g", "c", 1)
    for spare in small_disk.glob(".*"):
        spare.unlink()
    guard = EpochGuard(small_disk)
    assert guard.highest("g", "c") == 1
    fill(small_disk)
    guard.admit("g", "c", 2)
    assert EpochGuard(small_disk).highest("g", "c") == 2

"""What comes without rsync: what is small, in portions; and what neither side takes from the other."""

import os
from pathlib import Path

import pytest
from graf_driver_pv import small
from graf_driver_pv.manifest import Entry, Manifest, observe
from graf_driver_pv.position import Position


def entry(kind: str = "f", size: int = 1, content: str = "") -> Entry:
    return Entry(kind, 0o640, os.getuid(), os.getgid(), size, 1_000_000_007, content)


def manifest(entries: dict[str, Entry]) -> Manifest:
    return Manifest(Position(1, 1), {}, "moving", 0, entries, (0o755, 0, 0))


def test_one_large_file_or_too_much_in_all_goes_to_rsync() -> None:
    assert small.is_small({"a": entry(size=small.FILE_BYTES), "b": entry(size=small.FILE_BYTES + 1)}, ["a"])
    assert not small.is_small({"a": entry(), "b": entry(size=small.FILE_BYTES + 1)}, ["a", "b"])
    many = {f"f{index}": entry(size=small.FILE_BYTES) for index in range(129)}
    assert small.is_small(many, list(many)[:128])
    assert not small.is_small(many, many)


def test_portions_have_every_path_once_in_order_and_each_is_short() -> None:
    paths = [f"{index:04d}" + "x" * 300 for index in range(600)]
    portions = list(small.requests(paths))
    assert [path for portion in portions for path in portion] == paths
    assert all(sum(map(len, portion)) <= 8 << 10 for portion in portions)
    assert list(small.requests([])) == []
    assert list(small.requests(["y" * 9000, "z"])) == [["y" * 9000], ["z"]]


def test_only_small_files_of_the_manifest_are_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    (tree / "link").symlink_to("../secret")
    (tree / "out").symlink_to("..")
    entries = {"file": entry(size=7), "link": entry("l", 0, "../secret"), "out": entry("l", 0, ".."), "gone": entry()}
    assert small.read(str(tree), entries, "file") == b"content"
    for path in ("link", "out/secret", "../secret", "/etc/hostname", "gone"):
        assert small.read(str(tree), entries, path) is None
    assert small.read(str(tree), {"file": entry(size=small.FILE_BYTES + 1)}, "file") is None
    assert small.read(str(tree), {"link": entry()}, "link") is None, "it is a link by now, and is not followed"


def test_what_is_laid_looks_as_the_manifest_says(tmp_path: Path) -> None:
    wanted = {"d": entry("d", 0)._replace(mtime_ns=0), "d/f": entry(size=3), "d/l": entry("l", 0, "f")._replace(mode=0)}
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_text("half")
    for path, one in wanted.items():
        small.lay(str(tmp_path), path, one, b"abc" if one.kind == "f" else b"")
        seen = observe(str(tmp_path / path))
        assert seen is not None
        assert seen.looks_like(one), path
    assert (tmp_path / "d" / "f").read_bytes() == b"abc"


@pytest.mark.parametrize("parent", [{}, {"x": entry("l", 0, "/etc")}, {"x": entry()}])
def test_a_manifest_with_a_path_below_no_folder_is_refused(parent: dict[str, Entry]) -> None:
    good = manifest({"x": entry("d", 0), "x/passwd": entry()})
    assert Manifest.decode(good.encode()).entries == good.entries
    with pytest.raises(ValueError, match="below what is no folder"):
        Manifest.decode(manifest({**parent, "x/passwd": entry()}).encode())

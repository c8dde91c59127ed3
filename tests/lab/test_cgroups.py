from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from graf.lab import liveness
from graf.lab.cgroups import CgroupTree, Hierarchies, parse_mounts
from graf.lab.errors import LabError

Sleepers = Callable[[int], list[int]]

_V1 = "".join(
    f"cgroup /cg/{name} cgroup rw,relatime,{name} 0 0\n"
    for name in ("cpu", "cpuacct", "cpuset", "memory", "freezer", "pids", "devices", "blkio")
)


class _NoFreezer(CgroupTree):
    """A group of plain files, in which nothing can be frozen."""

    def freeze(self, timeout_s: float = 10.0) -> None: ...
    def thaw(self, timeout_s: float = 10.0) -> None: ...


def _put(root: Path, path: str, *pids: int) -> None:
    """Play the kernel's list of one group below the location's."""
    directory = root / "freezer/graf/l/east" / path
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))


def _fake(root: Path, version: int) -> Hierarchies:
    names = ("cpu", "freezer", "memory") if version == 1 else ("unified",)
    for name in names:
        (root / name).mkdir(exist_ok=True)
    if version == 1:
        return Hierarchies(
            1, tuple(root / n for n in names), root / "freezer", root / "cpu", root / "memory", root / "cpu"
        )
    one = root / "unified"
    return Hierarchies(2, (one,), one, one, one, one)


def test_version_one_hierarchies_are_found_each() -> None:
    found = parse_mounts(_V1 + "cgroup2 /cg/unified cgroup2 rw 0 0\n")
    assert found.version == 1
    assert found.freezer == Path("/cg/freezer")
    assert len(found.roots) == 8


def test_controllers_that_share_a_mount_are_one_hierarchy() -> None:
    text = _V1.replace("/cg/cpuacct", "/cg/cpu")
    assert parse_mounts(text).roots.count(Path("/cg/cpu")) == 1


def test_version_two_alone_is_one_hierarchy() -> None:
    found = parse_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
    assert found.version == 2
    assert found.roots == (Path("/sys/fs/cgroup"),)


def test_a_missing_controller_is_named_with_the_mount_that_helps() -> None:
    with pytest.raises(LabError) as refusal:
        parse_mounts("\n".join(line for line in _V1.splitlines() if "freezer" not in line))
    assert "freezer" in refusal.value.what
    assert "mount -t cgroup -o freezer" in refusal.value.remedy


def test_no_cgroups_at_all_is_said() -> None:
    with pytest.raises(LabError, match="no cgroup hierarchy"):
        parse_mounts("proc /proc proc rw 0 0\n")


def test_the_weight_of_daemons_has_a_place_of_its_own_with_version_one(tmp_path: Path) -> None:
    tree = CgroupTree("graf/l/east/system", _fake(tmp_path, 1), cpu_path="graf/l/daemons/east")
    assert tree.directories() == (
        tmp_path / "cpu/graf/l/daemons/east",
        tmp_path / "freezer/graf/l/east/system",
        tmp_path / "memory/graf/l/east/system",
    )


def test_with_version_two_there_is_one_path(tmp_path: Path) -> None:
    tree = CgroupTree("graf/l/east/system", _fake(tmp_path, 2), cpu_path="graf/l/daemons/east")
    assert tree.directories() == (tmp_path / "unified/graf/l/east/system",)


def test_weights_are_written_in_the_scale_of_each_version(tmp_path: Path) -> None:
    one = CgroupTree("graf", _fake(tmp_path, 1))
    (tmp_path / "cpu/graf").mkdir()
    one.set_shares(512)
    assert (tmp_path / "cpu/graf/cpu.shares").read_text() == "512"
    two = CgroupTree("graf", _fake(tmp_path, 2))
    (tmp_path / "unified/graf").mkdir()
    two.set_shares(512)
    assert (tmp_path / "unified/graf/cpu.weight").read_text() == "50"


def test_a_starved_group_gets_its_quota_and_loses_it_again(tmp_path: Path) -> None:
    tree = CgroupTree("graf", _fake(tmp_path, 2))
    (tmp_path / "unified/graf").mkdir()
    tree.set_quota(0.05)
    assert (tmp_path / "unified/graf/cpu.max").read_text() == "5000 100000"
    tree.set_quota(None)
    assert (tmp_path / "unified/graf/cpu.max").read_text() == "max 100000"


def test_processes_below_the_group_belong_to_it(tmp_path: Path, sleepers: Sleepers) -> None:
    pids = sleepers(3)
    for path, pid in zip(("", "system", "kubepods/pod1/c"), pids, strict=True):
        _put(tmp_path, path, pid)
    assert CgroupTree("graf/l/east", _fake(tmp_path, 1)).pids() == pids


def test_a_zombie_in_the_group_is_no_process_of_it(tmp_path: Path, sleepers: Sleepers, zombie: int) -> None:
    living = sleepers(1)
    _put(tmp_path, "", zombie, *living)
    assert CgroupTree("graf/l/east", _fake(tmp_path, 1)).pids() == living


def test_killing_returns_when_all_have_ended_although_nobody_reaps_them(
    tmp_path: Path, sleepers: Sleepers, zombie: int
) -> None:
    pids = sleepers(2)
    _put(tmp_path, "", zombie, *pids)
    assert _NoFreezer("graf/l/east", _fake(tmp_path, 1)).kill(timeout_s=10) == 2
    assert not any(liveness.is_alive(pid) for pid in pids)
    assert all(liveness.stat_of(pid) for pid in pids), "unreaped children of this test"


def test_killing_waits_for_what_has_left_the_list_and_not_ended_and_names_it(
    tmp_path: Path, sleepers: Sleepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pid,) = sleepers(1)
    _put(tmp_path, "", pid)
    monkeypatch.setattr(os, "kill", lambda *_: _put(tmp_path, ""))
    with pytest.raises(LabError) as refusal:
        _NoFreezer("graf/l/east", _fake(tmp_path, 1)).kill(timeout_s=0.1)
    assert f"{pid} sleep (state S)" in refusal.value.why


def test_freezing_a_location_that_is_not_up_says_so(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not exist"):
        CgroupTree("graf/l/east", _fake(tmp_path, 1)).freeze()

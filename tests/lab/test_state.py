from __future__ import annotations

import threading
from pathlib import Path

import pytest

from graf.lab.errors import LabError
from graf.lab.state import (
    LabState,
    all_labs,
    choose_index,
    current_boot_id,
    exclusive,
    write_atomically,
    write_if_changed,
)
from graf.lab.topology import MAX_INDEX, Topology


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAF_LAB_DIR", str(tmp_path))
    return tmp_path


def test_a_record_reads_back_as_it_was_written() -> None:
    state = LabState(Topology("one", 3), current_boot_id())
    state.write()
    assert LabState.read("one") == state
    assert all_labs() == [state]


def test_a_lab_that_was_never_made_has_no_record() -> None:
    assert LabState.read("none") is None


def test_a_torn_record_is_told_with_the_way_out(state_dir: Path) -> None:
    (state_dir / "bad").mkdir()
    (state_dir / "bad" / "lab.json").write_text('{"name": "bad"')
    with pytest.raises(LabError) as refusal:
        LabState.read("bad")
    assert "down --name bad --force" in refusal.value.remedy
    assert all_labs() == []


def test_a_lab_of_a_former_boot_is_recognised() -> None:
    assert not LabState(Topology("old", 0), "another-boot").survived_boot
    assert LabState(Topology("new", 0), current_boot_id()).survived_boot


def test_a_new_lab_takes_the_lowest_index_that_nothing_uses() -> None:
    assert choose_index("c", {0: "a"}, {1}, None) == 2


def test_a_wanted_index_of_another_lab_is_refused_with_its_name() -> None:
    with pytest.raises(LabError) as refusal:
        choose_index("b", {1: "other"}, set(), 1)
    assert "'other'" in refusal.value.what
    assert "down --name other" in refusal.value.remedy


def test_a_subnet_that_the_machine_uses_is_refused() -> None:
    with pytest.raises(LabError) as refusal:
        choose_index("b", {}, {2}, 2)
    assert "198.18.2.0/24" in refusal.value.what


def test_no_free_index_is_said() -> None:
    with pytest.raises(LabError, match="no subnet is left"):
        choose_index("b", {}, set(range(MAX_INDEX + 1)), None)


def test_two_commands_do_not_change_one_lab_at_once() -> None:
    with exclusive("one"):
        with pytest.raises(LabError, match="another command"), exclusive("one"):
            pass
        with exclusive("two"):
            pass


def test_threads_that_write_one_file_at_once_leave_it_whole(tmp_path: Path) -> None:
    target = tmp_path / "file"
    texts = [letter * 4096 for letter in "abcd"]
    threads = [threading.Thread(target=write_atomically, args=(target, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_unchanged_file_is_not_written_again(tmp_path: Path) -> None:
    target = tmp_path / "file"
    assert write_if_changed(target, "one")
    before = target.stat().st_ino
    assert not write_if_changed(target, "one")
    assert target.stat().st_ino == before
    assert write_if_changed(target, "two")


@pytest.mark.parametrize("name", ["a/b", "..", "", "Lab"])
def test_a_name_that_no_lab_can_have_is_refused_before_a_path_is_made_of_it(name: str, state_dir: Path) -> None:
    with pytest.raises(LabError, match="lab name"):
        LabState.read(name)
    with pytest.raises(LabError, match="lab name"), exclusive(name):
        pass
    assert list(state_dir.iterdir()) == []

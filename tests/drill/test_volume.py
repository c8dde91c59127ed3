"""What a drill concludes about a volume: each check goes red for the fault that it is there for."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from graf.lab.drill.model import SECOND, Check, Result
from graf.lab.drill.volume import (
    Record,
    Told,
    Tree,
    judge_copy,
    judge_kept,
    judge_one_at_a_time,
    judge_promotion,
    look,
    newest_generation,
    read_journal,
)
from graf.lab.drill.volume_writer import FOLDER, WriterConfig, content_of, record_name, run, write_record

FAULT_NS = 100 * SECOND
RUN = 7


def written(site: str = "east", number: int = 20, until_ns: int = FAULT_NS) -> list[Record]:
    """One record each 0.1 s, the last of them at the end."""
    first_ns = until_ns - (number - 1) * SECOND // 10
    return [
        Record(record_name(site, 1, n), first_ns + n * SECOND // 10 - 1000, first_ns + n * SECOND // 10)
        for n in range(number)
    ]


def told(lag_s: float = 0.8, age_s: float = 0.1, promotable: bool = True) -> Told:
    return Told(FAULT_NS - int(age_s * SECOND), lag_s, promotable, "e0000000001-0000000009")


def served(records: list[Record], *wrong: str) -> Tree:
    return Tree("e0000000001-0000000009", frozenset(r.name for r in records), wrong)


def promotion(
    records: list[Record], tree: Tree, said: Told | None, declared_s: float = 10.0
) -> tuple[list[str], list[Check]]:
    checks = judge_promotion("part", records, tree, said, FAULT_NS, declared_s)
    return [check.name.removeprefix("part: ") for check in checks if not check.ok], list(checks)


def test_the_newest_records_within_what_was_told_may_be_lost() -> None:
    records = written()
    red, checks = promotion(records, served(records[:12]), told())
    assert red == []
    assert "8 of 20 records lost" in " ".join(check.detail for check in checks)


def test_a_hole_is_no_point_in_time() -> None:
    records = written()
    red, _ = promotion(records, served([*records[:12], records[14]]), told())
    assert red == ["it is one point in time"]


def test_a_half_copied_generation_is_seen() -> None:
    records = written()
    red, checks = promotion(records, served(records[:12], "records-7/half"), told())
    assert red == ["a complete generation is served"]
    assert any("records-7/half" in check.detail for check in checks)


def test_more_than_the_declared_rpo_is_a_loss_beyond_it() -> None:
    records = written()
    red, _ = promotion(records, served(records[:2]), told(lag_s=5.0), declared_s=1.0)
    assert red == ["lost at most the declared RPO"]


def test_more_than_the_driver_had_told_is_a_loss_beyond_it() -> None:
    records = written()
    red, _ = promotion(records, served(records[:2]), told(lag_s=0.2))
    assert red == ["lost no more than had been told"]


@pytest.mark.parametrize("said", [None, told(promotable=False), told(lag_s=-1.0), told(age_s=3.0)])
def test_a_standby_that_told_nothing_of_use_makes_the_run_invalid(said: Told | None) -> None:
    records = written()
    red, checks = promotion(records, served(records), said)
    assert red == ["the standby had told its RPO"]
    assert [check.result_if_not for check in checks if not check.ok] == [Result.INVALID]


def test_a_drill_that_wrote_nothing_proves_nothing() -> None:
    red, _ = promotion([], served([]), told())
    assert red == ["records were written and kept"]


def test_a_copy_must_be_there_whole() -> None:
    records = written()
    names = [record.name for record in records]
    assert judge_copy("part", served(records), names).ok
    assert not judge_copy("part", served(records[:-1]), names).ok
    assert not judge_copy("part", served(records, "damaged"), names).ok
    assert not judge_copy("part", None, []).ok


def test_a_planned_move_loses_nothing() -> None:
    records = written("west")
    assert judge_kept("part", served(records), records).ok
    assert not judge_kept("part", served(records[1:]), records).ok


def test_two_sites_that_write_at_the_same_time_are_seen() -> None:
    first, second = written("east"), written("west", until_ns=FAULT_NS + 30 * SECOND)
    assert judge_one_at_a_time({"east": first, "west": second}, 1).ok
    late = replace(second[0], sent_ns=FAULT_NS - SECOND // 20)
    assert not judge_one_at_a_time({"east": first, "west": [late, *second[1:]]}, 1).ok
    assert not judge_one_at_a_time({"east": first, "west": written("west", until_ns=FAULT_NS + SECOND // 20)}, 1).ok
    assert not judge_one_at_a_time({"east": first, "west": second}, 2).ok


def generation(folder: Path, records: list[str], **sums: str) -> Path:
    own = folder / "tree" / f"{FOLDER}{RUN}"
    own.mkdir(parents=True)
    entries: dict[str, list[object]] = {own.name: ["d", 493, 0, 0, 0, 0, ""]}
    for name in records:
        write_record(own, name)
        digest = sums.get(name, hashlib.sha256(content_of(name)).hexdigest())
        entries[f"{own.name}/{name}"] = ["f", 420, 0, 0, len(content_of(name)), 0, digest]
    body = json.dumps({"position": folder.name, "entries": entries}).encode()
    (folder / "manifest.json").write_bytes(body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n")
    return folder


def test_a_generation_is_read_against_its_manifest_and_the_records_own_names(tmp_path: Path) -> None:
    folder = generation(tmp_path / "generations" / "e0000000001-0000000002", ["a", "b", "c"], c="0" * 64)
    own = folder / "tree" / f"{FOLDER}{RUN}"
    (own / "b").write_bytes(content_of("b")[:-1])
    (own / "later").write_bytes(content_of("later"))
    tree = look(folder, RUN)
    assert tree.position == "e0000000001-0000000002"
    assert tree.records == {"a", "later", "c"}  # c is a whole record, and not the one of the manifest
    assert set(tree.wrong) == {f"{own.name}/b", "b", f"{own.name}/c"}
    (own / "a").unlink()
    assert f"{own.name}/a" in look(folder, RUN).wrong


def test_a_manifest_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = generation(tmp_path / "g", ["a"])
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes()[:-10])
    with pytest.raises(ValueError, match="not whole"):
        look(folder, RUN)


def test_the_newest_generation_is_found_by_name(tmp_path: Path) -> None:
    assert newest_generation(tmp_path) is None
    for name in ("e0000000001-0000000009", "e0000000001-0000000010"):
        (tmp_path / "generations" / name).mkdir(parents=True)
    found = newest_generation(tmp_path)
    assert found is not None
    assert found.name == "e0000000001-0000000010"


def test_the_writer_writes_only_where_the_volume_is_open_and_tells_what_is_durable(tmp_path: Path) -> None:
    current, journal = tmp_path / "current", tmp_path / "journal"
    (tmp_path / "tree" / f"{FOLDER}6").mkdir(parents=True)
    socket = tmp_path / "driver.sock"
    config = WriterConfig(
        str(current), str(journal), "east", RUN, str(socket), interval_s=0.001, idle_s=0.001, give_up_s=60.0
    )
    stop = threading.Event()
    writer = threading.Thread(target=run, args=(config, stop.is_set))
    writer.start()
    try:
        current.symlink_to("tree")
        assert read_journal(journal) == []
        socket.touch()
        deadline = threading.Event()
        for _ in range(3000):
            if len(read_journal(journal)) >= 5:
                break
            deadline.wait(0.01)
        current.unlink()
    finally:
        stop.set()
        writer.join(30)
    records = read_journal(journal)
    own = tmp_path / "tree" / f"{FOLDER}{RUN}"
    assert len(records) >= 5
    assert all((own / record.name).read_bytes() == content_of(record.name) for record in records)
    assert [record.name for record in records] == sorted(record.name for record in records)
    assert all(record.site == "east" and record.sent_ns < record.acked_ns for record in records)
    assert not (tmp_path / "tree" / f"{FOLDER}6").exists()


def test_a_line_of_the_journal_that_is_not_complete_was_not_told(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_bytes(b"1 2 east-1-1\n3 4 east-1-")
    assert read_journal(journal) == [Record("east-1-1", 1, 2)]
    assert read_journal(tmp_path / "none") == []

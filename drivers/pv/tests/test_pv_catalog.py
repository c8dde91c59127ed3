"""What counts in a repository is decided by the epochs in its snapshots' tags, whatever was written last."""

import pytest
from graf_driver_pv import catalog
from graf_driver_pv.catalog import GENERATION, MARK, Entry, Lock
from graf_driver_pv.position import Position


def entry(
    snapshot: str,
    epoch: int,
    made: int,
    number: int,
    lineage: dict[int, int] | None = None,
    kind: str = GENERATION,
    until: int = 0,
    digest: str = "d",
) -> Entry:
    position = Position(made, number)
    return Entry(snapshot, kind, "east", epoch, position, lineage or {}, 0, until, digest, f"2026-{snapshot}")


def test_tags_give_the_same_entry() -> None:
    written = entry("a", 3, 3, 7, {1: 4, 2: 6}, until=12)
    raw = {"id": "a", "time": "2026-a", "tags": written.tags("vcu/pv")}
    assert catalog.read([raw]) == [written]
    assert all("," not in tag for tag in written.tags("vcu/pv"))
    assert set(catalog.wanted_tags("vcu/pv").split(",")) <= set(written.tags("vcu/pv"))


@pytest.mark.parametrize(
    "tags", [None, [], ["graf-pv"], ["kind=generation", "epoch=x"], ["kind=other", *entry("a", 1, 1, 1).tags("c")[3:]]]
)
def test_a_snapshot_that_cannot_be_understood_is_no_generation(tags: list[str] | None) -> None:
    assert catalog.read([{"id": "a", "time": "2026-a", "tags": tags}]) == []


def test_what_a_deposed_site_writes_later_is_not_chosen() -> None:
    before = [entry("1", 1, 1, 6), entry("2", 1, 1, 7)]
    mark = entry("3", 2, 1, 6, kind=MARK)  # west was promoted with number 6, and has written nothing yet
    late = [entry("4", 1, 1, 8, until=10**15), entry("5", 1, 1, 9, kind=MARK)]
    entries = [*before, mark, *late]
    head = catalog.head_of(entries)
    assert head is mark
    newest = catalog.newest_generation(entries, head)
    assert newest is not None
    assert newest.position == Position(1, 6)
    entries.append(entry("6", 2, 2, 7, {1: 6}))
    head = catalog.head_of(entries)
    assert head is not None
    assert (head.snapshot, head.has(Position(1, 6)), head.has(Position(1, 7))) == ("6", True, False)
    assert catalog.divergent(entries, head) == [Position(1, 8), Position(1, 7)]


def test_a_snapshot_that_proved_unsound_gives_way_to_an_older_one() -> None:
    entries = [entry("1", 1, 1, 1), entry("2", 1, 1, 2)]
    head = catalog.head_of(entries)
    assert head is not None
    older = catalog.newest_generation(entries, head, {"2"})
    assert older is not None
    assert older.snapshot == "1"
    assert catalog.newest_generation(entries, head, {"1", "2"}) is None


def test_a_generation_of_another_life_that_had_the_same_name_is_not_taken() -> None:
    entries = [entry("1", 1, 1, 1, digest="old"), entry("2", 1, 1, 2, digest="old"), entry("3", 2, 1, 2, kind=MARK)]
    head = catalog.head_of(entries)
    assert head is not None
    newest = catalog.newest_generation(entries, head)
    assert newest is not None
    assert newest.snapshot == "1"
    assert catalog.generation_of(entries, Position(1, 2), "d") is None


def test_the_newest_few_stay_and_what_diverged_stays() -> None:
    entries = [entry(str(number), 1, 1, number) for number in range(1, 7)]
    entries += [
        entry("7", 1, 1, 6),
        entry("8", 2, 1, 4, kind=MARK),
        entry("9", 2, 2, 5, {1: 4}),
        entry("a", 2, 2, 6, {1: 4}),
    ]
    doomed = catalog.forgettable(entries, 2, 3)
    assert sorted(doomed) == ["1", "2", "3", "8"]  # of e2-6, e2-5 and e1-4 each one stays; e1-5 and e1-6 diverged


def test_a_deposed_site_forgets_nothing() -> None:
    entries = [entry(str(number), 1, 1, number) for number in range(1, 7)] + [entry("8", 2, 1, 6, kind=MARK)]
    assert catalog.forgettable(entries, 1, 1) == []
    assert catalog.forgettable([], 1, 1) == []
    assert len(catalog.forgettable(entries[:6], 1, 1)) == 5


def test_the_last_thing_said_stays_whatever_it_is() -> None:
    entries = [entry("1", 1, 1, 1), entry("2", 1, 1, 1, kind=MARK, until=5), entry("3", 1, 1, 1, kind=MARK, until=9)]
    assert catalog.forgettable(entries, 1, 1) == ["2"]


def test_only_locks_of_dead_processes_of_this_site_may_all_be_taken_away() -> None:
    own, former, other = Lock("here", 7, True, 5.0), Lock("pod-1", 7, False, 5.0), Lock("there", 7, False, 9000.0)
    assert catalog.all_dead([own, former], "here", {"pod-1"}, {7: False})
    assert not catalog.all_dead([own], "here", {"here"}, {7: True})
    assert not catalog.all_dead([own], "here", (), {}), "not looked at counts as alive"
    assert not catalog.all_dead([own, other], "here", (), {7: False})
    assert not catalog.all_dead([], "here", (), {})

"""The table of cut links: what holds in all of it, and that its generator would notice if it did not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from graf.api.values import Role
from graf.core.view import Contend
from graf.sim import partitions
from graf.sim.controller import Controller
from graf.sim.cuts import (
    LAYOUTS,
    Case,
    Layout,
    Link,
    Seen,
    SiteSeen,
    all_cases,
    distinct_cases,
    manager_variants,
    play,
    symmetric,
    voter_links,
)
from graf.sim.partitions import PartitionError, check, row_of, table_of, without_chance

TWO, WITNESS, THREE = LAYOUTS


def link(one: str, other: str) -> Link:
    return frozenset((one, other))


@pytest.fixture(scope="module")
def seen() -> dict[Case, Seen]:
    return {case: play(case) for layout in LAYOUTS for case in distinct_cases(layout)}


def hears(case: Case, one: str, other: str) -> bool:
    return one == other or link(one, other) not in case.cuts


def majority_around(case: Case, site: str) -> bool:
    voters = case.layout.voters
    return sum(1 for voter in voters if hears(case, site, voter)) > len(voters) // 2


def test_never_do_two_sites_serve_and_every_case_is_well_again_after_healing(seen: dict[Case, Seen]) -> None:
    for case, what in seen.items():
        check(case, what)
        assert len(what.serving) <= 1
        assert what.unwell == ""


def test_the_active_site_serves_if_and_only_if_it_hears_a_majority(seen: dict[Case, Seen]) -> None:
    for case, what in seen.items():
        around = majority_around(case, case.active)
        assert (what.serving == (case.active,)) is around, case
        assert what.sites[case.active].gate_open is around, case
        if not around:
            assert what.sites[case.active].role is not Role.ACTIVE
            assert "NoMajorityVisible" in what.sites[case.active].codes
            assert (case.active, "Fence") in what.records


def test_two_sites_without_a_witness_never_move_and_say_why(seen: dict[Case, Seen]) -> None:
    cases = [case for case in seen if case.layout is TWO]
    assert [seen[case].takeover for case in cases] == [""] * 4
    assert all("NoThirdVoter" in seen[case].sites["west"].codes for case in cases if case.cuts)


def test_with_a_witness_the_other_site_takes_over_iff_it_is_in_the_set_and_hears_the_witness(
    seen: dict[Case, Seen],
) -> None:
    isolated = [
        (case, what) for case, what in seen.items() if case.layout is WITNESS and not majority_around(case, case.active)
    ]
    assert len(isolated) == 4
    for case, what in isolated:
        may = "west" not in case.behind and hears(case, "west", "witness")
        assert what.takeover == ("west" if may else "")
        assert what.serving == (("west",) if may else ())
        if "west" in case.behind:
            assert what.sites["west"].codes == ("NotInSynchronousSet",)


def test_of_three_sites_one_in_the_set_that_hears_another_takes_over_from_an_isolated_one(
    seen: dict[Case, Seen],
) -> None:
    for case, what in seen.items():
        if case.layout is not THREE or majority_around(case, case.active):
            continue
        able = {site for site in THREE.sites[1:] if site not in case.behind and majority_around(case, site)}
        assert (what.takeover in able) if able else (what.takeover == "")
        assert what.serving == ((what.takeover,) if able else ())


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_the_managers_links_change_nothing(layout: Layout, seen: dict[Case, Seen]) -> None:
    cases = distinct_cases(layout)
    for case in (cases[0], cases[len(cases) // 2], cases[-1]):
        for variant in manager_variants(case):
            assert without_chance(play(variant)) == without_chance(seen[case])


def test_no_combination_is_left_out() -> None:
    assert [len(all_cases(layout)) for layout in LAYOUTS] == [2 * 2 * 2, 2 * 2 * 8, 3 * 4 * 8]
    assert [len(voter_links(layout)) for layout in LAYOUTS] == [1, 3, 3]
    assert [len(manager_variants(distinct_cases(layout)[0])) for layout in LAYOUTS] == [4, 8, 8]
    for layout in LAYOUTS:
        assert {symmetric(case) for case in all_cases(layout)} == set(distinct_cases(layout))
        assert all(symmetric(case) == case for case in distinct_cases(layout))


def test_another_placement_gives_the_same_row() -> None:
    case = Case(THREE, "west", frozenset({"east"}), frozenset({link("west", "north"), link("west", "east")}))
    kind = symmetric(case)
    assert (kind.active, kind.behind) == ("east", frozenset({"north"}))
    assert row_of(case, play(case)) == row_of(kind, play(kind))


# -- the generator notices --------------------------------------------------------------------------------------------

CASE = distinct_cases(WITNESS)[0]
QUIET = SiteSeen(Role.STANDBY, gate_open=False, codes=("ActiveElsewhere",))
GOOD = Seen(
    serving=("east",),
    takeover="",
    double=0,
    sites={"east": SiteSeen(Role.ACTIVE, gate_open=True, codes=("Serving",)), "west": QUIET},
    records=(),
    unwell="",
    active_after="east",
)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"double": 1}, "two sites served"),
        ({"serving": ("east", "west")}, "two sites served"),
        ({"unwell": "I8: nobody is active"}, "not well after healing"),
        ({"sites": {**GOOD.sites, "west": replace(QUIET, gate_open=True)}}, "two gates"),
    ],
)
def test_a_case_that_does_what_none_may_do_makes_no_table(changed: dict[str, Any], why: str) -> None:
    check(CASE, GOOD)
    with pytest.raises(PartitionError, match=why):
        check(CASE, replace(GOOD, **changed))


def test_a_failover_that_needs_the_manager_makes_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Controller._apply

    def ask_first(self: Controller, action: Any, now: int) -> None:
        if not isinstance(action, Contend) or self.world.network.both_ways("m1", self.name):
            apply(self, action, now)

    monkeypatch.setattr(Controller, "_apply", ask_first)
    with pytest.raises(PartitionError):
        table_of(WITNESS)


def test_placements_that_differ_make_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        partitions, "play", lambda case: GOOD if case.active == "east" else replace(GOOD, serving=("west",))
    )
    with pytest.raises(PartitionError, match="gives"):
        table_of(TWO)


def test_the_check_fails_on_a_page_that_is_stale_and_passes_on_one_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write: Callable[[list[str]], int] = partitions.main
    monkeypatch.setattr(partitions, "LAYOUTS", (TWO,))
    (tmp_path / partitions.PAGE).parent.mkdir(parents=True)
    assert write(["--check", str(tmp_path)]) == 1
    assert write(["--write", str(tmp_path)]) == 0
    assert write(["--check", str(tmp_path)]) == 0
    page = tmp_path / partitions.PAGE
    page.write_text(page.read_text().replace("NoThirdVoter", "NoMajorityVisible"))
    assert write(["--check", str(tmp_path)]) == 1
    assert "make generate" in capsys.readouterr().err

"""Requirements and checks name each other, and the pages say the same."""

from __future__ import annotations

import re
from pathlib import Path

from graf_driver_sanity.reference import CONTRACT_PAGE, areas_of
from graf_driver_sanity.registry import all_checks
from graf_driver_sanity.requirements import REQUIREMENTS

ROOT = Path(__file__).resolve().parents[3]


def test_every_requirement_has_a_check() -> None:
    proved = {name for one in all_checks() for name in one.requirements}
    assert sorted(set(REQUIREMENTS) - proved) == []


def test_every_check_names_a_requirement_that_there_is() -> None:
    named = {name for one in all_checks() for name in one.requirements}
    assert all(one.requirements for one in all_checks())
    assert sorted(named - set(REQUIREMENTS)) == []


def test_there_are_at_least_120_checks() -> None:
    assert len(all_checks()) >= 120


def test_the_contract_page_has_every_area_of_requirements() -> None:
    assert areas_of((ROOT / CONTRACT_PAGE).read_text()) == {name.split("-")[1] for name in REQUIREMENTS}


def test_no_page_names_a_requirement_that_there_is_not() -> None:
    named = {
        (name, page.relative_to(ROOT).as_posix())
        for page in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "drivers").glob("*/*.md")]
        for name in re.findall(r"GD-[A-Z]+-\d{3}", page.read_text())
    }
    assert {name for name, _ in named}, "no page names any: this test looks at the wrong place"
    assert sorted((name, page) for name, page in named if name not in REQUIREMENTS) == []


def test_every_requirement_says_what_to_do() -> None:
    for requirement in REQUIREMENTS.values():
        assert requirement.level in ("MUST", "SHOULD"), requirement
        assert all((requirement.text, requirement.fix, requirement.rpc)), requirement

"""Each broken variant fails the check that is named for it, and the untouched fake passes all of these."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graf_driver_fake.backend import read_writes
from graf_driver_fake.driver import FakeDriver
from graf_driver_sanity import Config, run
from graf_driver_sanity.config import Budget, Invalid, Side
from graf_driver_sanity.launch import InProcess
from graf_driver_sanity.registry import all_checks
from graf_driver_sanity.requirements import REQUIREMENTS
from graf_driver_sanity.runner import in_words

sys.path.insert(0, str(Path(__file__).parent))
import broken_found  # noqa: F401 - it adds to VARIANTS
from broken import LIMITS, VARIANTS, Variant
from broken_process import PROCESSES

PASSWORD = "correct-horse-battery"
# A variant may fail late, never by being slow: these only bound how long something is waited for in vain.
QUICK = Budget(transition_s=1.0, call_s=2.0, status_s=1.0, short_lease_s=0.3)


def configuration(folder: Path, variant: Variant | None = None, budget: Budget = QUICK) -> Config:
    """The fake in this process, at two sites."""
    variant = variant or Variant("untouched", "")
    for name in ("east", "west", "second"):
        (folder / name).mkdir()
    launchers = {
        "east": InProcess(variant.driver, variant.guard, variant.limits, variant.tweak),
        "west": InProcess(FakeDriver, limits=LIMITS),
    }

    def write(site: str, value: str) -> None:
        driver = launchers[site].driver
        assert isinstance(driver, FakeDriver)
        components = [component for key, component in driver._components.items() if key.component == "thing"]
        if not components or not components[0].write(value):
            raise PermissionError(f"{value} was refused")

    def read(site: str, value: str) -> str:
        return " ".join(read_writes(folder / site) or [])

    def wipe(site: str, value: str) -> None:
        (folder / site / "writes.json").unlink(missing_ok=True)

    def archived(site: str, value: str) -> str:
        return " ".join(json.loads(Path(value).read_text()))

    parameters: dict[str, Any] = {"dataDir": str(folder / "east"), "password": PASSWORD, **variant.parameters}
    return Config(
        name=variant.name,
        site=Side("east", parameters=parameters, launcher=launchers["east"]),
        peer=Side("west", parameters={"dataDir": str(folder / "west")}, launcher=launchers["west"]),
        unreachable_peer={"dataDir": str(folder / "nowhere")},
        second={"dataDir": str(folder / "second")},
        invalid=(
            Invalid("dataDir", {"dataDir": "not/absolute"}),
            Invalid("promoteMs", {"promoteMs": "soon"}),
            Invalid("colour", {"colour": "red"}),
        ),
        secrets=(PASSWORD,),
        hooks={"write": write, "read": read, "wipe": wipe, "archived": archived},
        budget=budget,
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=[variant.name.replace(" ", "-") for variant in VARIANTS])
async def test_a_broken_variant_fails_the_check_that_is_named_for_it(
    variant: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variant.patches.items():
        monkeypatch.setattr(name, value)
    report = await run(configuration(tmp_path, variant), only={variant.check})
    assert [failure.id for failure in report.failures] == [variant.check], report
    assert report.failures[0].seen
    assert report.failures[0].fix


@pytest.mark.parametrize("name", PROCESSES)
async def test_a_broken_process_fails_the_check_that_is_named_for_it(name: str, tmp_path: Path) -> None:
    check = PROCESSES[name][1]
    command = (sys.executable, str(Path(__file__).with_name("broken_process.py")), name)
    parameters = {"dataDir": str(tmp_path), "password": PASSWORD}
    report = await run(Config(Side("east", command=command, parameters=parameters)), only={"identity-probe", check})
    assert report.passed == ["identity-probe"]
    assert [failure.id for failure in report.failures] == [check], report


def test_every_requirement_is_broken_by_a_variant() -> None:
    """A requirement whose checks have never been seen red proves nothing."""
    named = {variant.check for variant in VARIANTS} | {check for _, check in PROCESSES.values()}
    broken = {name for one in all_checks() if one.id in named for name in one.requirements}
    # The fake has nothing that could break behind its back: the real drivers' runs have the hook.
    assert set(REQUIREMENTS) - broken == {"GD-STATUS-009"}


@pytest.mark.timeout(300)
async def test_the_untouched_fake_passes_all_of_these_checks(tmp_path: Path) -> None:
    named = {variant.check for variant in VARIANTS}
    report = await run(configuration(tmp_path, budget=Budget(short_lease_s=0.5)), only=named)
    assert report.failures == []
    # The fake declares everything, so nothing that is undeclared can be refused.
    assert {skip.id for skip in report.skipped} == {"identity-undeclared-quiesce"}


def test_there_are_at_least_forty_variants() -> None:
    assert len(VARIANTS) >= 40
    assert len({variant.name for variant in VARIANTS}) == len(VARIANTS)


async def test_what_a_driver_declares_and_no_check_has_looked_at_is_told_as_unproved(tmp_path: Path) -> None:
    """An always-promotable driver passes where the configuration has no hooks: the report must not look clean."""
    (variant,) = (one for one in VARIANTS if one.name == "always promotable")
    whole = configuration(tmp_path, variant)
    bare = replace(whole, hooks={})
    report = await run(bare, only={variant.check, "role-write-survives-restart"})
    assert report.failures == []
    told = {one.id: one for one in report.unproved}
    assert set(told) == {variant.check, "role-write-survives-restart"}
    one = told[variant.check]
    assert (one.requirement, one.reason) == ("GD-STATUS-006", "there is no hook: configure hooks.write")
    words = in_words(report)
    assert "NOT PROVED, 2 guarantees that the driver declares:" in words
    assert "a driver that always says promotable, also without any data would have passed" in words
    assert words.splitlines()[-1].endswith("2 guarantees NOT PROVED")
    assert report.as_json()["unproved"][0].keys() == {"id", "requirement", "passes", "reason", "accepted"}


async def test_a_run_with_all_hooks_leaves_nothing_unproved(tmp_path: Path) -> None:
    guarding = {one.id for one in all_checks() if one.guards}
    report = await run(configuration(tmp_path, budget=Budget(short_lease_s=0.5)), only=guarding)
    assert (report.failures, report.skipped, report.unproved) == ([], [], [])
    assert "NOT PROVED" not in in_words(report)


async def test_a_hook_that_fails_costs_one_check_and_says_what_it_said(tmp_path: Path) -> None:
    """The report of all others is kept."""

    def failing(site: str, value: str) -> str:
        raise ConnectionError("no route to the client")

    whole = configuration(tmp_path)
    broken = replace(whole, hooks={**whole.hooks, "read": failing})
    report = await run(broken, only={"role-write-survives-fencing", "role-active-accepts-write"})
    assert report.passed == ["role-active-accepts-write"]
    (failure,) = report.failures
    assert failure.seen == "hook read failed: ConnectionError: no route to the client"


async def test_without_a_client_the_report_says_whose_word_it_is(tmp_path: Path) -> None:
    whole = configuration(tmp_path)
    report = await run(replace(whole, hooks={}, skip={one.id: "not now" for one in all_checks()}))
    assert (report.kept, report.passed) == (True, [])
    assert "note: no client was asked" in in_words(report)
    assert report.as_json()["notes"] == report.notes

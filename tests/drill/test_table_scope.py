"""The drill of a scope: what it asks for first, and that each of its findings can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from graf.crd.group import RedundancyGroup
from graf.lab.drill import table_scope
from graf.lab.drill.errors import StepError
from graf.lab.drill.model import Check
from graf.lab.scope import scope_of

EXAMPLE = Path(__file__).parents[2] / "gitops" / "example" / "groups" / "vcu-db.yaml"
RUN = 7


def group(scoped: bool) -> RedundancyGroup:
    document = yaml.safe_load(EXAMPLE.read_text())
    if scoped:
        document["spec"]["components"][0]["parameters"]["scope"] = scope_of("vcu")
    return RedundancyGroup.model_validate(document)


def test_a_lab_without_a_scope_is_told_how_to_get_one() -> None:
    with pytest.raises(StepError, match="graf lab up --name scope --scope"):
        table_scope.scoped_component(group(scoped=False))
    assert table_scope.scoped_component(group(scoped=True)).name == "db"


class Writer:
    """A site's own application that has ended."""

    def __init__(self, site: str) -> None:
        self.acked = {number: number * 1_000_000_000 for number in range(1, 4)}
        self.found = [(site, number) for number in self.acked]

    def stop(self) -> None: ...

    def rows(self) -> list[tuple[str, int]]:
        return self.found


class World:
    """What the sites hold at the end; good unless a test spoils it."""

    def __init__(self) -> None:
        self.writers = {site: Writer(site) for site in ("east", "west")}
        self.orders = {site: [(n,) for n in range(2 * table_scope.ORDERS)] for site in self.writers}
        self.tail: dict[str, list[Any]] = {"east": [], "west": []}
        self.copied: list[Any] = []
        self.kept: list[Any] = [(RUN,)]

    def ask(self, site: str, statement: str) -> list[Any]:
        if table_scope.BESIDE in statement:
            return self.copied if statement.startswith("SHOW") else self.kept
        return self.tail[site] if statement.startswith("SHOW") else self.orders[site]

    def judged(self, monkeypatch: pytest.MonkeyPatch) -> list[Check]:
        class Session:
            preferred, spare = "east", "west"
            checks: list[Check] = []  # noqa: RUF012 - one session
            workload = cast(Any, type("Workload", (), {"run_id": RUN, "now_ns": staticmethod(lambda: 4_000_000_000)}))

        session = Session()
        component = table_scope.scoped_component(group(scoped=True))
        run = table_scope._Run(cast(Any, session), component, cast(Any, self.writers), lambda _: None, lambda _: None)
        monkeypatch.setattr(table_scope._Run, "_ask", lambda _, site, statement: self.ask(site, statement))
        run.tail = cast(Any, type("Tail", (), {"table": "graf_drill_tail_7_1"}))
        run._judge(0)
        return [check for check in session.checks if not check.ok]


def test_a_good_end_has_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert World().judged(monkeypatch) == []


def _lose_own(world: World) -> None:
    world.writers["east"].found.pop()


def _mix(world: World) -> None:
    world.writers["east"].found.append(("west", 1))


def _lose_order(world: World) -> None:
    world.orders["east"].pop()


def _keep_tail(world: World) -> None:
    world.tail["east"].append(("graf_drill_tail_7",))


def _copy(world: World) -> None:
    world.copied.append((table_scope.BESIDE,))


def _wipe(world: World) -> None:
    world.kept.clear()


def _pause(world: World) -> None:
    world.writers["west"].acked = {1: 0}


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_lose_own, "east has every write of its own"),
        (_mix, "east has nothing of the other site's own"),
        (_lose_order, "east has every row of the listed table"),
        (_keep_tail, "east has nothing of the unacknowledged tail"),
        (_copy, "a table beside the listed one was not copied"),
        (_wipe, "it was not touched by the rebuild"),
        (_pause, "the own writes of west went on"),
    ],
)
def test_each_finding_can_fail(monkeypatch: pytest.MonkeyPatch, spoil: Any, name: str) -> None:
    world = World()
    spoil(world)
    if spoil is _pause:
        monkeypatch.setattr(table_scope, "LOCAL_PAUSE_MS", 3_000.0)
        world.writers["west"].found = [("west", 1)]
    assert [check.name for check in world.judged(monkeypatch)] == [name]

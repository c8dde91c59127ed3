"""The drill of a scope: what it asks for first, and that each of its findings can fail."""

from __future__ import annotations

import contextlib
import io
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from rich.console import Console

from graf.crd.group import RedundancyGroup
from graf.lab.drill import table_scope
from graf.lab.drill.errors import StepError
from graf.lab.drill.model import Check
from graf.lab.drill.progress import Progress
from graf.lab.drill.session import Session
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
        run.tail = cast(Any, type("Tail", (), {"table": "graf_drill_tail_7"}))
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


class Fault:
    """A lab that notes what is done to it, and an active site that logs the change of a table or does not."""

    def __init__(self, logs: bool, answers: bool = False) -> None:
        self.done: list[str] = []
        self.logs, self.answers = logs, answers
        self.over = threading.Event()

    def logged(self, _site: str, data_dir: str, statement: str) -> bool:
        assert (data_dir, statement) == ("/var/lib/graf/mysql", f"CREATE TABLE graf_drill_tail_{RUN} (n INT)")
        return self.logs

    def cut_off(self, site: str) -> None:
        self.done.append(f"cut off {site}")

    def reconnect(self, site: str) -> None:
        self.done.append(f"reconnect {site}")

    def kill(self, site: str) -> None:
        self.done.append(f"kill {site}")
        self.over.set()

    def start(self, site: str) -> None:
        self.done.append(f"start {site}")

    def execute(self, statement: str) -> None:
        self.done.append(statement.split(" (")[0])
        if statement.startswith("CREATE") and not self.answers:
            self.over.wait(10)
            raise OSError("the server is gone")

    def lose(self, monkeypatch: pytest.MonkeyPatch) -> Session:
        lab = self
        connection = cast(Any, type("Connection", (), {"close": lambda _: lab.done.append("close")}))()
        connection.cursor = lambda: contextlib.nullcontext(SimpleNamespace(execute=lab.execute))
        monkeypatch.setattr(table_scope._Run, "_connect", lambda *_: connection)
        monkeypatch.setattr(table_scope, "LOGGED_S", 0.1)
        workload = cast(Any, SimpleNamespace(run_id=RUN))
        session = Session(
            cast(Any, self), cast(Any, None), workload, Progress(Console(file=io.StringIO())), "g", "east", "west", None
        )
        component = table_scope.scoped_component(group(scoped=True))
        run = table_scope._Run(session, component, {}, lambda _: None, lambda _: None)
        try:
            run._lose("east")
        finally:
            self.over.set()
            session.heal_all()
        return session


LOCK = "LOCK TABLES graf_drill_writes READ, graf_drill_probe READ"
TAIL = f"CREATE TABLE graf_drill_tail_{RUN}"


def test_the_site_is_killed_when_the_change_of_a_table_is_in_its_log_and_the_clients_queue_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault = Fault(logs=True)
    fault.lose(monkeypatch)
    assert fault.done == [LOCK, "cut off east", TAIL, "close", "kill east", "close", "start east", "reconnect east"]


def test_a_change_that_is_not_logged_is_no_tail_and_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    fault = Fault(logs=False)
    with pytest.raises(StepError, match=r"was not in the log of east after 0\.1 s: it still runs"):
        fault.lose(monkeypatch)
    assert "kill east" not in fault.done
    assert "reconnect east" in fault.done


def test_a_change_that_is_answered_is_no_tail_and_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StepError, match="was answered although east was cut off"):
        Fault(logs=True, answers=True).lose(monkeypatch)

"""A whole run with planted measurements: the engine must judge what was measured, and heal whatever happened."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from rich.console import Console

from graf.crd.group import RedundancyGroup
from graf.lab.drill import engine, session
from graf.lab.drill.errors import DrillError, StepError
from graf.lab.drill.model import MS, SECOND, Ack, Answer, Probe, Raw, Result, Run, Sample, StaleCalls
from graf.lab.drill.progress import Progress
from graf.lab.drill.regressions import scenario_of
from graf.lab.drill.scenarios import Scenario
from graf.lab.drill.session import Session
from graf.scenario.expect import Expect, Finally, Move
from graf.shell.scenarios import builtin_scenarios

EXAMPLE = Path(__file__).parents[2] / "gitops" / "example" / "groups" / "vcu-db.yaml"


def group(epoch: int, fault_ns: int = 0, name: str = "vcu-db") -> RedundancyGroup:
    """The example's group, or a second one that is at home at the other site."""
    base = yaml.safe_load(EXAMPLE.read_text())
    home, spare = "east", "west"
    if name != "vcu-db":
        home, spare = spare, home
        base["metadata"]["name"] = name
        for site in base["spec"]["sites"]:
            site["administrativeRole"] = "preferred" if site["name"] == home else "spare"
    moves = [("Failover", home, spare, 2), ("Failback", spare, home, 3)][: epoch - 1]
    fault_s = time.time() - (time.monotonic_ns() - fault_ns) / SECOND
    history = [
        {
            "id": f"{to}-{number}",
            "kind": "Decision",
            "type": kind,
            "fromSite": away,
            "toSite": to,
            "epoch": number,
            "epochFrom": number - 1,
            "site": to,
            "at": datetime.fromtimestamp(fault_s + (0.8, 2.4)[number - 2], UTC).isoformat(timespec="milliseconds"),
            "phasesMs": {"detect": 600.0, "campaign": 10.0, "activate": 20.0, "traffic": 30.0},
        }
        for kind, away, to, number in moves
    ]
    status = {
        "activeSite": home,
        "epoch": epoch,
        "synchronousSet": {"epoch": epoch, "counter": 1, "members": ["east", "west"]},
        "sites": [
            {"name": home, "role": "Active", "connected": True},
            {"name": spare, "role": "Standby", "connected": True, "promotable": True},
        ],
        "history": history,
    }
    return RedundancyGroup.model_validate({**base, "status": status})


@dataclass
class Planted:
    """Stands for clients and observer: what they "measured" is laid down around the fault."""

    outage_ms: int = 700
    rate: int = 100
    missing: set[tuple[int, int]] = field(default_factory=set)
    dual: bool = False
    blind: bool = False
    fault_ns: int = 0
    run_id: int = 1
    sites: tuple[str, str] = ("east", "west")

    def prepare(self) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def check_alive(self) -> None: ...
    def raw_files(self) -> tuple[()]:
        return ()

    @staticmethod
    def now_ns() -> int:
        return time.monotonic_ns()

    def acked_after(self, since_ns: int) -> list[int]:
        return [since_ns + n for n in range(1_000)]

    def _acks(self) -> list[Ack]:
        period = SECOND // self.rate if self.rate else 1
        before = [self.fault_ns - n * period for n in range(1, 6 * self.rate)]
        after = [self.fault_ns + self.outage_ms * MS + n * period for n in range(2 * self.rate)]
        return [Ack(0, number, at - MS, at) for number, at in enumerate(sorted(before + after))]

    def results(self) -> tuple[list[Ack], list[Any], list[Sample]]:
        samples: list[Sample] = []
        for tick in range(-300, 200 if not self.blind else 20):
            at = self.fault_ns + tick * 20 * MS
            one, other = (Answer.ACCEPTED, Answer.REFUSED) if tick < 0 else (Answer.DOWN, Answer.ACCEPTED)
            if tick > 120:
                one, other = Answer.ACCEPTED, Answer.REFUSED
            if self.dual and tick in (60, 61):
                one = Answer.ACCEPTED
            home, spare = self.sites
            for probe in Probe:
                samples += [Sample(home, probe, at - MS, at, one), Sample(spare, probe, at - MS, at, other)]
        return self._acks(), [], samples

    def ids_at_service(self) -> set[tuple[int, int]]:
        return {(ack.client, ack.seq) for ack in self._acks()} - self.missing

    def ids_at_site(self, _: str) -> set[tuple[int, int]]:
        return self.ids_at_service()


class FakeLab:
    name = "lab"

    def application_password(self, _: str) -> str:
        return "secret"

    def git_dir(self) -> Path:
        return Path("/nowhere")

    def driver_socket_dir(self, _: str) -> Path:
        return Path("/nowhere")


@dataclass
class FakeApi:
    planted: Planted
    epoch: int = 1

    names: tuple[str, ...] = ("vcu-db",)

    def group(self, name: str) -> RedundancyGroup:
        return group(self.epoch, self.planted.fault_ns, name)

    def groups(self) -> list[RedundancyGroup]:
        return [self.group(name) for name in self.names]


@dataclass
class Bench:
    """Runs a script against planted measurements."""

    planted: Planted
    api: FakeApi
    healed: list[str]
    out: Path

    def run(self, script: Callable[[Session], None] | None = None, file: Scenario | None = None) -> tuple[Run, Raw]:
        def good(made: Session) -> None:
            start = made.inject("fault", lambda: None, ("heal", lambda: self.healed.append("heal")))
            self.planted.fault_ns = start
            self.api.epoch = 3
            made.windows.append(engine_window(start))

        moves = ((("Failover",), True), (("Failback",), False))
        scenario = Scenario("site-loss", "planted", moves, script or good)
        if file is not None:
            scenario = replace(file, script=script or good)
        console = Console(file=(self.out / "console").open("w"))
        try:
            drill = engine.Drill(
                cast(Any, FakeLab()), cast(Any, self.api), scenario, "vcu-db", "metro", Progress(console)
            )
            return drill.run(self.out / "run")
        finally:
            console.file.close()


def engine_window(start: int) -> Any:
    from graf.lab.drill.model import Window

    return Window("fault to return", start, start + 2_500 * MS, 1_200.0)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    planted = Planted()
    monkeypatch.setattr(engine, "Workload", lambda *_: planted)
    monkeypatch.setattr(engine, "WARM_UP_S", 0.0)
    monkeypatch.setattr(engine, "RECORD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(engine, "CATCH_UP_TIMEOUT_S", 0.1)
    monkeypatch.setattr(engine, "commit_of_move", lambda *_: "c0ffee")
    monkeypatch.setattr(session, "try_stale_epoch", lambda *_: StaleCalls(refused=2))
    return Bench(planted, FakeApi(planted), [], tmp_path)


def test_a_good_run_passes_with_its_operations_and_their_gaps(bench: Bench) -> None:
    run, raw = bench.run()
    assert run.reasons == ()
    assert run.result is Result.PASS
    assert [(op.type, op.epoch_to, op.git_commit) for op in run.operations] == [
        ("Failover", 2, "c0ffee"),
        ("Failback", 3, "c0ffee"),
    ]
    assert 700 <= run.client.gap_ms_max <= 720
    assert bench.healed == ["heal"]
    assert len(raw.ack_times) == run.client.acked


def test_a_lost_write_fails_the_run_and_names_the_id(bench: Bench) -> None:
    bench.planted.missing = {(0, 17)}
    run, _ = bench.run()
    assert run.result is Result.FAIL
    assert any("1 of" in reason and "1/0/17" in reason for reason in run.reasons)


def test_two_writable_sites_fail_the_run(bench: Bench) -> None:
    bench.planted.dual = True
    run, _ = bench.run()
    assert run.result is Result.FAIL
    assert run.safety.dual_writable_samples == 2
    assert run.safety.dual_served_samples == 2


def test_a_long_outage_fails_the_run(bench: Bench) -> None:
    bench.planted.outage_ms = 1_300
    run, _ = bench.run()
    assert run.result is Result.FAIL
    assert any(reason.startswith("gap in fault to return: 1") for reason in run.reasons)


def test_too_little_load_is_invalid(bench: Bench) -> None:
    bench.planted.rate = 40
    assert bench.run()[0].result is Result.INVALID


def test_an_observer_that_stopped_is_invalid(bench: Bench) -> None:
    bench.planted.blind = True
    run, _ = bench.run()
    assert run.result is Result.INVALID
    assert any("blind" in reason for reason in run.reasons)


def test_a_script_that_fails_is_healed_measured_and_failed(bench: Bench) -> None:
    def script(made: Session) -> None:
        bench.planted.fault_ns = made.inject("fault", lambda: None, ("heal", lambda: bench.healed.append("heal")))
        raise StepError("waited 60 s for west to be active, but active is east")

    run, _ = bench.run(script)
    assert run.result is Result.FAIL
    assert bench.healed == ["heal"]
    assert any("waited 60 s for west to be active" in reason for reason in run.reasons)
    assert run.client.acked > 0


def test_an_interrupted_script_is_healed_and_ends(bench: Bench) -> None:
    def script(made: Session) -> None:
        made.inject("fault", lambda: None, ("heal", lambda: bench.healed.append("heal")))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.run(script)
    assert bench.healed == ["heal"]


def of_two_groups(bench: Bench, other: Planted, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """Both are measured over the same fault; what the second one's users saw is laid down in `other`."""
    planted = iter((bench.planted, other))
    monkeypatch.setattr(engine, "Workload", lambda *_: next(planted))

    def script(made: Session) -> None:
        start = made.inject("fault", lambda: None, ("heal", lambda: bench.healed.append("heal")))
        bench.planted.fault_ns = other.fault_ns = start
        bench.api.epoch = 3
        assert made.beside is not None
        for each in (made, made.beside):
            each.fault_ns = start
            each.windows.append(engine_window(start))

    moves = ((("Failover",), True), (("Failback",), False))
    return Scenario("two-groups", "planted", moves, script, beside=Scenario("two-groups", "the other", moves, script))


def test_a_run_with_two_groups_is_judged_for_both(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.api.names = ("ims-db", "vcu-db")
    other = Planted(sites=("west", "east"))
    file = of_two_groups(bench, other, monkeypatch)
    run, _ = bench.run(file.script, file)
    assert run.reasons == ()
    assert run.result is Result.PASS
    of_the_other = [check.name for check in run.checks if check.name.startswith("ims-db: ")]
    assert "ims-db: no acknowledged write lost" in of_the_other
    assert len(of_the_other) * 2 == len(run.checks)
    assert run.evidence["beside"]["group"] == "ims-db"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"missing": {(0, 17)}}, "ims-db: no acknowledged write lost"),
        ({"dual": True}, "ims-db: no site accepts writes beside the other"),
        ({"outage_ms": 1_300}, "ims-db: gap in fault to return"),
    ],
)
def test_what_goes_wrong_with_the_second_group_fails_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, spoil: dict[str, Any], words: str
) -> None:
    bench.api.names = ("ims-db", "vcu-db")
    file = of_two_groups(bench, Planted(sites=("west", "east"), **spoil), monkeypatch)
    run, _ = bench.run(file.script, file)
    assert run.result is Result.FAIL
    assert any(reason.startswith(words) for reason in run.reasons)


def test_a_lab_with_one_group_is_told_how_to_get_the_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    file = of_two_groups(bench, Planted(), monkeypatch)
    with pytest.raises(DrillError, match="--groups"):
        bench.run(file.script, file)


MOVES = (
    Move(type=("Failover",), from_="preferred", to="spare"),
    Move(type=("Failback",), from_="spare", to="preferred"),
)
END = Finally(active_at="preferred")


def from_file(**expect: Any) -> Scenario:
    """A scenario file with these expectations, as the engine gets it."""
    made = Expect(**{"moves": MOVES, "finally_": END, **expect})
    return scenario_of(builtin_scenarios()["github-2018"].model_copy(update={"expect": made}))


@pytest.mark.parametrize(
    ("met", "missed", "spoil", "words"),
    [
        ({}, {"moves": MOVES[:1]}, {}, "operations as expected"),
        ({"moves": None, "max_moves": 2}, {"moves": None, "max_moves": 1}, {}, "expected 1 at most"),
        ({"lost_writes": 1}, {}, {"missing": {(0, 17)}}, "no acknowledged write lost"),
        ({"dual_active": 2, "dual_served": 2}, {"dual_served": 2}, {"dual": True}, "2 dual-writable samples"),
        ({"dual_active": 2, "dual_served": 2}, {"dual_active": 2}, {"dual": True}, "2 dual-served samples"),
    ],
)
def test_an_expectation_of_a_file_decides_the_run(
    bench: Bench, met: dict[str, Any], missed: dict[str, Any], spoil: dict[str, Any], words: str
) -> None:
    for name, value in spoil.items():
        setattr(bench.planted, name, value)
    assert bench.run(file=from_file(**met))[0].result is Result.PASS
    bench.api.epoch = 1
    run, _ = bench.run(file=from_file(**missed))
    assert run.result is Result.FAIL
    assert any(words in reason for reason in run.reasons)


def test_the_longest_outage_of_a_file_decides_under_its_profile(bench: Bench) -> None:
    def script(made: Session) -> None:
        bench.planted.fault_ns = made.inject("fault", lambda: None, None)
        bench.api.epoch = 3
        made.windows.append(replace(engine_window(bench.planted.fault_ns), limit_ms=made.gap_limit_ms))

    for limits, result in (
        ({"metro": 800}, Result.PASS),
        ({"regional": 1}, Result.PASS),
        ({"metro": 600}, Result.FAIL),
    ):
        bench.api.epoch = 1
        file = from_file(max_outage_ms=limits)
        assert bench.run(script, file)[0].result is result, limits

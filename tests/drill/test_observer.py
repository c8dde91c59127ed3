"""What the observer makes of a real server's answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from graf.lab.drill.errors import DrillError
from graf.lab.drill.lab_port import Account
from graf.lab.drill.model import Answer, Probe, Sample
from graf.lab.drill.observer import CREATE_PROBE, Asker, ObserverConfig, read_samples, run_observer
from graf.lab.drill.workload import Workload


def config(port: int, output: Path, **changes: object) -> ObserverConfig:
    values: dict[str, object] = {
        "sites": {"east": "ns-east"},
        "user": "app",
        "password": "secret",
        "database": "appdb",
        "output": str(output),
        "service_host": "127.0.0.1",
        "port": port,
        "give_up_s": 30.0,
    }
    return ObserverConfig(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.mariadb
def test_it_tells_accepted_from_refused_from_down(mariadb: Any, tmp_path: Path) -> None:
    server = mariadb
    server.admin("USE appdb", CREATE_PROBE)
    settings = config(server.port, tmp_path / "samples")
    write, read = Asker("east", Probe.WRITE, settings), Asker("east", Probe.READ, settings)
    assert (write.ask(), read.ask()) == (Answer.ACCEPTED, Answer.ACCEPTED)
    server.admin("SET GLOBAL read_only=1")
    assert (write.ask(), read.ask()) == (Answer.REFUSED, Answer.ACCEPTED)
    assert write.ask() is Answer.REFUSED, "a refused write keeps its connection and asks again"
    server.kill()
    assert (write.ask(), read.ask()) == (Answer.DOWN, Answer.DOWN)
    assert (write.ask(), read.ask()) == (Answer.DOWN, Answer.DOWN)
    server.start()
    assert (write.ask(), read.ask()) == (Answer.ACCEPTED, Answer.ACCEPTED)
    write.leave()
    read.leave()


@pytest.mark.mariadb
def test_a_write_that_hangs_is_silent_and_never_accepted(mariadb: Any, tmp_path: Path) -> None:
    server = mariadb
    server.admin("USE appdb", CREATE_PROBE)
    asker = Asker("east", Probe.WRITE, config(server.port, tmp_path / "s", write_timeout_s=0.3))
    assert asker.ask() is Answer.ACCEPTED
    server.process.send_signal(19)
    try:
        begun = time.monotonic()
        assert asker.ask() is Answer.SILENT
        assert time.monotonic() - begun > 0.2
    finally:
        server.process.send_signal(18)
    assert asker.ask() is Answer.ACCEPTED
    asker.leave()


def test_a_gate_that_says_nothing_is_silent(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        asker = Asker("east", Probe.READ, config(hole.getsockname()[1], tmp_path / "s", read_timeout_s=0.1))
        assert asker.ask() is Answer.SILENT


@pytest.mark.mariadb
def test_every_question_is_asked_on_the_grid_inside_its_site(mariadb: Any, tmp_path: Path) -> None:
    server = mariadb
    server.admin("USE appdb", CREATE_PROBE)
    settings = config(server.port, tmp_path / "samples")
    entered: list[tuple[str, str]] = []
    stop = threading.Event()
    thread = threading.Thread(
        target=run_observer,
        args=(settings, stop, lambda name: entered.append((threading.current_thread().name, name))),
    )
    thread.start()
    end = time.monotonic() + 20
    samples: list[Sample] = []
    while len(samples) < 60:
        assert time.monotonic() < end, f"only {len(samples)} of 60 samples came"
        time.sleep(0.05)
        samples = read_samples(tmp_path / "samples")
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
    assert sorted(entered) == [("east-read", "ns-east"), ("east-write", "ns-east")]
    for probe in Probe:
        starts = [sample.start_ns for sample in samples if sample.probe is probe]
        assert len(starts) >= 20
        ticks = [start // 20_000_000 for start in starts]
        assert ticks == sorted(set(ticks)), "one question in a tick"
    assert {sample.answer for sample in samples} == {Answer.ACCEPTED}


def test_a_line_that_a_crash_cut_off_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("east write 1 2 accepted\neast read 3 4 acc")
    assert read_samples(tmp_path / "s") == [Sample("east", Probe.WRITE, 1, 2, Answer.ACCEPTED)]


def test_the_newest_answers_can_be_read_while_the_observer_writes(tmp_path: Path) -> None:
    workload = Workload(None, None, ("127.0.0.1", 3306), ("east", "west"), tmp_path)  # type: ignore[arg-type]
    log, now = tmp_path / "observer.log", time.monotonic_ns()
    old, new = now - 5_000_000_000, now - 1_000_000
    log.write_text(f"east write {old} {old} accepted\neast write {new} {new} refused\nwest wri")
    assert workload.recent_samples(1_000_000_000) == [Sample("east", Probe.WRITE, new, new, Answer.REFUSED)]
    with log.open("a") as file:
        file.write(f"te {new} {new} accepted\n")
    assert workload.recent_samples(1_000_000_000) == [
        Sample("east", Probe.WRITE, new, new, Answer.REFUSED),
        Sample("west", Probe.WRITE, new, new, Answer.ACCEPTED),
    ]


class Spawned:
    """A lab whose programs do nothing: the test writes what the observer would."""

    def __init__(self, samples: Path, lines: list[str]) -> None:
        self.samples, self.lines = samples, lines
        self.seen: dict[str, str] = {}  # program: what the observer had written when it was started

    def namespace(self, site: str) -> str:
        return f"ns-{site}"

    def spawn(self, _location: str, argv: Sequence[str], _stderr: Path) -> Any:
        name = argv[2].rpartition(".")[2]
        self.seen[name] = self.samples.read_text()
        if name == "observer":
            self.samples.write_text(
                "".join(f"{line} {(now := time.monotonic_ns())} {now} down\n" for line in self.lines)
            )
        return SimpleNamespace(poll=lambda: None, stdin=None, wait=lambda _: 0)


def started(tmp_path: Path, lines: list[str]) -> Spawned:
    lab = Spawned(tmp_path / "observer.log", lines)
    Workload(cast(Any, lab), Account("u", "p", "d"), ("127.0.0.1", 3306), ("east", "west"), tmp_path).start()
    return lab


def test_the_clients_begin_when_the_observer_has_an_answer_to_each_question(tmp_path: Path) -> None:
    """Else it is blind to their first writes, for as long as a busy machine takes to start it."""
    lab = started(tmp_path, ["east write", "east read", "west write", "west read"])
    assert list(lab.seen) == ["observer", "clients"]
    assert len(lab.seen["clients"].splitlines()) == 4


def test_an_observer_without_an_answer_is_told_before_there_is_any_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graf.lab.drill.workload.OBSERVER_TIMEOUT_S", 0.1)
    with pytest.raises(DrillError, match="nothing of west/read"):
        started(tmp_path, ["east write", "east read", "west write"])

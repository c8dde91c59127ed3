"""What a drill concludes about an application: each check goes red for the fault that it is there for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from graf.lab.drill import application_server
from graf.lab.drill.application import Part, Told, beside_s, judge_one_at_a_time, judge_part, read
from graf.lab.drill.application_server import digest_of
from graf.lab.drill.application_watch import WatchConfig, ask, run
from graf.lab.drill.model import SECOND, Result

MOVED_NS = 100 * SECOND
STEP_NS = SECOND // 20
KEY = digest_of("key")


def told(at_ns: int, site: str, probe: str = "users", plan: str = "p1", key: str = KEY, place: str = "") -> Told:
    where = place or ("users" if probe == "users" else site)
    return Told(probe, where, at_ns - SECOND // 1000, at_ns, site, plan, key)


def answers(site: str, begin_ns: int, end_ns: int, probe: str = "users") -> list[Told]:
    return [told(at, site, probe) for at in range(begin_ns, end_ns, STEP_NS)]


def moved(gap_s: float = 2.0) -> list[Told]:
    """East until the move, then west."""
    west_ns = MOVED_NS + int(gap_s * SECOND)
    return [
        line
        for probe in ("users", "gate")
        for line in (
            *answers("east", MOVED_NS - 5 * SECOND, MOVED_NS, probe),
            *answers("west", west_ns, west_ns + 5 * SECOND, probe),
        )
    ]


PART = Part("part", "west", MOVED_NS, MOVED_NS + 7 * SECOND, "p1", KEY)


def red(seen: list[Told], limit_s: float = 3.0) -> list[str]:
    return [check.name.removeprefix("part: ") for check in judge_part(PART, seen, limit_s) if not check.ok]


def test_a_move_in_time_with_the_right_configuration_passes() -> None:
    assert red(moved()) == []
    assert all(check.ok for check in judge_one_at_a_time(moved(), ("east", "west")))


@pytest.mark.parametrize("wrong", [{"plan": "p0"}, {"key": digest_of("old")}, {"plan": "-"}])
def test_a_single_answer_with_another_configuration_is_seen(wrong: dict[str, str]) -> None:
    seen = [*moved(), told(MOVED_NS + 3 * SECOND, "west", **wrong)]
    assert red(seen) == ["with the ConfigMap and the Secret that were written at the other site"]


def test_nobody_who_answers_is_no_configuration_either() -> None:
    assert len(red(answers("east", MOVED_NS - SECOND, MOVED_NS))) == 3
    assert len(red([])) == 3


def test_an_outage_over_the_limit_is_seen() -> None:
    assert red(moved(gap_s=3.5)) == ["the application is back in time"]


def test_two_sites_that_serve_at_once_are_seen_wherever_they_were_asked() -> None:
    late = told(MOVED_NS + 3 * SECOND, "east", "gate")
    for seen in ([*moved(), late], [*moved(), told(MOVED_NS + 3 * SECOND, "east")]):
        names = [check.name for check in judge_one_at_a_time(seen, ("east", "west")) if not check.ok]
        assert names == ["no two sites served the application at the same time"]


def test_an_application_that_only_runs_past_the_gate_is_told_and_convicts_nobody() -> None:
    beside = answers("east", MOVED_NS + 3 * SECOND, MOVED_NS + 5 * SECOND, "direct")
    assert beside_s([*moved(), *beside]) == pytest.approx(2.0, abs=0.2)
    assert beside_s(moved()) == 0.0
    checks = judge_one_at_a_time([*moved(), *beside], ("east", "west"))
    assert all(check.ok for check in checks)
    assert "reached by nobody, beside the other site's for 2." in checks[-1].detail


def test_a_gate_that_leads_to_the_other_site_is_seen() -> None:
    seen = [*moved(), told(MOVED_NS + 3 * SECOND, "west", "gate", place="east")]
    names = [check.name for check in judge_one_at_a_time(seen, ("east", "west")) if not check.ok]
    assert names == ["a site's own gate leads to its own application"]


def test_a_site_that_never_served_proves_nothing() -> None:
    first, *_ = judge_one_at_a_time(answers("east", 0, SECOND), ("east", "west"))
    assert not first.ok
    assert first.result_if_not is Result.INVALID


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    (tmp_path / "plan").write_text("p7")
    (tmp_path / "key").write_text("secret-of-this-test")
    monkeypatch.setattr(application_server, "PLAN_FILE", tmp_path / "plan")
    monkeypatch.setattr(application_server, "KEY_FILE", tmp_path / "key")
    monkeypatch.setenv("SITE", "east")
    server = ThreadingHTTPServer(("127.0.0.1", 0), application_server._Requests)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def test_the_watch_writes_down_who_answered_and_never_the_key(served: int, tmp_path: Path) -> None:
    output = tmp_path / "application.log"
    config = WatchConfig("ns-users", {"east": "ns-east"}, "127.0.0.1", served, str(output), period_s=0.01)
    stop = threading.Event()
    entered: list[str] = []
    watching = threading.Thread(target=run, args=(config, stop, entered.append), daemon=True)
    watching.start()
    for _ in range(500):
        if {line.probe for line in read(output)} == {"users", "gate", "direct"}:
            break
        stop.wait(0.01)
    stop.set()
    watching.join(5)
    found = read(output)
    assert {(line.probe, line.place) for line in found} == {("users", "users"), ("gate", "east"), ("direct", "east")}
    assert {(line.site, line.plan, line.key) for line in found} == {("east", "p7", digest_of("secret-of-this-test"))}
    assert sorted(entered) == ["ns-east", "ns-east", "ns-users"]
    assert "secret-of-this-test" not in output.read_text()


def test_nobody_there_is_no_answer_and_half_a_line_is_none(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), application_server._Requests) as server:
        port = server.server_address[1]
    assert ask("127.0.0.1", port, 0.2) is None
    assert read(tmp_path / "none") == []
    (tmp_path / "log").write_text("users users 1 2 east p1 k\nusers users 3 4 ea")
    assert [line.start_ns for line in read(tmp_path / "log")] == [1]


def test_an_application_without_its_configuration_says_so(tmp_path: Path) -> None:
    assert b'"plan": ""' in application_server.answer("east", tmp_path / "plan", tmp_path / "key")

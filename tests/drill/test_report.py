"""The reports hold what they promise, whatever the run looked like."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from graf.lab.drill import report, svg
from graf.lab.drill.model import (
    MS,
    SECOND,
    Answer,
    Check,
    ClientSummary,
    Marker,
    MeasuredWindow,
    Operation,
    Probe,
    Raw,
    Result,
    Run,
    SafetySummary,
    Sample,
)

FAULT = 100 * SECOND
PHASES = {"detect": 640.0, "campaign": 20.0, "activate": 70.0, "traffic": 90.0}


def a_run(result: Result = Result.PASS) -> Run:
    checks = () if result is Result.PASS else (Check("no acknowledged write lost", False, "2 <lost> & gone"),)
    return Run(
        scenario="site-loss",
        profile="metro",
        group="vcu-db",
        started_wall_ms=1_700_000_000_000,
        origin_ns=FAULT,
        result=result,
        checks=(Check("clients wrote", True, "1,200 writes"), *checks),
        client=ClientSummary(1_200, 0, 840.0, 31, 99.2),
        safety=SafetySummary(0, 0, 0, 4, {"east/write": 900}, {"east/write": 41.0}),
        operations=(
            Operation("Failover", "east", "west", 1, 2, 840.0, 0, PHASES, "a" * 40, FAULT + 850 * MS),
            Operation("Failback", "west", "east", 2, 3, 120.0, 0, {"traffic": 60.0}, "b" * 40, FAULT + 20 * SECOND),
        ),
        windows=(MeasuredWindow("fault to return", FAULT, FAULT + 30 * SECOND, 840.0, 1_200.0, True),),
        markers=(Marker(FAULT, "drill", "fault: kill everything at east"), Marker(FAULT + SECOND, "west", "<b>x</b>")),
        steps=({"step": "west takes over", "seconds": 0.9, "outcome": "done", "detail": ""},),
    )


def raw() -> Raw:
    times = [FAULT - 5 * SECOND + n * 10 * MS for n in range(500)]
    times += [FAULT + 840 * MS + n * 10 * MS for n in range(2_900)]
    samples = []
    for tick in range(-250, 1_500):
        at = FAULT + tick * 20 * MS
        east = Answer.ACCEPTED if tick < 0 else Answer.DOWN
        west = Answer.ACCEPTED if tick > 42 else Answer.REFUSED
        for probe in Probe:
            samples += [Sample("east", probe, at - MS, at, east), Sample("west", probe, at - MS, at, west)]
    return Raw(tuple(times), tuple(samples))


def test_report_json_has_the_promised_shape(tmp_path: Path) -> None:
    report.write(tmp_path, "site-loss", "kill -9 of everything", "metro", [(a_run(), raw())])
    data = json.loads((tmp_path / "report.json").read_text())
    assert {"scenario", "profile", "runs", "verdict"} <= set(data)
    run = data["runs"][0]
    assert {"scenario", "profile", "result", "client", "safety", "operations"} <= set(run)
    assert {"acked", "lost", "gap_ms_max", "errors"} <= set(run["client"])
    assert {"dual_writable_samples", "dual_served_samples", "stale_epoch_accepted"} <= set(run["safety"])
    operation = run["operations"][0]
    assert set(operation) == {
        "type",
        "from",
        "to",
        "epoch_from",
        "epoch_to",
        "rto_ms",
        "rpo_writes",
        "phases_ms",
        "git_commit",
    }
    assert set(operation["phases_ms"]) == {"detect", "campaign", "activate", "traffic"}
    assert data["verdict"] == "pass"


def test_the_page_needs_nothing_beside_itself_and_escapes_what_it_was_told(tmp_path: Path) -> None:
    report.write(tmp_path, "site-loss", "kill -9 of everything", "metro", [(a_run(Result.FAIL), raw())])
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!#)""", page)
    assert "http://www.w3.org/2000/svg" in page
    assert page.count("http") == page.count("http://www.w3.org/2000/svg")
    assert "<b>x</b>" not in page
    assert "2 &lt;lost&gt; &amp; gone" in page
    assert page.count("<svg") == 2
    assert "840 ms" in page


def test_the_markdown_says_verdict_and_phases(tmp_path: Path) -> None:
    report.write(tmp_path, "site-loss", "kill -9 of everything", "metro", [(a_run(), raw()), (a_run(), raw())])
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Drill site-loss: pass")
    assert "| Failover east → west | 1 → 2 | 840 ms | 0 | 640 | 20 | 70 | 90 | aaaaaaaaaaaa |" in text
    assert text.count("## Run") == 2


def test_the_timeline_is_well_formed_and_shows_each_site_twice(tmp_path: Path) -> None:
    run, data = a_run(), raw()
    for span in (svg.whole(run, data), svg.around_fault(run, data)):
        tree = ElementTree.fromstring(svg.timeline(run, data, span))
        texts = [element.text for element in tree.iter() if element.tag.endswith("text")]
        for label in ("east writable", "east served", "west writable", "west served", "850 ms"):
            assert label in texts
        width = float(tree.attrib["viewBox"].split(" ")[2])
        for rect in (element for element in tree.iter() if element.tag.endswith("rect")):
            assert 0 <= float(rect.attrib["x"]) <= width
            assert float(rect.attrib["width"]) >= 0
    fault_to_service = svg.around_fault(run, data)
    assert fault_to_service.start_ns < FAULT < FAULT + 840 * MS < fault_to_service.end_ns


def test_a_run_that_measured_nothing_still_has_its_report(tmp_path: Path) -> None:
    empty = replace(a_run(Result.FAIL), operations=(), windows=(), markers=(), client=ClientSummary(0, 0, 0.0, 0, 0.0))
    data = report.write(tmp_path, "site-loss", "kill", "metro", [(empty, Raw((), ()))])
    assert data["verdict"] == "fail"
    assert "nothing moved" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("result", list(Result))
def test_the_terminal_says_the_result_and_why(result: Result) -> None:
    console = Console(record=True, width=160, file=Path("/dev/null").open("w"))  # noqa: SIM115
    run = replace(a_run(Result.FAIL if result is Result.FAIL else Result.PASS), result=result)
    report.show(console, run)
    console.file.close()
    text = console.export_text()
    assert str(result) in text
    assert "Failover east -> west" in text
    assert "640 ms" in text
    assert ("2 <lost> & gone" in text) is (result is Result.FAIL)

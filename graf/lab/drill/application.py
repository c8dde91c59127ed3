"""What a drill finds out about an application: who answered with what. Judged purely."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graf.lab.drill.measure import longest_gap
from graf.lab.drill.model import SECOND, Answer, Check, Probe, Result, Sample
from graf.lab.drill.overlap import dual_ticks


@dataclass(frozen=True, slots=True)
class Told:
    """One answer of the application. `place` is where it was asked, `site` where it says that it runs."""

    probe: str
    place: str
    start_ns: int
    end_ns: int
    site: str
    plan: str
    key: str


@dataclass(frozen=True, slots=True)
class Part:
    """One move: from when on the application is served at `site`, and with what."""

    name: str
    site: str
    begin_ns: int
    end_ns: int
    plan: str
    key: str


def read(path: Path) -> list[Told]:
    """What the watch wrote; a line that is not complete is left out."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    found = []
    for line in text.split("\n")[:-1]:
        probe, place, start, end, site, plan, key = line.split(" ")
        found.append(Told(probe, place, int(start), int(end), site, plan, key))
    return found


def served(answers: Iterable[Told]) -> list[Told]:
    """Those that came through a gate: what users get, or would get at that site."""
    return [told for told in answers if told.probe != "direct"]


def judge_one_at_a_time(answers: Sequence[Told], sites: Sequence[str]) -> tuple[Check, ...]:
    """Never two sites that serve it, judged as for the database; and that both were seen to serve at all."""
    through = served(answers)
    samples = [Sample(told.site, Probe.READ, told.start_ns, told.end_ns, Answer.ACCEPTED) for told in through]
    strangers = sorted({f"{told.place} got {told.site}" for told in through if told.place not in ("users", told.site)})
    dual = dual_ticks(samples, Probe.READ)
    count = {site: sum(told.site == site for told in through) for site in sites}
    behind = beside_s(answers)
    detail = f"{len(dual)} ticks of {len(through)} answers; it ran, reached by nobody, beside the other site's for "
    return (
        Check("the application was served at both sites", all(count.values()), str(count), Result.INVALID),
        Check("a site's own gate leads to its own application", not strangers, ", ".join(strangers) or "so it was"),
        Check("no two sites served the application at the same time", not dual, f"{detail}{behind:.1f} s"),
    )


def beside_s(answers: Sequence[Told]) -> float:
    """For how long it ran at one site, past the gate, within a second of being served at another one."""
    through = sorted(((told.end_ns, told.site) for told in served(answers)), key=lambda one: one[0])
    seconds: set[tuple[int, int]] = set()
    at = 0
    for told in sorted((t for t in answers if t.probe == "direct"), key=lambda t: t.end_ns):
        while at < len(through) and through[at][0] < told.end_ns - SECOND // 2:
            at += 1
        near = [site for end, site in through[at : at + 200] if end <= told.end_ns + SECOND // 2]
        if any(site != told.site for site in near):
            seconds.add((told.end_ns // (SECOND // 10), 0))
    return len(seconds) / 10


def judge_part(part: Part, answers: Sequence[Told], limit_s: float) -> tuple[Check, ...]:
    """After a move: users were answered there, with the configuration that was written at the other site last."""
    mine = [t for t in answers if t.probe == "users" and part.begin_ns <= t.start_ns and t.end_ns <= part.end_ns]
    there = [told for told in mine if told.site == part.site]
    wrong = sorted({f"{t.plan}/{t.key}" for t in there if (t.plan, t.key) != (part.plan, part.key)})
    times = sorted(told.end_ns for told in answers if told.probe == "users")
    gap_s = longest_gap(times, part.begin_ns, part.end_ns).ms / 1000 if times else float("inf")
    wanted = f"plan {part.plan}, key {part.key}"
    return (
        Check(f"{part.name}: users are answered by {part.site}", bool(there), f"{len(there)} answers"),
        Check(
            f"{part.name}: with the ConfigMap and the Secret that were written at the other site",
            bool(there) and not wrong,
            f"{wanted}; wrong: {', '.join(wrong)}" if wrong else wanted,
        ),
        Check(
            f"{part.name}: the application is back in time",
            gap_s <= limit_s,
            f"users without an answer for {gap_s:.2f} s (limit {limit_s:g} s)",
        ),
    )

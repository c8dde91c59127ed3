"""When two sites did the same thing at the same time: the observer's samples judged. Pure.

An answer counts at the time it was *received*, never when it was asked: a request that hangs over a failover and
is never answered is no acceptance, one that is answered late counts late. Two rules, either of which convicts:

- *same tick*: both sites answered within one tick of the common 20 ms grid;
- *interleaved*: a site answered a question that was *asked* after the other site had answered, and the other site
  answered again afterwards, all within one second. Sites that alternate like this were both on, even if no two
  answers met in one tick. A move there and back takes longer than that: its stabilisation window alone does.

Both rules can only convict too often (an answer that the observer was slow to read counts late), never too seldom
for what was sampled; how long the observer saw nothing is reported beside the counts (`blind_ms_max`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from graf.lab.drill.model import MS, SECOND, Answer, Probe, Sample

TICK_NS = 20 * MS
INTERLEAVE_SPAN_NS = SECOND


def accepted(samples: Iterable[Sample], probe: Probe) -> dict[str, list[Sample]]:
    """Accepted answers to `probe` by site, in order of receipt."""
    by_site: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.probe is probe and sample.answer is Answer.ACCEPTED:
            by_site.setdefault(sample.site, []).append(sample)
    for answers in by_site.values():
        answers.sort(key=lambda sample: sample.end_ns)
    return by_site


def dual_ticks(samples: Iterable[Sample], probe: Probe) -> list[int]:
    """Grid ticks (time // 20 ms) at which two sites answered, by either rule, in order and once each."""
    by_site = accepted(samples, probe)
    ticks: set[int] = set()
    sites = sorted(by_site)
    for index, one in enumerate(sites):
        for other in sites[index + 1 :]:
            ticks |= _same_ticks(by_site[one], by_site[other])
            ticks |= _interleaved(by_site[one], by_site[other])
            ticks |= _interleaved(by_site[other], by_site[one])
    return sorted(ticks)


def _same_ticks(one: Sequence[Sample], other: Sequence[Sample]) -> set[int]:
    return {sample.end_ns // TICK_NS for sample in one} & {sample.end_ns // TICK_NS for sample in other}


def _interleaved(inner: Sequence[Sample], outer: Sequence[Sample]) -> set[int]:
    """Ticks of answers of `inner` that lie between two answers of `outer`, close together."""
    received = [sample.end_ns for sample in outer]
    asked = sorted(sample.start_ns for sample in outer)
    found: set[int] = set()
    for sample in inner:
        before = bisect_right(received, sample.start_ns) - 1
        after = bisect_left(asked, sample.end_ns)
        if before < 0 or after >= len(asked):
            continue
        if asked[after] - received[before] <= INTERLEAVE_SPAN_NS:
            found.add(sample.end_ns // TICK_NS)
    return found


def blind_ms_max(samples: Iterable[Sample], start_ns: int, end_ns: int) -> dict[str, float]:
    """Longest time, by `site/probe`, during which the observer had no question open and no answer: its own stalls."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for sample in samples:
        spans.setdefault(f"{sample.site}/{sample.probe}", []).append((sample.start_ns, sample.end_ns))
    result = {}
    for name, intervals in spans.items():
        seen_until, worst = start_ns, 0
        for begin, end in sorted(intervals):
            if end < start_ns or begin > end_ns:
                continue
            worst = max(worst, begin - seen_until)
            seen_until = max(seen_until, end)
        result[name] = max(worst, end_ns - seen_until) / MS
    return result


def counts(samples: Iterable[Sample]) -> dict[str, int]:
    """How many samples there are by `site/probe`."""
    result: dict[str, int] = {}
    for sample in samples:
        name = f"{sample.site}/{sample.probe}"
        result[name] = result.get(name, 0) + 1
    return result


def lanes(samples: Iterable[Sample], probe: Probe, site: str, merge_ns: int) -> list[tuple[int, int, Answer]]:
    """The site's answers as coloured intervals: neighbours of the same kind closer than `merge_ns` become one."""
    mine = sorted((s for s in samples if s.site == site and s.probe is probe), key=lambda s: s.end_ns)
    result: list[tuple[int, int, Answer]] = []
    for sample in mine:
        if result and result[-1][2] is sample.answer and sample.end_ns - result[-1][1] <= merge_ns:
            result[-1] = (result[-1][0], sample.end_ns, sample.answer)
        else:
            begin = max(sample.start_ns, result[-1][1]) if result else sample.start_ns
            result.append((begin, max(begin, sample.end_ns), sample.answer))
    return result

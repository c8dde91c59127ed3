"""Two sites at once: planted wrong data must be found, right data must not."""

from __future__ import annotations

from graf.lab.drill import overlap
from graf.lab.drill.model import MS, Answer, Probe, Sample

TICK = 20


def answers(site: str, times_ms: list[int], answer: Answer = Answer.ACCEPTED, took_ms: int = 1) -> list[Sample]:
    return [Sample(site, Probe.WRITE, (t - took_ms) * MS, t * MS, answer) for t in times_ms]


def grid(first_ms: int, last_ms: int) -> list[int]:
    return list(range(first_ms, last_ms, TICK))


def dual(samples: list[Sample]) -> int:
    return len(overlap.dual_ticks(samples, Probe.WRITE))


def test_a_clean_move_there_and_back_is_no_overlap() -> None:
    samples = (
        answers("east", grid(1, 1_000)) + answers("west", grid(1_100, 9_000)) + answers("east", grid(9_100, 12_000))
    )
    assert dual(samples) == 0


def test_both_sites_in_one_tick_are_counted_once_per_tick() -> None:
    samples = answers("east", [5, 25, 45]) + answers("west", [15, 55])
    assert overlap.dual_ticks(answers("east", [5]) + answers("west", [15]), Probe.WRITE) == [0]
    assert dual(samples) >= 1


def test_a_long_overlap_has_a_sample_for_each_tick() -> None:
    samples = answers("east", grid(1, 2_001)) + answers("west", grid(1_005, 3_001))
    assert dual(samples) == 50


def test_one_late_write_between_two_of_the_new_active_is_found_even_in_a_tick_of_its_own() -> None:
    # West answers in ticks 50 and 52 and is slow in between; east accepts one more in tick 51.
    samples = answers("west", [1_005, 1_045]) + answers("east", [1_025])
    assert overlap.dual_ticks(samples, Probe.WRITE) == [51]


def test_a_question_asked_before_the_other_site_answered_is_not_interleaved() -> None:
    # The old active's answer comes late, but the question is older than the new active's first answer.
    samples = answers("west", [1_005, 1_045]) + answers("east", [1_025], took_ms=30)
    assert dual(samples) == 0


def test_refused_silent_and_hung_questions_are_never_acceptance() -> None:
    samples = answers("east", grid(1, 1_000))
    for answer in (Answer.REFUSED, Answer.SILENT, Answer.DOWN):
        samples += answers("west", grid(1, 1_000), answer)
    assert dual(samples) == 0


def test_an_answer_counts_when_it_was_received_not_when_it_was_asked() -> None:
    samples = answers("east", [990], took_ms=900) + answers("west", [100, 120])
    assert dual(samples) == 0
    assert dual(answers("east", [990], took_ms=900) + answers("west", [985])) == 1


def test_reads_and_writes_are_judged_apart() -> None:
    samples = [
        Sample("east", Probe.READ, 0, 5 * MS, Answer.ACCEPTED),
        Sample("west", Probe.WRITE, 0, 6 * MS, Answer.ACCEPTED),
    ]
    assert overlap.dual_ticks(samples, Probe.WRITE) == []
    assert overlap.dual_ticks(samples, Probe.READ) == []


def test_the_observer_s_own_blind_spell_is_reported() -> None:
    samples = answers("east", [10, 30, 700, 720])
    assert overlap.blind_ms_max(samples, 0, 720 * MS) == {"east/write": 669.0}


def test_a_hung_question_is_no_blind_spell() -> None:
    samples = answers("east", [10]) + answers("east", [1_000], Answer.SILENT, took_ms=980)
    assert overlap.blind_ms_max(samples, 0, 1_000 * MS)["east/write"] == 10.0


def test_an_observer_that_stopped_early_is_blind_until_the_end() -> None:
    assert overlap.blind_ms_max(answers("east", [10]), 0, 5_000 * MS)["east/write"] == 4_990.0


def test_lanes_merge_neighbours_and_keep_every_change() -> None:
    samples = answers("east", [10, 30, 50]) + answers("east", [70, 90], Answer.DOWN) + answers("east", [110])
    kinds = [answer for _, _, answer in overlap.lanes(samples, Probe.WRITE, "east", 100 * MS)]
    assert kinds == [Answer.ACCEPTED, Answer.DOWN, Answer.ACCEPTED]

"""The timeline of a run as inline SVG: writes per bin, the gap, what each site answered, events. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from graf.lab.drill import measure, overlap
from graf.lab.drill.model import MS, SECOND, Answer, Probe, Raw, Run

WIDTH, LEFT, RIGHT = 1120, 150, 16
STRIP, LANE, STEP = 90, 18, 24
COLOURS = {
    Answer.ACCEPTED: ("#2e9e5b", "accepted"),
    Answer.REFUSED: ("#e0a030", "refused (read-only)"),
    Answer.SILENT: ("#8a6fc8", "no answer (gate shut, frozen, or held)"),
    Answer.DOWN: ("#9aa3ad", "down"),
}
_TITLES = {Probe.WRITE: "writable", Probe.READ: "served"}


@dataclass(frozen=True, slots=True)
class Span:
    """Part of the run that a picture shows."""

    start_ns: int
    end_ns: int
    bin_ms: int

    def x(self, at_ns: int) -> float:
        """Horizontal place of a moment, kept inside the picture."""
        inside = min(max(at_ns, self.start_ns), self.end_ns)
        return LEFT + (inside - self.start_ns) / (self.end_ns - self.start_ns) * (WIDTH - LEFT - RIGHT)


def whole(run: Run, raw: Raw) -> Span:
    """The whole run, from five seconds before the fault to the end of the last window."""
    end = max([w.end_ns for w in run.windows] + list(raw.ack_times[-1:]) + [run.origin_ns + SECOND])
    start = run.origin_ns - 5 * SECOND
    return Span(start, end, max(100, int((end - start) / MS / 300 // 50 * 50)))


def around_fault(run: Run, raw: Raw) -> Span:
    """Half a second before the fault to well after the users are served again."""
    gap = measure.longest_gap(raw.ack_times, run.origin_ns, whole(run, raw).end_ns)
    near = gap.end_ns if gap.end_ns - run.origin_ns < 20 * SECOND else run.origin_ns + 2 * SECOND
    return Span(run.origin_ns - SECOND // 2, max(near + SECOND // 2, run.origin_ns + 2 * SECOND), 20)


def timeline(run: Run, raw: Raw, span: Span) -> str:
    """One picture."""
    sites = sorted({sample.site for sample in raw.samples})
    lanes = [(site, probe) for site in sites for probe in Probe]
    top = 26
    lanes_top = top + STRIP + 14
    height = lanes_top + len(lanes) * STEP + 30
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" xmlns="http://www.w3.org/2000/svg" role="img" '
        f'aria-label="timeline of {escape(run.scenario)}">'
    ]
    parts += _strip(raw, span, top)
    parts += _gaps(run, raw, span, top, lanes_top + len(lanes) * STEP)
    for index, (site, probe) in enumerate(lanes):
        y = lanes_top + index * STEP
        parts.append(f'<text class="label" x="{LEFT - 8}" y="{y + 13}">{escape(site)} {_TITLES[probe]}</text>')
        parts.append(f'<rect class="bed" x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{LANE}"/>')
        parts += _lane(raw, span, site, probe, y)
    parts += _markers(run, span, top - 6, lanes_top + len(lanes) * STEP)
    parts += _axis(run, span, lanes_top + len(lanes) * STEP + 6)
    parts.append("</svg>")
    return "\n".join(parts)


def _strip(raw: Raw, span: Span, top: int) -> list[str]:
    bins = measure.histogram(raw.ack_times, span.start_ns, span.end_ns, span.bin_ms)
    peak = max([*bins, 1])
    parts = [
        f'<text class="label" x="{LEFT - 8}" y="{top + 12}">writes/s</text>',
        f'<text class="tick" x="{LEFT - 8}" y="{top + 28}" text-anchor="end">'
        f"top {peak * 1000 / span.bin_ms:.0f}</text>",
    ]
    for index, number in enumerate(bins):
        if number:
            begin = span.start_ns + index * span.bin_ms * MS
            x, width = span.x(begin), span.x(begin + span.bin_ms * MS) - span.x(begin)
            high = number / peak * STRIP
            parts.append(
                f'<rect class="acks" x="{x:.2f}" y="{top + STRIP - high:.1f}" width="{max(width - 0.3, 0.5):.2f}" '
                f'height="{high:.1f}"/>'
            )
    return parts


def _gaps(run: Run, raw: Raw, span: Span, top: int, bottom: int) -> list[str]:
    parts = []
    for window in run.windows:
        gap = measure.longest_gap(raw.ack_times, window.start_ns, window.end_ns)
        if gap.end_ns <= span.start_ns or gap.start_ns >= span.end_ns:
            continue
        x, width = span.x(gap.start_ns), max(1.5, span.x(gap.end_ns) - span.x(gap.start_ns))
        parts.append(
            f'<rect class="gap" x="{x:.2f}" y="{top}" width="{width:.2f}" height="{bottom - top}">'
            f"<title>longest gap of {escape(window.name)}: {gap.ms:.0f} ms</title></rect>"
        )
        # Inside the shaded part where it is wide enough, else beside it on the lanes' gap under the strip.
        wide = width > 60
        at, y = (x + 4, top + 16) if wide else (x + width + 3, top + STRIP + 11)
        parts.append(f'<text class="gaptext" x="{at:.1f}" y="{y}">{gap.ms:.0f} ms</text>')
    return parts


def _lane(raw: Raw, span: Span, site: str, probe: Probe, y: int) -> list[str]:
    parts = []
    for begin, end, answer in overlap.lanes(raw.samples, probe, site, 150 * MS):
        if end <= span.start_ns or begin >= span.end_ns:
            continue
        colour, word = COLOURS[answer]
        x = span.x(begin)
        parts.append(
            f'<rect x="{x:.2f}" y="{y}" width="{max(0.6, span.x(end) - x):.2f}" height="{LANE}" fill="{colour}">'
            f"<title>{escape(site)} {_TITLES[probe]}: {word}</title></rect>"
        )
    return parts


def _markers(run: Run, span: Span, top: int, bottom: int) -> list[str]:
    parts, last_x = [], -100.0
    for number, marker in enumerate(run.markers, start=1):
        if not span.start_ns <= marker.at_ns <= span.end_ns:
            continue
        x = span.x(marker.at_ns)
        title = f"{(marker.at_ns - run.origin_ns) / SECOND:+.3f} s {marker.lane}: {marker.label}"
        parts.append(
            f'<line class="event" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}">'
            f"<title>{escape(title)}</title></line>"
        )
        if x - last_x > 14:
            parts.append(f'<text class="number" x="{x:.1f}" y="{top - 3}">{number}</text>')
            last_x = x
    return parts


def _axis(run: Run, span: Span, y: int) -> list[str]:
    seconds = (span.end_ns - span.start_ns) / SECOND
    step = next((s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60) if seconds / s <= 14), 120.0)
    first = -int((run.origin_ns - span.start_ns) / SECOND / step) * step
    parts, at = [], first
    while run.origin_ns + at * SECOND <= span.end_ns:
        x = span.x(run.origin_ns + int(at * SECOND))
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{y}" y2="{y + 5}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{y + 17}" text-anchor="middle">{at:g} s</text>')
        at = round(at + step, 3)
    return parts

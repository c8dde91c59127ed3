"""Parameters of mode ``vip``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from graf_driver_network.fields import Reader

_KNOWN: Final = frozenset({"announcements", "intervalMs", "refreshSeconds"})


@dataclass(frozen=True, slots=True)
class Vip:
    """How often the link is told who has the address: at once, then in intervals, then now and again."""

    announcements: int = 8
    interval_ms: int = 200
    refresh_s: int = 30


def read_vip(raw: object, reader: Reader) -> Vip | None:
    """Reads what belongs to this mode; None when there is a problem."""
    before = len(reader.problems)
    fields = reader.mapping(raw, "vip", _KNOWN, "{announcements: 8, intervalMs: 200}")
    found = Vip(
        reader.number(fields.get("announcements"), "vip.announcements", 1, 100, "how often, e.g. 8", 8),
        reader.number(fields.get("intervalMs"), "vip.intervalMs", 10, 10_000, "milliseconds, e.g. 200", 200),
        reader.number(fields.get("refreshSeconds"), "vip.refreshSeconds", 0, 3600, "seconds; 0 is never", 30),
    )
    return None if len(reader.problems) > before else found

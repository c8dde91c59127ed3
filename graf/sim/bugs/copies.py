"""Bugs of groups whose data is only copied: which sites may lack no more than declared, and for how long that is so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from graf.core import holder
from graf.sim.bugs.bug import Bug, Patch, planting

if TYPE_CHECKING:
    from graf.core.view import ComponentView, PeerView, SiteView


def _always_current(_view: SiteView, _peer: PeerView) -> bool:
    return True


def _current_while_heard(_view: SiteView, peer: PeerView) -> bool:
    return not peer.copy_refusal


def _refusal_not_heard(view: SiteView, component: ComponentView, now_ns: int) -> bool:
    return _LOST_BEFORE_PROMOTION(view, replace(component, refusal=""), now_ns)


_LOST_BEFORE_PROMOTION = holder._lost_before_promotion

# What copies nothing while the active goes on, and then the end of the active.
COPY_FALLS_BACK = ("hold-replication", "isolate-site", "crash-site")

BUGS = (
    Bug(
        "copy-kept-when-old",
        "A site stays in the set though its copy is older than declared.",
        ("I3",),
        planting(Patch(holder, "_copies_are_current", _always_current)),
        needs=COPY_FALLS_BACK,
        copied=True,
    ),
    Bug(
        "copy-current-while-silent",
        "What a silent site told of its copy is taken for true for ever.",
        ("I3",),
        planting(Patch(holder, "_copies_are_current", _current_while_heard)),
        needs=COPY_FALLS_BACK,
        copied=True,
    ),
    Bug(
        "refused-copy-holds-on",
        "A site that won keeps the epoch though its driver has refused to open the copy.",
        ("I8",),
        planting(Patch(holder, "_lost_before_promotion", _refusal_not_heard)),
        needs=("crash-database", "crash-site", "operator-switchover", "driver-lies"),
        copied=True,
    ),
)

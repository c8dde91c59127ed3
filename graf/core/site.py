"""`decide`: what a site does about a group, from one view at one point in time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.api.values import Reason
from graf.core import contender
from graf.core.contender import CONTENDER_RULES, ContenderRule
from graf.core.holder import HOLDER_RULES, HolderRule
from graf.core.view import Decision

if TYPE_CHECKING:
    from graf.core.view import SiteView


def decide(
    view: SiteView,
    now_ns: int,
    holder_rules: tuple[HolderRule, ...] = HOLDER_RULES,
    contender_rules: tuple[ContenderRule, ...] = CONTENDER_RULES,
) -> Decision:
    """Total over all views: there is always a decision, and it always has a reason.

    Args:
        view: Everything the site knows.
        now_ns: Monotonic time of this site, nanoseconds.
        holder_rules: Ordered safety and liveness rules of a holder; a test may leave one out.
        contender_rules: The same for a site without a lease.
    """
    if view.lease is not None:
        for _name, rule in holder_rules:
            decision = rule(view, now_ns)
            if decision is not None:
                return _bounded(decision, view, now_ns)
        # What a copy lacks grows with every moment in which nothing is heard of it.
        recheck_ns = 0 if view.config.waits else view.config.timing.heartbeat_ns
        return _bounded(Decision((), (Reason("Serving", f"epoch {view.lease.epoch}"),), recheck_ns), view, now_ns)
    if view.contest is not None:
        return Decision((), (Reason("Contending", f"epoch {view.contest.campaign.epoch}"),))
    for _name, rule in contender_rules:
        decision = rule(view, now_ns)
        if decision is not None:
            return decision
    return contender.contend(view)


def _bounded(decision: Decision, view: SiteView, now_ns: int) -> Decision:
    """A holder is asked again at the latest when it would have to fence itself."""
    lease = view.lease
    if lease is None:
        return decision
    left = max(lease.end_ns - lease.timing.fence_margin_ns - now_ns, 1)
    recheck = min(decision.recheck_after_ns, left) if decision.recheck_after_ns else left
    return Decision(decision.actions, decision.reasons, recheck)

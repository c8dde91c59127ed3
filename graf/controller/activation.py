"""From the majority's grant to clients served, with the time of each phase."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from graf.api.timing import MILLISECOND_NS
from graf.api.values import Reason, Role, Stage

if TYPE_CHECKING:
    from graf.controller.agent import GroupAgent
    from graf.controller.components import Component
    from graf.controller.protocol import Evidence
    from graf.core.campaign import Contest
    from graf.core.syncset import HolderSet

YOUNG_NS = 100 * MILLISECOND_NS


class Activation:
    """One activation of a site; it ends when every component is active."""

    def __init__(self, agent: GroupAgent, contest: Contest, evidence: Evidence) -> None:
        self._agent = agent
        self._epoch = contest.campaign.epoch
        self._evidence = evidence
        self._voters = contest.campaign.voters
        self._won_ns = time.monotonic_ns()
        self._campaign_ms = (self._won_ns - evidence.began_ns) / 1e6
        self._data_ns: int | None = None
        began_ns, silent_since_ns = evidence.began_ns, evidence.silent_since_ns
        release = agent.last_release
        self._release = release if release is not None and release.epoch == evidence.previous[1] else None
        if self._release is not None:
            transit_ms = (began_ns - agent.last_release_ns) / 1e6
            self._detect_ms = self._release.detect_ms + max(transit_ms, 0.0)
        else:
            self._detect_ms = max((began_ns - silent_since_ns) / 1e6, 0.0) if silent_since_ns else 0.0

    @property
    def age_ns(self) -> int:
        """For how long it has been going on."""
        return time.monotonic_ns() - self._won_ns

    def awaits_set(self, held: HolderSet) -> bool:
        """Whether the set that goes with every win is still on its way to the voters.

        It takes a few milliseconds; promoting with the adopted set first would only be told anew at once. A site that
        was serving before goes on with the set in force until then, however long it takes.
        """
        if self._evidence.serving:
            return self._agent.config.lossless and held.current.version.epoch != held.epoch
        return held.proposed is not None and self.age_ns < YOUNG_NS

    def advance(self) -> bool:
        """Looks how far it is; True when everything is active."""
        now_ns = time.monotonic_ns()
        components = self._agent.components.values()
        before_traffic = [c for c in components if c.config.stage in (Stage.DATA, Stage.WORKLOAD)]
        if self._data_ns is None and all(is_active(c, self._epoch) for c in before_traffic):
            self._data_ns = now_ns
        if self._data_ns is None or not all(is_active(c, self._epoch) for c in components):
            return False
        phases = {
            "detect": round(self._detect_ms, 1),
            "campaign": round(self._campaign_ms, 1),
            "activate": round((self._data_ns - self._won_ns) / 1e6, 1),
            "traffic": round((now_ns - self._data_ns) / 1e6, 1),
        }
        from_site, epoch_from = self._evidence.previous
        operation = self._release.operation if self._release is not None else ""
        cause = self._release.cause if self._release is not None else ""
        if not epoch_from:
            kind = "Bootstrap"
        elif self._evidence.serving:
            kind = "VoterChange" if self._voters.joint else "Regain"
        elif operation:
            kind = cause or "Switchover"
        elif from_site == self._agent.site:
            kind = "Resume"
        else:
            kind = "Failover"
        reasons = self._evidence.reasons
        if cause and not operation:
            reasons = (Reason(cause), *reasons)
        message = f"{self._agent.site} is active in epoch {self._epoch}"
        if self._evidence.serving:
            message = f"{self._agent.site} stays active in epoch {self._epoch}; voters {self._voters.describe()}"
        self._agent.records.add(
            self._agent.config.group,
            self._epoch,
            "Decision",
            kind,
            reasons,
            operation=operation,
            from_site=from_site,
            to_site=self._agent.site,
            epoch_from=epoch_from,
            phases_ms=phases,
            message=message,
        )
        if operation:
            self._agent.switchover.report(operation, "Succeeded", "Active", f"{self._agent.site} serves")
        return True


def is_active(component: Component, epoch: int) -> bool:
    """Whether a component is settled as active in this epoch."""
    wanted = component.wanted
    return component.settled and wanted is not None and wanted.role is Role.ACTIVE and wanted.epoch == epoch

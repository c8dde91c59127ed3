"""What a failover would cost now, from the policy, the last failover, and what the drivers tell. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from graf.crd.group import RedundancyGroup
    from graf.crd.policy import RedundancyPolicy

ACTIVATION_GUESS_MS = 300  # until a failover of the group has been measured


@dataclass(frozen=True, slots=True)
class Prediction:
    """A predicted outage; `at_least` when a driver cannot tell its part now."""

    ms: int
    basis: str
    at_least: bool = False

    @property
    def text(self) -> str:
        """For a column."""
        return f"{'>' if self.at_least else '~'}{self.ms} ms"

    def as_status(self) -> dict[str, Any]:
        """As the group's status has it."""
        return {"ms": self.ms, "basis": self.basis, "atLeast": self.at_least}


@dataclass(frozen=True, slots=True)
class _Measured:
    """How the last failover went after its detection; a guess while there was none."""

    activate_ms: int
    rest_ms: int
    basis: str


def predicted_rto(
    group: RedundancyGroup,
    policy: RedundancyPolicy,
    history: Sequence[Mapping[str, Any]],
    standbys: Sequence[Mapping[str, Any]],
) -> Prediction:
    """What a silent failure of the active would cost now, at the worst of the sites that could take over.

    A whole lease; then the activation: as long as the last one that was measured, or as the drivers predict from what
    they have to do now, whichever is longer; then what users need until they reach the new site.

    Args:
        group: for the stages of its components.
        policy: for the lease.
        history: of the group's status, oldest first.
        standbys: entries of `status.sites` that could take over.
    """
    detection = policy.spec.detection
    lease = round(detection.timing.ttl_ms * (1 + detection.drift_ppm / 1e6))
    measured = _measured(history)
    found = [_at_site(group, site, lease, measured) for site in standbys]
    return max(found, key=lambda one: (one.at_least, one.ms), default=_sum(lease, measured, 0, "", 0, ""))


def _measured(history: Sequence[Mapping[str, Any]]) -> _Measured:
    for entry in reversed(history):
        phases = entry.get("phasesMs") or {}
        if entry.get("type") == "Failover" and phases:
            rest = round(sum(ms for name, ms in phases.items() if name not in ("detect", "activate")))
            activate = round(phases.get("activate", 0))
            return _Measured(activate, rest, f"{rest + activate} ms as measured in epoch {entry.get('epoch')}")
    return _Measured(ACTIVATION_GUESS_MS, 0, f"{ACTIVATION_GUESS_MS} ms, not measured yet")


def _at_site(group: RedundancyGroup, site: Mapping[str, Any], lease: int, measured: _Measured) -> Prediction:
    """For a takeover by one site, with what its drivers have told."""
    stages = {component.name: component.stage for component in group.spec.components}
    slowest: dict[str, tuple[int, str]] = {}
    reach, last, unknown = 0, "", []
    for component in site.get("components", ()):
        who = component["name"]
        activation, after = component.get("predictedActivationMs", 0), component.get("predictedReachMs", 0)
        if activation < 0 or after < 0:
            unknown.append(who)
        # The components of a stage are activated together, the stages in turn.
        stage = stages.get(who, "")
        slowest[stage] = max(slowest.get(stage, (0, "")), (activation, who))
        if after > reach:
            reach, last = after, who
    told = sum(ms for ms, _ in slowest.values())
    who_told = ", ".join(who for ms, who in slowest.values() if ms > 0)
    name = site["name"]
    found = _sum(lease, measured, told, f"{who_told} at {name}", reach, f"{last} at {name}")
    if not unknown:
        return found
    cannot = f"{found.basis}; {', '.join(unknown)} at {name} cannot tell its part now"
    return Prediction(found.ms, cannot, at_least=True)


def _sum(lease: int, measured: _Measured, told: int, by: str, reach: int, last: str) -> Prediction:
    longer = told > measured.activate_ms
    activation = measured.rest_ms + (told if longer else measured.activate_ms)
    basis = f"{activation} ms, of which {told} ms are predicted by {by}" if longer else measured.basis
    words = [f"lease {lease} ms", basis, *([f"{reach} ms until users follow, by {last}"] if reach else [])]
    return Prediction(lease + activation + reach, " + ".join(words))

"""When a changed DriverClass replaces a running driver. Pure: facts in, one step for each class out.

Replacing a driver restarts what is beside it in its Pod, a database for instance. So a change waits until that
interrupts nobody, one class at a time; a revision that cannot start is taken back; and nothing is deleted because it
was not seen.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from graf.controller.pods import HOPELESS, POD_REFUSED, PodFacts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Set

    from graf.crd.driverclass import Upgrade

# How long a Pod is refused without a break before its revision counts as one that cannot start.
REFUSED_FOR_S = 60.0


class Use(enum.Enum):
    """What a class serves at this site now."""

    NOTHING = "nothing"
    STANDBY = "only standbys whose active site is heard and well"
    UNSETTLED = "a component whose role is not settled"
    ACTIVE = "an active component"


class Step(enum.Enum):
    """What to do with a class' Deployment."""

    KEEP = "keep"
    APPLY = "apply"
    HOLD = "hold"
    ROLL_BACK = "roll back"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class Wish:
    """A class as the manager asks for it.

    Attributes:
        waits_for: sites that take an automatic upgrade before this one.
        leaves_epochs: where the highest epochs are that this revision would not find; empty when it would.
    """

    revision: str
    upgrade: Upgrade = "OnStandby"
    waits_for: str = ""
    leaves_epochs: str = ""


@dataclass(frozen=True, slots=True)
class Deployed:
    """A class' Deployment as the API server holds it.

    Attributes:
        revision: of its Pod template.
        pod: facts of its newest Pod.
        approved: the revision that somebody at the site has approved.
        refused_s: for how long its Pod has been seen refused without a break.
    """

    revision: str
    pod: PodFacts = field(default_factory=PodFacts)
    approved: str = ""
    refused_s: float = 0.0

    @property
    def ready(self) -> bool:
        """Whether the revision that is deployed runs."""
        return self.pod.ready and self.pod.revision == self.revision

    @property
    def hopeless(self) -> bool:
        """Whether the revision that is deployed cannot become ready by waiting."""
        return self.pod.revision == self.revision and (self.pod.reason in HOPELESS or self.refused_long)

    @property
    def refused_long(self) -> bool:
        """Whether its Pod is refused, and not for a moment only."""
        return self.pod.reason == POD_REFUSED and self.refused_s >= REFUSED_FOR_S


@dataclass(frozen=True, slots=True)
class Planned:
    """A step with its reason, for the status."""

    step: Step
    reason: str = ""
    message: str = ""


def plan(
    wishes: Mapping[str, Wish],
    deployed: Mapping[str, Deployed],
    use: Mapping[str, tuple[Use, str]],
    known_good: Mapping[str, str],
    refused: Mapping[str, tuple[str, str]],
) -> dict[str, Planned]:
    """One step for each class that is wished for.

    Args:
        wishes: by class.
        deployed: by class, complete and just read; a class that is absent has no Deployment.
        use: by class: what it serves, and in words of which component; a class that is absent serves nothing.
        known_good: class -> the newest revision of it that was ready here.
        refused: class -> (revision that was taken back, why).

    Invariant: at most one class is between two revisions, and none is replaced while it serves an active component
    unless its class or somebody at the site says so.
    """
    steps: dict[str, Planned] = {}
    # Not ready and was ready before: it is being replaced, or it is ill. Either is no time to restart another one.
    moving = next((n for n, d in sorted(deployed.items()) if n in wishes and n in known_good and not d.ready), "")
    for name, wish in sorted(wishes.items()):
        now = deployed.get(name)
        if now is None:
            steps[name] = _made_anew(wish, known_good.get(name, ""))
            continue
        if now.revision == wish.revision:
            steps[name] = _settle(name, now, known_good)
            continue
        if refused.get(name, ("", ""))[0] == wish.revision and now.approved != wish.revision:
            why = refused[name][1]
            message = f"revision {wish.revision} was taken back, revision {now.revision} runs again: {why}"
            steps[name] = Planned(Step.HOLD, "RolledBack", message)
            continue
        held = _held(name, wish, now, *use.get(name, (Use.NOTHING, "")))
        if held is None and moving not in ("", name) and not now.hopeless:
            message = f"one driver at a time: DriverClass {moving} is being replaced and is not ready yet"
            held = Planned(Step.HOLD, "UpgradeWaits", message)
        steps[name] = held or Planned(Step.APPLY)
        if held is None:
            moving = moving or name
    return steps


def _made_anew(wish: Wish, good: str) -> Planned:
    """What somebody deleted must not come back as a driver that has forgotten its epochs: what was ready last does."""
    if not good or not wish.leaves_epochs:
        return Planned(Step.APPLY)
    message = f"its Deployment was gone and is made again with revision {good}, which was ready last: revision"
    return Planned(
        Step.RESTORE,
        "EpochsLeft",
        f"{message} {wish.revision} would forget the highest epochs, which are in {wish.leaves_epochs}",
    )


def _settle(name: str, now: Deployed, known_good: Mapping[str, str]) -> Planned:
    if now.hopeless and known_good.get(name, now.revision) != now.revision:
        return Planned(Step.ROLL_BACK, now.pod.reason, now.pod.message)
    return Planned(Step.KEEP)


def _held(name: str, wish: Wish, now: Deployed, use: Use, what: str) -> Planned | None:
    if now.approved == wish.revision:
        return None
    approve = f"kubectl -n graf-system annotate deployment graf-driver-{name} graf.dev/approve-upgrade={wish.revision}"
    if wish.leaves_epochs:
        message = f"revision {wish.revision} would forget the highest epochs, which are in {wish.leaves_epochs}; copy"
        return Planned(Step.HOLD, "EpochsLeft", f"{message} them there at this site, then: {approve}")
    # A refusal is the cluster's, whatever the revision: it is no reason to put another one under what is active.
    if use is Use.NOTHING or (now.hopeless and not (use is Use.ACTIVE and now.refused_long)):
        return None
    how = f"to do it now all the same: {approve} at the site"
    if wish.upgrade == "Manual":
        return Planned(Step.HOLD, "UpgradeNeedsApproval", f"revision {wish.revision} waits for approval; {how}")
    if use is Use.UNSETTLED:
        return Planned(Step.HOLD, "UpgradeHeld", f"revision {wish.revision} waits: {what}; {how}")
    if use is Use.ACTIVE and wish.upgrade == "OnStandby":
        message = f"revision {wish.revision} waits: {what}; move the group away (`graf switchover`), or {how}"
        return Planned(Step.HOLD, "UpgradeHeld", message)
    if use is Use.ACTIVE and wish.waits_for:
        message = f"revision {wish.revision} waits until {wish.waits_for} has it and is ready; {how}"
        return Planned(Step.HOLD, "UpgradeWaits", message)
    return None


def outdated(labelled: Iterable[str], wishes: Set[str], in_use: Set[str], existing: Set[str] | None) -> list[str]:
    """Classes whose objects are no longer wanted at this site.

    Args:
        labelled: classes of which the cluster holds objects.
        wishes: classes that are asked for.
        in_use: classes that a group of this site names.
        existing: every class that exists, None when that is not known completely.
    """
    if existing is None:
        return []
    return sorted(name for name in set(labelled) if name not in existing and name not in wishes and name not in in_use)

"""Settings of the policy that a scenario depends on: set through Git as a user would, and put back afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from graf.crd.group import RedundancyGroup
from graf.crd.policy import RedundancyPolicySpec
from graf.lab.drill.errors import DrillError
from graf.lab.drill.git_record import GitError, change_policy
from graf.lab.drill.lab_port import DrillLab
from graf.lab.drill.profile import AUTHOR
from graf.lab.drill.progress import Progress
from graf.ports.group_api import ApiError, GroupApi
from graf.scenario.model import PolicySettings

APPLIED_TIMEOUT_S = 60.0
POLL_S = 0.5


def settings_of(spec: RedundancyPolicySpec) -> PolicySettings:
    """A policy's settings in a scenario's words."""
    return PolicySettings(
        failover=spec.failover.mode,
        failback=spec.failback.mode,
        stabilisation_seconds=spec.failback.stabilisation_window_seconds,
    )


def differing(wanted: PolicySettings, present: PolicySettings) -> PolicySettings:
    """Those of the wanted settings that are not so."""
    now = present.model_dump()
    given = wanted.model_dump(exclude_none=True)
    return PolicySettings(**{key: value for key, value in given.items() if now[key] != value})


def change_of(settings: PolicySettings) -> Callable[[dict[str, Any]], None]:
    """What to do to a policy's spec to have these settings."""

    def change(spec: dict[str, Any]) -> None:
        if settings.failover is not None:
            spec.setdefault("failover", {})["mode"] = settings.failover
        if settings.failback is not None:
            spec.setdefault("failback", {})["mode"] = settings.failback
        if settings.stabilisation_seconds is not None:
            spec.setdefault("failback", {})["stabilisationWindowSeconds"] = settings.stabilisation_seconds

    return change


@contextmanager
def policy_in_force(
    lab: DrillLab,
    api: GroupApi,
    site_apis: dict[str, GroupApi],
    group: RedundancyGroup,
    wanted: PolicySettings,
    progress: Progress,
) -> Iterator[None]:
    """Brings settings into force for a while; what was there before is put back, whatever happens meanwhile.

    Raises:
        DrillError: They could not be brought into force, or not be put back; says what to do.
    """
    name = group.spec.policy_ref.name
    before = settings_of(api.policy(name).spec)
    changed = differing(wanted, before)
    if not changed.to_words():
        yield
        return
    former = PolicySettings(**{key: before.model_dump()[key] for key in changed.model_dump(exclude_none=True)})
    try:
        _set(lab, api, site_apis, group, changed, progress)
        yield
    finally:
        _set(lab, api, site_apis, group, former, progress)


def _set(
    lab: DrillLab,
    api: GroupApi,
    site_apis: dict[str, GroupApi],
    group: RedundancyGroup,
    settings: PolicySettings,
    progress: Progress,
) -> None:
    name = group.spec.policy_ref.name
    words = ", ".join(f"{key} {value}" for key, value in settings.to_words().items())
    with progress.step(f"policy {name}: {words}") as step:
        try:
            change_policy(str(lab.git_dir()), name, change_of(settings), f"Set {words} for {name}", AUTHOR)
        except GitError as error:
            fix = f"set {words} in the policy {name} by a commit of your own"
            raise DrillError(f"the policy {name} cannot be set through Git", str(error), fix) from error
        end = time.monotonic() + APPLIED_TIMEOUT_S
        while missing := _not_applied(api, site_apis, group, settings):
            step.detail = missing
            if time.monotonic() > end:
                raise DrillError(f"{words} is not in force after {APPLIED_TIMEOUT_S:.0f} s", missing, "see graf status")
            time.sleep(POLL_S)
        step.detail = ""


def _not_applied(
    api: GroupApi, site_apis: dict[str, GroupApi], group: RedundancyGroup, settings: PolicySettings
) -> str:
    try:
        if differing(settings, settings_of(api.policy(group.spec.policy_ref.name).spec)).to_words():
            return "the manager has not applied the commit yet"
        for site, site_api in site_apis.items():
            mode = site_api.assignment(group.name).spec.failover_mode
            if settings.failover is not None and mode != settings.failover:
                return f"{site} is still assigned failover {mode}"
    except ApiError as problem:
        return problem.what
    return ""

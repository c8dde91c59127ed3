"""The detection profile of a drill: set through Git as a user would, and proved to be in force.

A holder uses a new timing from its next epoch on, so a profile that was changed after the last move is not in force
yet; the drill then makes one planned move there and back.
"""

from __future__ import annotations

import tempfile
import time
from datetime import datetime
from pathlib import Path

from graf.crd.group import RedundancyGroup
from graf.crd.policy import PROFILES
from graf.lab.drill.errors import DrillError
from graf.lab.drill.git_record import GitError, checkout, find_policy, last_change_wall_s, set_profile
from graf.lab.drill.lab_port import DrillLab
from graf.lab.drill.progress import Progress, Step
from graf.lab.drill.session import settled
from graf.ports.group_api import ApiError, GroupApi
from graf.shell.planned_move import follow, request_switchover

AUTHOR = ("GRAF drill", "drill@graf.dev")
PROPAGATION_S = 5
MOVE_TIMEOUT_S = 60.0
_MOVES = {"Failover", "Switchover", "Failback", "Bootstrap", "Resume"}


def ensure_profile(
    lab: DrillLab,
    api: GroupApi,
    site_apis: dict[str, GroupApi],
    group: RedundancyGroup,
    wanted: str | None,
    progress: Progress,
) -> str:
    """Brings the wanted profile into force (None: the one that the policy has) and returns its name.

    `group` is one that is settled: a move of one that is not would be refused.

    Raises:
        DrillError: It could not be brought into force; says where it hung.
    """
    policy = group.spec.policy_ref.name
    present = api.policy(policy).spec.detection.profile
    profile = wanted or present
    with progress.step(f"detection profile {profile}") as step:
        try:
            if profile != present:
                step.detail = f"commit: {present} -> {profile}"
                set_profile(str(lab.git_dir()), policy, profile, AUTHOR)
            _wait_assigned(step, api, site_apis, group, policy, profile)
            in_force = _moved_since(lab, group, policy)
        except GitError as error:
            raise DrillError(f"the profile {profile} cannot be set through Git", str(error)) from error
    if not in_force:
        with progress.step("one move there and back, so that a new epoch uses the profile") as step:
            _there_and_back(step, api, group)
    return profile


def _wait_assigned(
    step: Step, api: GroupApi, site_apis: dict[str, GroupApi], group: RedundancyGroup, policy: str, profile: str
) -> None:
    timing = PROFILES[profile]
    end = time.monotonic() + 60
    while True:
        missing = ""
        try:
            if api.policy(policy).spec.detection.profile != profile:
                missing = "the manager has not applied the commit yet"
            for site, site_api in site_apis.items():
                assigned = site_api.assignment(group.name).spec.timing
                if (assigned.heartbeat_ms, assigned.ttl_ms) != (timing.heartbeat_ms, timing.ttl_ms):
                    missing = f"{site} is assigned {assigned.heartbeat_ms} ms / {assigned.ttl_ms} ms"
        except ApiError as problem:
            missing = problem.what
        if not missing:
            step.detail = f"{timing.heartbeat_ms} ms / {timing.ttl_ms} ms"
            return
        step.detail = missing
        if time.monotonic() > end:
            raise DrillError(
                f"the profile {profile} is not in force after 60 s",
                missing,
                "graf status shows what the manager made of the commit",
            )
        time.sleep(0.5)


def _moved_since(lab: DrillLab, group: RedundancyGroup, policy: str) -> bool:
    """Whether an epoch began after the policy's file was last changed (and had time to reach the sites)."""
    with tempfile.TemporaryDirectory(prefix="graf-drill-git-") as folder:
        tree = checkout(str(lab.git_dir()), Path(folder) / "repo")
        path = find_policy(tree, policy)[0].relative_to(tree)
    changed_s = last_change_wall_s(lab.git_dir(), str(path))
    moves = [e.at for e in (group.status.history if group.status else []) if e.type in _MOVES and e.at]
    return any(datetime.fromisoformat(at).timestamp() > changed_s + PROPAGATION_S for at in moves)


def _there_and_back(step: Step, api: GroupApi, group: RedundancyGroup) -> None:
    preferred = group.spec.preferred_site
    spare = next(name for name in group.spec.site_names if name != preferred)
    for active, standby in ((spare, preferred), (preferred, spare)):
        now = api.group(group.name)
        if now.status is not None and now.status.active_site != active:
            step.detail = f"to {active}"
            name = request_switchover(api, group.name, active, "drill: bring a detection profile into force")
            ended = follow(api, name, MOVE_TIMEOUT_S, lambda _: None)
            if ended.status is None or ended.status.state != "Succeeded":
                state, message = (ended.status.state, ended.status.message) if ended.status else ("Pending", "")
                raise DrillError(
                    f"the move to {active} that brings the profile into force is {state}",
                    message or f"it has not ended after {MOVE_TIMEOUT_S:.0f} s",
                    f"graf events {group.name} shows what the sites decided",
                )
        end = time.monotonic() + MOVE_TIMEOUT_S
        while (missing := settled(api.group(group.name), active, standby)) is not None:
            step.detail = missing
            if time.monotonic() > end:
                raise DrillError("the move that brings the profile into force did not end", missing)
            time.sleep(0.5)
    step.detail = ""

"""Waiting for a group that can be drilled: active at its preferred site, and the other site able to take over."""

from __future__ import annotations

import time

from graf.crd.group import RedundancyGroup
from graf.lab.drill.errors import DrillError
from graf.lab.drill.findings import sites_of
from graf.lab.drill.progress import Progress
from graf.lab.drill.session import settled
from graf.ports.group_api import ApiError, ApiFault, GroupApi

READY_TIMEOUT_S = 120.0
# A lab that has just come up reads its groups from Git a moment later; a name that nobody has stays unknown.
UNKNOWN_TIMEOUT_S = 15.0
_POLL_S = 0.5


def wait_ready(api: GroupApi, group_name: str, progress: Progress) -> RedundancyGroup:
    """Waits until the group can be drilled and returns it.

    Raises:
        DrillError: It is not ready, or still unknown, after a bounded time; says what is missing.
    """
    with progress.step(f"{group_name} is ready at its preferred site") as step:
        begun = time.monotonic()
        while True:
            limit_s, remedy = READY_TIMEOUT_S, "graf status and graf events show why; graf lab status shows what runs"
            try:
                group = api.group(group_name)
                preferred, spare = sites_of(group)
                missing = settled(group, preferred, spare)
            except ApiError as problem:
                missing = problem.what
                if problem.fault is ApiFault.NOT_FOUND:
                    limit_s, remedy = UNKNOWN_TIMEOUT_S, "graf status lists the groups; name one with --group"
            if missing is None:
                return group
            step.detail = missing
            if time.monotonic() - begun > limit_s:
                raise DrillError(f"{group_name} is not ready for a drill after {limit_s:.0f} s", missing, remedy)
            time.sleep(_POLL_S)

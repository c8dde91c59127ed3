"""The drill `two-groups`: two groups on the same machines, active at different sites; each site is lost in turn.

Needs a lab with a second group (`graf lab up --groups`). The group that is active at the lost site fails over, and the
other one, which loses its standby in the same moment, serves on in its epoch. Both are under load and observed all the
time, and both are judged by the same verdict. Each part ends where it began.
"""

from __future__ import annotations

from collections.abc import Callable

from graf.lab.drill.model import Check
from graf.lab.drill.session import LOAD_RETURNS, Session, settled

RETURN_TIMEOUT_S = 240.0


class TwoGroups:
    """One run. Every fault is registered with the first group's session, which takes it back whatever happens.

    Args:
        session: Of the group that is named on the command line; `beside` is the other one's.
        take_over: Waits until a session's spare site serves, and tries the old epoch there.
    """

    def __init__(self, session: Session, take_over: Callable[[Session], None]) -> None:
        if session.beside is None:
            raise ValueError("the scenario has no second group")
        self._faults = session
        self._groups = (session, session.beside)
        self._take_over = take_over

    def run(self) -> None:
        """Loses the home of each group."""
        one, other = self._groups
        self._lose_home(one, other)
        self._lose_home(other, one)

    def _lose_home(self, moved: Session, stays: Session) -> None:
        site, faults = moved.preferred, self._faults
        epoch, begun_epoch = _epoch(stays), _epoch(moved)
        label = f"kill everything at {site}"
        with faults.progress.step(f"fault: {label}, the home of {moved.group_name}"):
            start_ns = faults.inject(label, lambda: faults.lab.kill(site), (label, lambda: faults.lab.start(site)))
        for each in (moved, stays):
            each.fault_ns = each.fault_ns or start_ns
            each.injected_ns = faults.injected_ns
        self._take_over(moved)
        with faults.progress.step(f"{stays.group_name} serves on at {stays.preferred}") as step:
            stays.wait_for_acks(step, "its writes to go on", faults.injected_ns, LOAD_RETURNS, 60.0)
        with faults.progress.step(f"heal {site}") as step:
            faults.hold_load(step, 2.0)
            faults.heal(label)
        self._come_back(moved, begun_epoch + 1)
        self._come_back(stays, epoch - 1)
        for each in (moved, stays):
            each.window(f"{site} lost", start_ns, each.gap_limit_ms)
        after = _epoch(stays)
        name = f"{stays.group_name} stays as it was while {site} is away"
        faults.checks.append(Check(name, after == epoch, f"epoch {epoch} -> {after} at {stays.preferred}"))

    def _come_back(self, session: Session, epoch_above: int) -> None:
        home, spare = session.preferred, session.spare
        with session.progress.step(f"{session.group_name} is at {home} again, and {spare} can take over") as step:
            session.wait(
                step,
                f"{session.group_name} to be active at {home} with {spare} ready",
                lambda group: settled(group, home, spare, epoch_above),
                RETURN_TIMEOUT_S,
            )


def _epoch(session: Session) -> int:
    status = session.group().status
    return status.epoch if status is not None else 0

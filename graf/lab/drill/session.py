"""One run under way: what it knows, what it waits for, and the faults that it has to take back.

Invariant: every fault is registered with its healing before it is injected; `heal_all` takes back what is left, in
reverse order, whatever ended the script.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from graf.crd.group import GroupSiteStatus, HistoryEntry, RedundancyGroup
from graf.lab.drill.errors import StepError
from graf.lab.drill.lab_port import DrillLab
from graf.lab.drill.model import Check, Marker, StaleCalls, Window
from graf.lab.drill.progress import Progress, Step
from graf.lab.drill.stale import try_stale_epoch
from graf.lab.drill.workload import Workload
from graf.ports.group_api import ApiError, ApiFault, GroupApi

POLL_S = 0.4


@dataclass
class Session:
    """State of one run, handed to the scenario's script."""

    lab: DrillLab
    api: GroupApi
    workload: Workload
    progress: Progress
    group_name: str
    preferred: str
    spare: str
    gap_limit_ms: float | None
    start_epoch: int = 0
    fault_ns: int = 0
    injected_ns: int = 0
    windows: list[Window] = field(default_factory=list)
    markers: list[Marker] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    stale: StaleCalls = field(default_factory=StaleCalls)
    history: dict[str, HistoryEntry] = field(default_factory=dict)
    beside: Session | None = None  # of the second group, where a scenario has one; faults are this one's
    _heals: list[tuple[str, Callable[[], None]]] = field(default_factory=list)

    # -- looking ---------------------------------------------------------------------------------------

    def group(self) -> RedundancyGroup:
        """The group now; its records are remembered, since the status keeps only the newest."""
        group = self.api.group(self.group_name)
        for entry in group.status.history if group.status else []:
            self.history[entry.id] = entry
        return group

    def wait(
        self, step: Step, what: str, ready: Callable[[RedundancyGroup], str | None], timeout_s: float
    ) -> RedundancyGroup:
        """Polls until `ready` returns None; what it returns otherwise says what is missing.

        Raises:
            StepError: It was not reached in time; says what was missing last.
        """
        end = time.monotonic() + timeout_s
        while True:
            try:
                group = self.group()
                missing = ready(group)
            except ApiError as problem:
                if problem.fault is not ApiFault.UNREACHABLE:
                    raise
                missing = problem.what
            else:
                if missing is None:
                    step.detail = ""
                    return group
            step.detail = missing or ""
            if time.monotonic() >= end:
                raise StepError(f"waited {timeout_s:.0f} s for {what}, but {missing}")
            time.sleep(POLL_S)

    def wait_for_acks(self, step: Step, what: str, since_ns: int, number: int, timeout_s: float) -> int:
        """Waits until `number` writes sent after `since_ns` are acknowledged; returns the first one's time.

        Raises:
            StepError: They were not, in time.
        """
        end = time.monotonic() + timeout_s
        while True:
            times = self.workload.acked_after(since_ns)
            if len(times) >= number:
                return times[0]
            step.detail = f"{len(times)} of {number} writes acknowledged"
            if time.monotonic() >= end:
                raise StepError(
                    f"waited {timeout_s:.0f} s for {what}, but only {len(times)} of {number} writes were acknowledged"
                )
            time.sleep(0.1)

    def hold_load(self, step: Step, seconds: float) -> None:
        """Lets the load go on for a while: part of the script, not a wait for something."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            step.detail = f"{max(0.0, end - time.monotonic()):.0f} s left"
            time.sleep(min(0.2, max(0.0, end - time.monotonic())))
        step.detail = ""

    @staticmethod
    def pause() -> None:
        """Between two looks at something."""
        time.sleep(POLL_S / 4)

    # -- noting ----------------------------------------------------------------------------------------

    def mark(self, lane: str, label: str, at_ns: int | None = None) -> int:
        """Puts an event on the timeline; returns its time."""
        moment = time.monotonic_ns() if at_ns is None else at_ns
        self.markers.append(Marker(moment, lane, label))
        return moment

    def window(self, name: str, start_ns: int, limit_ms: float | None, counts: bool = True) -> None:
        """Closes a measured window now."""
        self.windows.append(Window(name, start_ns, max(time.monotonic_ns(), start_ns + 1), limit_ms, counts))

    # -- breaking and healing --------------------------------------------------------------------------

    def inject(self, label: str, fault: Callable[[], None], heal: tuple[str, Callable[[], None]] | None) -> int:
        """Injects a fault; returns the time just before it, from which its outage counts."""
        if heal is not None:
            self._heals.append(heal)
        moment = self.mark("drill", f"fault: {label}")
        if not self.fault_ns:
            self.fault_ns = moment
        fault()
        self.injected_ns = time.monotonic_ns()
        return moment

    def heal(self, name: str) -> None:
        """Takes one fault back now."""
        for index, (label, heal) in enumerate(self._heals):
            if label == name:
                heal()
                del self._heals[index]
                self.mark("drill", f"healed: {label}")
                return
        raise KeyError(name)

    def heal_all(self) -> list[str]:
        """Takes back every fault that is left; returns what could not be, with the reason."""
        failed = []
        while self._heals:
            label, heal = self._heals.pop()
            try:
                heal()
                self.mark("drill", f"healed: {label}")
                self.progress.say(f"  healed: {label}")
            except Exception as error:  # the others are healed all the same
                failed.append(f"{label} could not be healed: {error}")
        return failed

    # -- asking ----------------------------------------------------------------------------------------

    def try_stale(self, site: str, epoch: int, group: RedundancyGroup) -> None:
        """Tries calls with an epoch that is over at one site."""
        if epoch < 1:
            return
        calls = try_stale_epoch(group, site, self.lab.driver_socket_dir(site), epoch)
        self.mark(site, f"calls with old epoch {epoch}: {calls.accepted} accepted, {calls.refused} refused")
        self.stale = self.stale.plus(calls)


# -- conditions: None when met, else what is missing ------------------------------------------------------


def site_of(group: RedundancyGroup, name: str) -> GroupSiteStatus | None:
    """Status of one site, if the manager reports it."""
    return next((s for s in group.status.sites if s.name == name), None) if group.status else None


def set_members(group: RedundancyGroup) -> list[str]:
    """The synchronous set, empty when it is unknown."""
    return list(group.status.synchronous_set.members) if group.status and group.status.synchronous_set else []


def active_is(group: RedundancyGroup, name: str, epoch_above: int = -1) -> str | None:
    """The group is active at `name` with an epoch above the given one."""
    status = group.status
    if status is None:
        return "the group has no status"
    if status.active_site != name:
        return f"active is {status.active_site or 'nobody'} (epoch {status.epoch})"
    return None if status.epoch > epoch_above else f"the epoch is still {status.epoch}"


def can_take_over(group: RedundancyGroup, name: str) -> str | None:
    """The site follows, is promotable and is in the synchronous set."""
    site = site_of(group, name)
    if site is None or not site.connected:
        return f"{name} is not connected to the manager"
    if site.role != "Standby":
        verdict = f", verdict {site.verdict}" if site.verdict else ""
        return f"{name} is {site.role}{verdict}"
    if not site.promotable:
        return f"{name} is not promotable: {site.promotable_reason or 'no reason given'}"
    if name not in set_members(group):
        return f"{name} is not in the synchronous set ({', '.join(set_members(group)) or 'unknown'})"
    return None


def settled(group: RedundancyGroup, active: str, standby: str, epoch_above: int = -1) -> str | None:
    """Active where it should be, and the standby able to take over."""
    missing = active_is(group, active, epoch_above)
    if missing is None:
        site = site_of(group, active)
        if site is None or not site.connected or site.role != "Active":
            missing = f"{active} reports {site.role if site else 'nothing'}"
    return missing or can_take_over(group, standby)


def since(entries: dict[str, HistoryEntry], known: set[str]) -> list[HistoryEntry]:
    """Records that were not known before."""
    return [entry for key, entry in entries.items() if key not in known]


def reasons_told(group: RedundancyGroup, entries: list[HistoryEntry]) -> list[str]:
    """Every reason that an operator can read now: of sites, components and conditions, and in these records."""
    texts: list[str] = []
    for site in group.status.sites if group.status else []:
        texts += [site.promotable_reason, *site.reasons]
        texts += [component.promotable_reason for component in site.components]
    for condition in group.status.conditions if group.status else []:
        texts += [f"{condition.reason} {condition.message}"] if condition.status != "True" else []
    for entry in entries:
        texts += [*entry.reasons, entry.message]
    return [text for text in texts if text]


LOAD_RETURNS = 25  # acknowledgements that count as "serves again": one could be an answer that was on its way

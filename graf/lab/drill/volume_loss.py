"""The drill `volume-loss`: the volume of the active site is lost under load, then the whole site.

Needs a lab with a volume (`graf lab up --volume`). Each part ends where it began: the lost site has followed with a
whole copy, and the group went back by its policy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graf.crd.group import GroupComponent, RedundancyGroup
from graf.lab.drill.errors import StepError
from graf.lab.drill.model import Check
from graf.lab.drill.session import LOAD_RETURNS, Session, active_is, can_take_over, settled, site_of
from graf.lab.drill.volume import (
    Record,
    StandbyWatch,
    Tree,
    judge_copy,
    judge_kept,
    judge_one_at_a_time,
    judge_promotion,
    look,
    newest_generation,
    read_journal,
    volume_of,
    wait_until_told,
)
from graf.lab.errors import LabError

WARM_UP_S = 5.0
RECORDS_RETURN = 10
MOVES = 4
RETURN_TIMEOUT_S = 240.0
# A planned move waits until the volume's last generation is at the other site; it is rolled back after 2 s for making
# it and 2 s for the proof.
MOVE_BACK_LIMIT_MS = 4_000.0
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class _Part:
    """One loss: its name in the checks, and how it is made and taken back."""

    name: str
    label: str
    inject: Callable[[], None]
    heal: Callable[[], None]
    told: str = ""


class VolumeLoss:
    """One run. The writers are ended whatever ends the script; faults are taken back by the session."""

    def __init__(self, session: Session, component: GroupComponent) -> None:
        self._session = session
        self._component = component
        self._declared_s = float(component.parameters["rpoSeconds"])
        self._run = session.workload.run_id
        self._lost: set[str] = set()

    def run(self) -> None:
        """Both parts."""
        session, lab, active = self._session, self._session.lab, self._session.preferred
        try:
            with session.progress.step("an application writes records into the volume") as step:
                for site in (session.preferred, session.spare):
                    lab.start_writer(site, self._run)
                self._wait_records(active, RECORDS_RETURN, step_end_s=30.0)
                session.hold_load(step, WARM_UP_S)
            self._part(
                _Part(
                    "volume lost",
                    f"the volume of {active} is lost",
                    lambda: lab.lose_volume(active),
                    lambda: lab.forget_lost_volume(active),
                    told=f"{self._component.name} is Dead",
                )
            )
            self._part(
                _Part(
                    "site lost", f"kill everything at {active}", lambda: lab.kill(active), lambda: self._start(active)
                )
            )
            session.checks.append(judge_one_at_a_time(self._journals(), MOVES))
        finally:
            for site in (session.preferred, session.spare):
                with contextlib.suppress(LabError, OSError):
                    lab.stop_writer(site)

    def _part(self, part: _Part) -> None:
        session = self._session
        active, standby = session.preferred, session.spare
        group = session.group()
        epoch = group.status.epoch if group.status else 0
        known = set(session.history)
        socket = session.lab.driver_socket_dir(standby) / f"{self._component.driver_class}.sock"
        with StandbyWatch(group, self._component, standby, socket) as watch:
            with session.progress.step(f"{part.name}: {standby} tells what it would lose") as step:
                told = wait_until_told(watch, 30.0)
                step.detail = "nothing" if told is None else f"{told.lag_s:.2f} s of {self._declared_s:g} s"
            with session.progress.step(f"fault: {part.label}"):
                start_ns = session.inject(part.label, part.inject, (part.name, part.heal))
            told = watch.last_before(start_ns)
        self._take_over(part, group, epoch)
        served = self._look(session.lab.volume_dir(standby) / "live")
        before = [r for r in self._records(active) if r.name not in self._lost]
        session.checks.extend(judge_promotion(part.name, before, served, told, start_ns, self._declared_s))
        self._lost |= {record.name for record in before} - served.records
        if part.told:
            texts = [r for key, e in session.history.items() if key not in known for r in (*e.reasons, e.message)]
            why = next((text for text in texts if part.told in text), "")
            session.checks.append(Check(f"{part.name}: the reason is told", bool(why), why or f"told: {texts[:6]}"))
        session.window(part.name, start_ns, session.gap_limit_ms)
        with session.progress.step(f"{part.name}: heal {active}"):
            healed_ns = session.workload.now_ns()
            session.heal(part.name)
        self._come_back(part, epoch + 1, served)
        session.window(f"{part.name}, return and planned move back", healed_ns, MOVE_BACK_LIMIT_MS, counts=False)

    def _take_over(self, part: _Part, group: RedundancyGroup, epoch: int) -> None:
        session, standby = self._session, self._session.spare
        with session.progress.step(f"{part.name}: {standby} takes over") as step:
            session.wait_for_acks(step, "the service to answer again", session.injected_ns, LOAD_RETURNS, 60.0)
            session.wait(step, f"{standby} to be active", lambda g: active_is(g, standby, epoch), 60.0)
            self._wait_records(standby, RECORDS_RETURN, step_end_s=30.0)
        with session.progress.step("calls with the old epoch are refused"):
            session.try_stale(standby, epoch, group)

    def _come_back(self, part: _Part, epoch: int, served: Tree) -> None:
        session, lab = self._session, self._session.lab
        active, standby = session.preferred, session.spare
        copy: list[Tree] = []

        def back(group: RedundancyGroup) -> str | None:
            site = site_of(group, active)
            follows = site is not None and site.role == "Standby" and can_take_over(group, active) is None
            if follows and not copy and (folder := newest_generation(lab.volume_dir(active))) is not None:
                with contextlib.suppress(OSError):  # replaced by a newer one while it was read
                    copy.append(look(folder, self._run))
                    session.mark(active, f"follows with a whole copy, {copy[-1].position}")
            return settled(group, active, standby, epoch)

        with session.progress.step(f"{part.name}: {active} follows again, and the group goes back by policy") as step:
            session.wait(step, f"the group to be back at {active} with {standby} ready", back, RETURN_TIMEOUT_S)
            self._wait_records(active, RECORDS_RETURN, step_end_s=30.0)
        session.checks.append(judge_copy(part.name, copy[0] if copy else None, served.records))
        session.checks.append(
            judge_kept(part.name, self._look(lab.volume_dir(active) / "live"), self._records(standby))
        )

    def _start(self, site: str) -> None:
        """The site boots, and its application with it."""
        self._session.lab.start(site)
        self._session.lab.start_writer(site, self._run)

    def _records(self, site: str) -> list[Record]:
        return read_journal(self._session.lab.writer_journal(site, self._run))

    def _journals(self) -> dict[str, list[Record]]:
        return {site: self._records(site) for site in (self._session.preferred, self._session.spare)}

    def _look(self, folder: Path) -> Tree:
        """A live copy is written to meanwhile, and its folder is never replaced: it is there, or something is wrong."""
        for _ in range(_LOOKS):
            with contextlib.suppress(FileNotFoundError):
                return look(folder, self._run)
        return look(folder, self._run)

    def _wait_records(self, site: str, number: int, step_end_s: float) -> None:
        """The application at a site has written this many more records.

        Raises:
            StepError: It has not.
        """
        session, begun_ns = self._session, self._session.workload.now_ns()
        while len([r for r in self._records(site) if r.sent_ns >= begun_ns]) < number:
            if (session.workload.now_ns() - begun_ns) / 1e9 > step_end_s:
                raise StepError(f"the application at {site} did not write {number} records in {step_end_s:.0f} s")
            session.pause()


def volume_loss(session: Session) -> None:
    """The active site's volume is lost, then the whole site, while records are written into it."""
    component = volume_of(session.group())
    if component is None:
        raise StepError(
            f"the group {session.group_name} has no volume (a data component with rpoSeconds): "
            f"bring a lab with one up, graf lab up --name volume --volume"
        )
    VolumeLoss(session, component).run()

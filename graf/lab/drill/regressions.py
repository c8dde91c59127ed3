"""Runs a scenario file in the lab: each step of the file as a step of the drill, each condition read from the lab.

Who is active is read from what the observer was answered, and whether the service answers from what clients were; only
what nobody but the manager tells (set, promotable, operations, reasons) is read from its status. So a scenario may lose
the manager and go on.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from graf.crd.group import RedundancyGroup
from graf.crd.operation import FINAL_STATES
from graf.lab.drill.errors import StepError
from graf.lab.drill.model import MS, SECOND, Answer, Check, Probe
from graf.lab.drill.progress import Step as Shown
from graf.lab.drill.scenarios import MANAGEMENT, Scenario
from graf.lab.drill.session import LOAD_RETURNS, Session, can_take_over, reasons_told, set_members, settled, since
from graf.lab.drill.verdict import Allowed
from graf.ports.group_api import ApiError, ApiFault
from graf.scenario.model import ScenarioFile
from graf.scenario.steps import Action, After, Step, Verb
from graf.shell.planned_move import request_switchover
from graf.shell.scenarios import builtin_scenarios

POLL_S = 0.1
STATUS_EVERY_S = 0.4
ACTIVE_WITHIN_NS = SECOND // 2
QUIET_NS = SECOND
LOAD_AFTER_S = 3.0


def regressions() -> dict[str, Scenario]:
    """The known disasters that the lab can run, as scenarios of the drill."""
    return {name: scenario_of(file) for name, file in builtin_scenarios().items() if "lab" in file.worlds}


def scenario_of(file: ScenarioFile) -> Scenario:
    """A scenario file as a scenario of the drill."""
    expect = file.expect
    moves = tuple((move.type, move.from_ == "preferred") for move in expect.moves or ())
    return Scenario(
        name=file.name,
        summary=file.summary,
        moves=moves,
        script=lambda session: Interpreter(session, file).run(),
        allowed=Allowed(expect.lost_writes, expect.dual_active, expect.dual_served or 0, expect.max_moves),
        limits_ms={profile: float(limit) for profile, limit in expect.max_outage_ms.items()},
        profile=file.profile,
        policy=file.policy,
    )


class Interpreter:
    """One run of a file.

    Invariant: a fault is registered with its healing before it is injected (`Session.inject`), so whatever ends the
    run, the session takes back what the file's own steps did not.
    """

    def __init__(self, session: Session, file: ScenarioFile) -> None:
        self._session = session
        self._file = file
        self._begun_ns = self._since_ns = session.workload.now_ns()
        self._known = set(session.history)
        self._told: dict[str, None] = {}
        self._group: RedundancyGroup | None = None
        self._status_due = 0.0
        self._no_status = "the manager's status has not been read yet"
        self._operation = ""

    def run(self) -> None:
        """All steps, then the end that is expected; what was told is judged however the steps ended."""
        session = self._session
        try:
            for step in self._file.steps:
                self._step(step)
            self._end()
        finally:
            self._judge_reasons()
        with session.progress.step("load after the return") as shown:
            session.hold_load(shown, LOAD_AFTER_S)
        session.window("first step to end", session.fault_ns or self._begun_ns, session.gap_limit_ms)

    # -- steps -----------------------------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        action = step.action
        if step.after is not None:
            with self._session.progress.step(f"until {step.after}") as shown:
                self._wait(shown, str(step.after), lambda: self._missing(step.after), step.within_ms / 1e3)
        if step.at_ms is not None:
            left_s = (self._begun_ns + step.at_ms * MS - self._session.workload.now_ns()) / 1e9
            if left_s > 0:
                with self._session.progress.step(f"until {step.at_ms / 1e3:g} s after the first step") as shown:
                    self._hold(shown, left_s)
        with self._session.progress.step(str(action)) as shown:
            if action.verb is Verb.WAIT:
                self._hold(shown, action.ms / 1e3)
            else:
                self._do(action)
        self._since_ns = self._session.workload.now_ns()

    def _do(self, action: Action) -> None:
        lab, session = self._session.lab, self._session
        places = self._locations(action.places)
        match action.verb:
            case Verb.KILL:
                self._break("kill", places, lab.kill, lab.start)
            case Verb.FREEZE:
                self._break("freeze", places, lab.freeze, lab.thaw)
            case Verb.CUT_OFF:
                self._break("cut off", places, lab.cut_off, lab.reconnect)
            case Verb.HOLD_APPLY:
                self._break("hold apply at", places, lab.hold_apply, lab.release_apply)
            case Verb.START:
                self._mend("kill", places)
            case Verb.THAW:
                self._mend("freeze", places)
            case Verb.RECONNECT:
                self._mend("cut off", places)
            case Verb.RELEASE_APPLY:
                self._mend("hold apply at", places)
            case Verb.CUT:
                others = self._locations(action.towards)
                self._break(
                    _link(action),
                    places,
                    lambda place: lab.cut(place, others, action.one_way),
                    lambda place: lab.mend(place, others, action.one_way),
                )
            case Verb.MEND:
                self._mend(_link(action), places)
            case Verb.HOLD_REPLICATION:
                sites = (session.preferred, session.spare)
                session.inject(
                    "hold the replication between the sites",
                    lambda: lab.hold_replication(sites),
                    ("hold replication", lab.release_replication),
                )
            case Verb.RELEASE_REPLICATION:
                session.heal("hold replication")
            case Verb.PAUSE_MANAGER:
                session.inject("pause the manager", lab.pause_manager, ("pause manager", lab.resume_manager))
            case Verb.RESUME_MANAGER:
                session.heal("pause manager")
            case Verb.KILL_DATABASE:
                session.inject(f"kill -9 of the database at {places[0]}", lambda: lab.kill_database(places[0]), None)
            case Verb.SEMI_SYNC_OFF:
                session.inject(f"semi-sync off by hand at {places[0]}", lambda: lab.semi_sync_off(places[0]), None)
            case Verb.SWITCHOVER:
                session.inject(f"switchover to {places[0]} asked for", lambda: self._ask(places[0]), None)
            case _:
                raise StepError(f"the lab cannot {action.verb}")

    def _break(
        self, what: str, places: tuple[str, ...], fault: Callable[[str], None], heal: Callable[[str], None]
    ) -> None:
        for place in places:

            def make(place: str = place) -> None:
                fault(place)

            def mend(place: str = place) -> None:
                heal(place)

            self._session.inject(f"{what} {place}", make, (f"{what} {place}", mend))

    def _mend(self, what: str, places: tuple[str, ...]) -> None:
        for place in places:
            self._session.heal(f"{what} {place}")

    def _ask(self, target: str) -> None:
        session = self._session
        self._operation = request_switchover(session.api, session.group_name, target, f"drill {self._file.name}")

    def _locations(self, participants: tuple[str, ...]) -> tuple[str, ...]:
        """Where participants are; manager and witness share a location of the lab."""
        session = self._session
        where = {"preferred": session.preferred, "spare": session.spare}
        return tuple(dict.fromkeys(where.get(participant, MANAGEMENT) for participant in participants))

    # -- waiting ---------------------------------------------------------------------------------------

    def _wait(self, shown: Shown, what: str, missing: Callable[[], str | None], timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        while (lacking := missing()) is not None:
            shown.detail = lacking
            if time.monotonic() >= end:
                raise StepError(f"waited {timeout_s:.0f} s for {what}, but {lacking}")
            time.sleep(POLL_S)
        shown.detail = ""

    def _hold(self, shown: Shown, seconds: float) -> None:
        """Lets time pass; the record is read meanwhile, since the status keeps only its newest entries."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            shown.detail = f"{left:.0f} s left"
            if left > 1.0:
                self._read_status()
            time.sleep(min(POLL_S, max(0.0, end - time.monotonic())))
        shown.detail = ""

    def _read_status(self) -> None:
        if time.monotonic() < self._status_due:
            return
        try:
            self._group = self._session.group()
            for text in reasons_told(self._group, since(self._session.history, self._known)):
                self._told[text] = None
        except ApiError as problem:
            if problem.fault is not ApiFault.UNREACHABLE:
                raise
            self._no_status, self._group = problem.what, None
        self._status_due = time.monotonic() + STATUS_EVERY_S

    # -- conditions: None when met, else what is missing ---------------------------------------------------

    def _missing(self, after: After | None) -> str | None:
        if after is None:
            return None
        checks: list[tuple[object, Callable[[], str | None]]] = [
            (after.active_is, lambda: self._active(after.active_is)),
            (after.serving, lambda: self._served() if after.serving else self._silent()),
            (after.set_is, lambda: self._set(after.set_is or ())),
            (after.standby_promotable, lambda: self._promotable(after.standby_promotable or "")),
            (after.operation_ended, lambda: self._ended(after.operation_ended or "")),
            (after.holds_because, lambda: self._said(after.holds_because or "")),
        ]
        wanted = [check for given, check in checks if given is not None]
        # All of them each time: several conditions must hold at the same moment.
        return next((lacking for lacking in [check() for check in wanted] if lacking is not None), None)

    def _active(self, role: str | None) -> str | None:
        sites = (self._session.preferred, self._session.spare)
        samples = [s for s in self._session.workload.recent_samples(QUIET_NS) if s.probe is Probe.WRITE]
        newest_ns = self._session.workload.now_ns() - ACTIVE_WITHIN_NS
        accepting = {s.site for s in samples if s.answer is Answer.ACCEPTED and s.start_ns >= self._since_ns}
        if role == "nobody":
            unseen = [site for site in sites if not any(s.site == site for s in samples)]
            ever = sorted({s.site for s in samples if s.answer is Answer.ACCEPTED})
            if unseen:
                return f"the observer has no answer from {', '.join(unseen)}"
            return f"{', '.join(ever)} accepted a write within the last second" if ever else None
        now = {s.site for s in samples if s.answer is Answer.ACCEPTED and s.end_ns >= newest_ns} & accepting
        site = self._locations((role or "",))[0]
        return None if now == {site} else f"{', '.join(sorted(now)) or 'nobody'} accepts writes"

    def _served(self) -> str | None:
        acked = len(self._session.workload.acked_after(self._since_ns))
        return None if acked >= LOAD_RETURNS else f"{acked} of {LOAD_RETURNS} writes acknowledged"

    def _silent(self) -> str | None:
        workload = self._session.workload
        now_ns = workload.now_ns()
        recent = [at for at in workload.acked_after(now_ns - 2 * QUIET_NS) if at >= now_ns - QUIET_NS]
        return f"{len(recent)} writes acknowledged within the last second" if recent else None

    def _of_status(self, ready: Callable[[RedundancyGroup], str | None]) -> str | None:
        self._read_status()
        return ready(self._group) if self._group is not None else self._no_status

    def _set(self, roles: tuple[str, ...]) -> str | None:
        wanted = sorted(self._locations(roles))

        def ready(group: RedundancyGroup) -> str | None:
            members = sorted(set_members(group))
            return None if members == wanted else f"the synchronous set is {', '.join(members) or 'unknown'}"

        return self._of_status(ready)

    def _promotable(self, role: str) -> str | None:
        site = self._locations((role,))[0]
        return self._of_status(lambda group: can_take_over(group, site))

    def _said(self, code: str) -> str | None:
        self._read_status()
        return None if self._heard(code) else f"no reason {code} has been told"

    def _heard(self, code: str) -> str:
        pattern = re.compile(rf"\b{re.escape(code)}\b")
        return next((text for text in self._told if pattern.search(text)), "")

    def _ended(self, wanted: str) -> str | None:
        try:
            operation = self._session.api.operation(self._operation)
        except ApiError as problem:
            if problem.fault is not ApiFault.UNREACHABLE:
                raise
            return problem.what
        state = operation.status.state if operation.status else "Pending"
        message = operation.status.message if operation.status else ""
        if state == wanted:
            if message:
                self._told[message] = None
            return None
        if state in FINAL_STATES:
            raise StepError(f"the switchover ended as {state}, not {wanted}: {message or 'no message'}")
        return f"the switchover is {state}"

    # -- the end ---------------------------------------------------------------------------------------

    def _end(self) -> None:
        wanted = self._file.expect.finally_
        active = self._locations((wanted.active_at,))[0]
        standby = self._locations((wanted.standby_promotable,))[0] if wanted.standby_promotable else ""

        def missing() -> str | None:
            seen = self._active(wanted.active_at)
            seen = seen or (self._served() if wanted.serving else self._silent())
            if seen is None and standby:
                return self._of_status(lambda group: settled(group, active, standby))
            return seen

        what = f"{active} to be active" + (f" and {standby} to be able to take over" if standby else "")
        with self._session.progress.step(f"at the end: {what}") as shown:
            self._wait(shown, what, missing, wanted.within_ms / 1e3)
        self._session.mark("drill", f"ends as expected: {what}")

    def _judge_reasons(self) -> None:
        for code in self._file.expect.holds_because:
            text = self._heard(code)
            detail = text or f"never told; told were: {'; '.join(self._told)[:400] or 'no reasons'}"
            self._session.checks.append(Check(f"reason {code} is told", bool(text), detail))


def _link(action: Action) -> str:
    arrow = "one-way cut" if action.one_way else "cut"
    return f"{arrow} towards {', '.join(action.towards)}:"

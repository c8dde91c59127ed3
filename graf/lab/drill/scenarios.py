"""The scenarios: a table of names, and each script as a function of a session.

A script injects, waits for what must happen, heals, and waits for the return. It concludes nothing about figures:
the verdict does, from what clients and observer wrote down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graf.crd.group import RedundancyGroup
from graf.lab.drill import table_scope as scoped
from graf.lab.drill.errors import StepError
from graf.lab.drill.model import Check
from graf.lab.drill.session import (
    LOAD_RETURNS,
    Session,
    active_is,
    can_take_over,
    reasons_told,
    set_members,
    settled,
    since,
    site_of,
)
from graf.lab.drill.two_groups import TwoGroups
from graf.lab.drill.verdict import STRICT, Allowed, Expectation, gap_limit_ms
from graf.lab.drill.volume_loss import volume_loss
from graf.lab.drill.workload_move import WorkloadMove, workload_of
from graf.scenario.model import PolicySettings
from graf.shell.planned_move import follow, request_switchover

FREEZE_S = 10.0
MANAGER_AWAY_S = 12.0
MANAGEMENT = "mgmt"
_SYNC_REASON = re.compile(r"synchronous.?set|NotInSynchronousSet", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A row of the table.

    Attributes:
        name: As typed on the command line.
        summary: One line for `graf drill list`.
        moves: Operations that it must see, as `(types, away from preferred?)`.
        script: What is done.
        allowed: What the verdict tolerates; nothing, unless a scenario file says so.
        limits_ms: Longest outage by profile; None: as for the built-in scenario of this name.
        profile: Detection profile that it runs with unless another is asked for; None: as the policy has it.
        policy: Settings of the policy that it depends on.
        beside: What a second group that is active at the other site must see; its script is this one's.
    """

    name: str
    summary: str
    moves: tuple[tuple[tuple[str, ...], bool], ...]
    script: Callable[[Session], None]
    allowed: Allowed = STRICT
    limits_ms: Mapping[str, float] | None = None
    profile: str | None = None
    policy: PolicySettings = PolicySettings()
    beside: Scenario | None = None

    @property
    def must_move(self) -> str:
        """The moves for people, in short."""
        if self.allowed.max_moves is not None:
            return f"at most {self.allowed.max_moves}"
        return ", ".join(("there" if away else "back") for _, away in self.moves) or "no"

    def gap_limit_ms(self, profile: str) -> float | None:
        """Longest outage with which a run passes under a profile; None: as long as it takes."""
        return gap_limit_ms(self.name, profile) if self.limits_ms is None else self.limits_ms.get(profile)

    def expected(self, preferred: str, spare: str) -> tuple[Expectation, ...]:
        """The operations with the sites of a group."""
        return tuple(
            Expectation(types, *((preferred, spare) if away else (spare, preferred))) for types, away in self.moves
        )


# -- parts that scripts share ------------------------------------------------------------------------------


def _take_over(session: Session) -> None:
    """The spare site serves the users, in a new epoch; then the old epoch is tried where it can be."""
    with session.progress.step(f"{session.spare} takes over") as step:
        session.wait_for_acks(step, "the service to answer again", session.injected_ns, LOAD_RETURNS, 60.0)
        group = session.wait(
            step,
            f"{session.spare} to be recorded as active",
            lambda g: active_is(g, session.spare, session.start_epoch),
            60.0,
        )
    with session.progress.step("calls with the old epoch are refused"):
        session.try_stale(session.spare, session.start_epoch, group)


def _return(session: Session, timeout_s: float = 240.0) -> None:
    """The failed site follows again (verdict, resync, set), and the group goes back by its policy."""
    with session.progress.step(f"{session.preferred} returns: verdict, resync, failback by policy") as step:
        seen: set[str] = set()

        def back(newest: RedundancyGroup) -> str | None:
            site = site_of(newest, session.preferred)
            if site is not None and site.verdict and site.role != "Active" and site.verdict not in seen:
                seen.add(site.verdict)
                session.mark(session.preferred, f"verdict {site.verdict}")
            if can_take_over(newest, session.preferred) is None and "member" not in seen:
                seen.add("member")
                session.mark(session.preferred, "able to take over again")
            return settled(newest, session.preferred, session.spare, session.start_epoch + 1)

        session.wait(step, f"the group to be back at {session.preferred} with {session.spare} ready", back, timeout_s)
        session.mark("drill", f"back at {session.preferred}, {session.spare} ready")


def _after(session: Session) -> None:
    with session.progress.step("load after the return") as step:
        session.hold_load(step, 3.0)


def _no_move(session: Session) -> None:
    group = session.group()
    missing = active_is(group, session.preferred)
    epoch = group.status.epoch if group.status else -1
    session.checks.append(
        Check(
            "nothing moved",
            missing is None and epoch == session.start_epoch,
            missing or f"epoch {session.start_epoch} -> {epoch} at {session.preferred}",
        )
    )


# -- faults of the active site -----------------------------------------------------------------------------


def _site_fault(session: Session, label: str, inject: str, heal: str, heal_after_s: float = 0.0) -> None:
    site = session.preferred
    do: Callable[[str], None] = getattr(session.lab, inject)
    undo: Callable[[str], None] = getattr(session.lab, heal)
    with session.progress.step(f"fault: {label} {site}"):
        start = session.inject(f"{label} {site}", lambda: do(site), (f"{label} {site}", lambda: undo(site)))
    _take_over(session)
    with session.progress.step(f"heal {site}") as step:
        since_fault_s = (session.workload.now_ns() - start) / 1e9
        session.hold_load(step, max(1.0, heal_after_s - since_fault_s))
        session.heal(f"{label} {site}")
    _return(session)
    _after(session)
    session.window("fault to return", start, session.gap_limit_ms)


def site_loss(session: Session) -> None:
    """Kill -9 of everything of the active site, control plane too."""
    _site_fault(session, "kill everything at", "kill", "start")


def site_partition(session: Session) -> None:
    """The active site is cut off from everybody; its processes live."""
    _site_fault(session, "cut off", "cut_off", "reconnect", 5.0)


def site_freeze(session: Session) -> None:
    """The active site stands still for ten seconds and then goes on as if nothing had been."""
    _site_fault(session, "freeze", "freeze", "thaw", FREEZE_S)


def db_crash(session: Session) -> None:
    """Kill -9 of the active database server alone."""
    site = session.preferred
    with session.progress.step(f"fault: kill the database at {site}"):
        start = session.inject(f"kill -9 of the database at {site}", lambda: session.lab.kill_database(site), None)
    _take_over(session)
    _return(session)
    _after(session)
    session.window("fault to return", start, session.gap_limit_ms)


# -- faults beside the active site -------------------------------------------------------------------------


def standby_loss(session: Session) -> None:
    """Three parts: the standby is lost; the active's database dies beside it; the standby is let back in."""
    _standby_is_lost(session)
    _database_dies_alone(session)
    _standby_is_back(session)
    _no_move(session)


def _standby_is_lost(session: Session) -> None:
    standby = session.spare
    with session.progress.step(f"part 1: kill everything at {standby}"):
        start = session.inject(
            f"kill everything at {standby}",
            lambda: session.lab.kill(standby),
            ("kill standby", lambda: session.lab.start(standby)),
        )
    with session.progress.step(f"{session.preferred} goes on alone") as step:
        session.wait_for_acks(step, "writes without the standby", session.injected_ns, LOAD_RETURNS, 60.0)
        session.wait(
            step,
            f"the synchronous set to be {session.preferred} alone",
            lambda g: (
                None if set_members(g) == [session.preferred] else f"it is {', '.join(set_members(g)) or 'unknown'}"
            ),
            30.0,
        )
        session.hold_load(step, 2.0)
    session.window("part 1: standby lost", start, session.gap_limit_ms)


def _database_dies_alone(session: Session) -> None:
    active, standby = session.preferred, session.spare
    with session.progress.step(f"part 2: {standby} comes back, its replication held off") as step:
        sites = (active, standby)
        session.inject(
            "hold the replication between the sites",
            lambda: session.lab.hold_replication(sites),
            ("hold replication", session.lab.release_replication),
        )
        session.heal("kill standby")

        def present(group: RedundancyGroup) -> str | None:
            site = site_of(group, standby)
            if site is None or not site.connected:
                return f"{standby} is not connected to the manager"
            if not site.components or any(c.health == "Unknown" for c in site.components):
                return f"the drivers of {standby} are not all up"
            return None

        session.wait(step, f"{standby} to be connected", present, 180.0)
    known = set(session.history)
    with session.progress.step(f"kill the database at {active}: no failover, a local restart serves again") as step:
        start = session.inject(f"kill -9 of the database at {active}", lambda: session.lab.kill_database(active), None)
        session.wait_for_acks(step, "the local restart", session.injected_ns, LOAD_RETURNS, 60.0)
        session.hold_load(step, 2.0)
    session.window("part 2: local restart", start, None, counts=False)
    with session.progress.step("the reason is shown") as step:
        texts: list[str] = []

        def shown(group: RedundancyGroup) -> str | None:
            texts[:] = reasons_told(group, since(session.history, known))
            return None if any(_SYNC_REASON.search(text) for text in texts) else "no reason names the synchronous set"

        reason = ""
        try:
            session.wait(step, "a reason that names the synchronous set", shown, 15.0)
            reason = next(text for text in texts if _SYNC_REASON.search(text))
        except StepError as error:
            session.checks.append(
                Check("reason of holding is shown", False, f"{error}; seen: {'; '.join(texts)[:400]}")
            )
            return
        step.detail = reason
        session.checks.append(Check("reason of holding is shown", True, reason))


def _standby_is_back(session: Session) -> None:
    start = session.mark("drill", "part 3")
    with session.progress.step(f"part 3: replication let go, {session.spare} becomes promotable again") as step:
        session.heal("hold replication")
        session.wait(
            step,
            f"{session.spare} to be able to take over",
            lambda g: settled(g, session.preferred, session.spare),
            180.0,
        )
        session.mark(session.spare, "able to take over again")
    _after(session)
    session.window("part 3: standby returns", start, None, counts=False)


def manager_loss(session: Session) -> None:
    """Kill -9 of everything at the management location, the witness and Git too."""
    with session.progress.step("fault: kill everything at mgmt"):
        start = session.inject(
            "kill everything at mgmt",
            lambda: session.lab.kill(MANAGEMENT),
            ("kill mgmt", lambda: session.lab.start(MANAGEMENT)),
        )
    with session.progress.step("the service goes on without a manager") as step:
        session.hold_load(step, MANAGER_AWAY_S)
    with session.progress.step("the manager returns, all converges") as step:
        session.heal("kill mgmt")
        healed_ns = session.workload.now_ns()
        session.wait_for_acks(step, "writes while the manager returns", healed_ns, LOAD_RETURNS, 30.0)
        session.wait(
            step,
            "the group to be reported as before",
            lambda g: settled(g, session.preferred, session.spare),
            240.0,
        )
        session.mark("manager", "reports the group again")
    _after(session)
    session.window("fault to return", start, session.gap_limit_ms)
    _no_move(session)


def switchover(session: Session) -> None:
    """Planned, there and back."""
    with session.progress.step(f"switchover to {session.spare}") as step:
        start = session.inject(f"switchover to {session.spare} asked for", lambda: None, None)
        _move(session, session.spare)
        group = session.wait(
            step,
            f"{session.preferred} to be able to take over",
            lambda g: settled(g, session.spare, session.preferred, session.start_epoch),
            60.0,
        )
    with session.progress.step("load between the two moves") as step:
        session.hold_load(step, 2.0)
        epoch = group.status.epoch if group.status else 0
        session.try_stale(session.preferred, epoch - 1, group)
    with session.progress.step(f"switchover back to {session.preferred}") as step:
        if active_is(session.group(), session.preferred) is not None:
            session.mark("drill", f"switchover to {session.preferred} asked for")
            _move(session, session.preferred)
        session.wait(
            step,
            f"the group to be back at {session.preferred}",
            lambda g: settled(g, session.preferred, session.spare, epoch),
            60.0,
        )
    _after(session)
    session.window("both moves", start, session.gap_limit_ms)


def table_scope(session: Session) -> None:
    """The active site is lost where the group has a part of the database, with a tail that cannot be cut off."""
    # A rebuild of a scope replays all that was ever written, and each run of the drill adds to it.
    scoped.play(session, _take_over, lambda again: _return(again, timeout_s=900.0))


def workload_move(session: Session) -> None:
    """A warm Deployment and its configuration move with the group, by a loss and by plan."""
    component = workload_of(session.group())
    WorkloadMove(session, component, lambda target: _move(session, target)).run()


def two_groups(session: Session) -> None:
    """Each site is lost in turn; the group that is active there moves, and the other one serves on."""
    TwoGroups(session, _take_over).run()


def _move(session: Session, target: str) -> None:
    name = request_switchover(session.api, session.group_name, target, "drill switchover")
    operation = follow(session.api, name, 90.0, lambda _: None)
    state = operation.status.state if operation.status else "Pending"
    if state == "Succeeded":
        return
    if active_is(session.group(), target) is None:
        return  # the policy's own failback was faster; the record says which of the two it was
    message = operation.status.message if operation.status else ""
    raise StepError(f"the switchover to {target} ended as {state}: {message or 'no message'}")


_THERE = (("Failover",), True)
_BACK = (("Failback",), False)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("db-crash", "kill -9 of the active MariaDB", (_THERE, _BACK), db_crash),
        Scenario("site-loss", "kill -9 of everything of the active site at once", (_THERE, _BACK), site_loss),
        Scenario("site-partition", "active site cut off from everybody, both ways", (_THERE, _BACK), site_partition),
        Scenario("site-freeze", "SIGSTOP of the whole active site, SIGCONT 10 s later", (_THERE, _BACK), site_freeze),
        Scenario("standby-loss", "standby site killed, then the active's database beside it", (), standby_loss),
        Scenario("manager-loss", "kill -9 of everything at mgmt, witness too", (), manager_loss),
        Scenario(
            "switchover",
            "planned, there and back",
            ((("Switchover",), True), (("Switchover", "Failback"), False)),
            switchover,
        ),
        Scenario(
            "volume-loss",
            "the active's volume is lost, then its whole site; needs graf lab up --volume",
            (_THERE, _BACK, _THERE, _BACK),
            volume_loss,
        ),
        Scenario(
            "workload-move",
            "a Deployment and its configuration move, by loss and by plan; needs graf lab up --workload",
            (_THERE, _BACK, (("Switchover",), True), (("Switchover", "Failback"), False)),
            workload_move,
        ),
        Scenario(
            "two-groups",
            "two groups, active at different sites; each site is lost in turn; needs graf lab up --groups",
            (_THERE, _BACK),
            two_groups,
            beside=Scenario("two-groups", "the other group", (_THERE, _BACK), two_groups),
        ),
        Scenario(
            "table-scope",
            "site lost where the group has a part of the database; needs graf lab up --scope",
            (_THERE, _BACK),
            table_scope,
            profile="wan",  # the lease ends later: a database that the site itself has killed logs no change any more
        ),
    )
}

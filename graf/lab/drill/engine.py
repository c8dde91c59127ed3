"""One run of a scenario: pre-check, load, script, healing, final checks, judgement."""

from __future__ import annotations

import gzip
import shutil
import time
from pathlib import Path

import pymysql

from graf.crd.group import RedundancyGroup
from graf.lab.drill import measure
from graf.lab.drill.errors import DrillError, StepError
from graf.lab.drill.findings import (
    WARM_UP_S,
    client_summary,
    controls,
    error_kinds,
    gap_markers,
    newest_recorded_epoch,
    record_markers,
    recorded,
    safety_summary,
    sites_of,
    wall_to_mono_ns,
)
from graf.lab.drill.git_record import GitError, commit_of_move
from graf.lab.drill.lab_port import Account, DrillLab
from graf.lab.drill.model import (
    MS,
    Ack,
    ClientError,
    Operation,
    Raw,
    Run,
    Sample,
)
from graf.lab.drill.progress import Progress
from graf.lab.drill.ready import wait_ready
from graf.lab.drill.scenarios import Scenario
from graf.lab.drill.session import Session
from graf.lab.drill.verdict import Evidence, judge
from graf.lab.drill.workload import Workload
from graf.lab.errors import LabError
from graf.ports.group_api import ApiError, GroupApi

RECORD_TIMEOUT_S = 20.0
CATCH_UP_TIMEOUT_S = 30.0
# What the script may meet without being at fault itself: told as a failed step, the rest is measured all the same.
_SCRIPT_ERRORS = (StepError, ApiError, LabError, OSError, pymysql.err.Error)


def service_of(group: RedundancyGroup) -> tuple[str, int]:
    """Address and port that the users know, from the component of stage `traffic`."""
    for component in group.spec.components:
        address = component.parameters.get("serviceAddress")
        if component.stage == "traffic" and isinstance(address, str):
            ports = component.parameters.get("ports") or [3306]
            return address.split("/")[0], int(ports[0])
    raise DrillError(f"the group {group.name} has no traffic component with a serviceAddress")


def account_of(lab: DrillLab, group: RedundancyGroup) -> Account:
    """The application's user, from the parameters of the group's database and the site's Secret."""
    for component in group.spec.components:
        application = component.parameters.get("application")
        if component.stage == "data" and isinstance(application, dict):
            password = lab.application_password(group.spec.preferred_site)
            return Account(str(application["user"]), password, str(application["database"]))
    raise DrillError(
        f"no data component of {group.name} has the parameter application: {{database, user}}",
        "the clients of a drill write as the application's user",
        "add it to the group in Git",
    )


class Drill:
    """Runs a scenario against one group of a lab."""

    def __init__(
        self,
        lab: DrillLab,
        api: GroupApi,
        scenario: Scenario,
        group_name: str,
        profile: str,
        progress: Progress,
    ) -> None:
        self._lab = lab
        self._api = api
        self._scenario = scenario
        self._group_name = group_name
        self._profile = profile
        self._progress = progress

    def run(self, out: Path) -> tuple[Run, Raw]:
        """One run; its raw data stay in `out` as well.

        Raises:
            DrillError: It could not begin.
            KeyboardInterrupt: After the faults have been taken back.
        """
        group = wait_ready(self._api, self._group_name, self._progress)
        session = self._session(group, out)
        if self._scenario.beside is None:
            return self._judge(session, group, self._measure(session))
        other = self._with_group(self._other_group(group), self._scenario.beside)
        other_group = wait_ready(self._api, other._group_name, self._progress)
        session.beside = other._session(other_group, out / other._group_name)
        failures = self._measure(session)
        run, raw = self._judge(session, group, failures)
        beside, _ = other._judge(session.beside, other_group, [])
        return run.and_beside(beside), raw

    def _other_group(self, group: RedundancyGroup) -> str:
        """The group that is at home where this one's spare site is.

        Raises:
            DrillError: There is none, or more than one.
        """
        spare = sites_of(group)[1]
        names = [other.name for other in self._api.groups() if other.spec.preferred_site == spare]
        if len(names) != 1:
            raise DrillError(
                f"{len(names)} groups prefer the site {spare}, and {self._scenario.name} needs one beside {group.name}",
                "it loses each site in turn, and one group is active at each",
                "bring a lab with two groups up: graf lab up --name groups --groups",
            )
        return names[0]

    def _with_group(self, name: str, scenario: Scenario) -> Drill:
        return Drill(self._lab, self._api, scenario, name, self._profile, self._progress)

    def _judge(self, session: Session, group: RedundancyGroup, failures: list[str]) -> tuple[Run, Raw]:
        """From what one group's clients, observer and records say to a verdict."""
        client_end_ns = time.monotonic_ns()
        group = self._final_group(session, group, failures)
        with self._progress.step("old epochs are refused at every site") as step:
            try:
                for site in group.spec.site_names:
                    session.try_stale(site, (group.status.epoch if group.status else 0) - 1, group)
                step.detail = f"{session.stale.refused} refused, {session.stale.accepted} accepted"
            except _SCRIPT_ERRORS as error:
                failures.append(_sentence(error))
        acks, errors, samples = session.workload.results()
        missing = self._lost(session, group, acks, failures)
        operations = self._operations(session, acks, missing, client_end_ns, failures)
        run = self._conclude(session, acks, errors, samples, missing, operations, failures, client_end_ns)
        _compress(session.workload.raw_files())
        return run, Raw(tuple(measure.ack_times(acks)), tuple(samples))

    # -- before and during -----------------------------------------------------------------------------

    def _session(self, group: RedundancyGroup, out: Path) -> Session:
        out.mkdir(parents=True, exist_ok=True)
        preferred, spare = sites_of(group)
        workload = Workload(
            self._lab, account_of(self._lab, group), service_of(group), tuple(group.spec.site_names), out
        )
        session = Session(
            lab=self._lab,
            api=self._api,
            workload=workload,
            progress=self._progress,
            group_name=self._group_name,
            preferred=preferred,
            spare=spare,
            gap_limit_ms=self._scenario.gap_limit_ms(self._profile),
            start_epoch=group.status.epoch if group.status else 0,
        )
        session.group()
        return session

    def _measure(self, session: Session) -> list[str]:
        """Load, script, healing. Returns what failed, as sentences."""
        failures: list[str] = []
        measured = [session] if session.beside is None else [session, session.beside]
        for one in measured:
            one.workload.prepare()
        begun_ns = [one.mark("drill", "load begins") for one in measured][-1]
        try:
            for one in measured:
                one.workload.start()
            with self._progress.step("load before the fault") as step:
                for one in measured:
                    one.wait_for_acks(step, "the first writes", begun_ns, 1, 15.0)
                session.hold_load(step, WARM_UP_S)
                for one in measured:
                    one.workload.check_alive()
            self._scenario.script(session)
        except _SCRIPT_ERRORS as error:
            failures.append(_sentence(error))
            session.mark("drill", "script ended early")
        finally:
            failures += session.heal_all()
            for one in measured:
                if not one.windows:  # the script ended early: what was measured up to here is judged
                    one.fault_ns = one.fault_ns or time.monotonic_ns()
                    one.window("fault to end of script", one.fault_ns, one.gap_limit_ms)
                one.workload.stop()
        return failures

    # -- after -----------------------------------------------------------------------------------------

    def _final_group(self, session: Session, group: RedundancyGroup, failures: list[str]) -> RedundancyGroup:
        """The group when all its moves are in Git, or after a bounded time."""
        with self._progress.step("decisions are in Git") as step:
            end = time.monotonic() + RECORD_TIMEOUT_S
            while True:
                try:
                    group = session.group()
                    moves = recorded(session)
                    epoch = group.status.epoch if group.status else 0
                    missing = [o for o in moves if not self._commit(o.epoch_to, o.type)]
                    if not missing and epoch in (session.start_epoch, newest_recorded_epoch(session)):
                        return group
                    step.detail = f"{len(missing)} of {len(moves)} moves not in Git yet"
                except ApiError as problem:
                    step.detail = problem.what
                if time.monotonic() > end:
                    failures.append(f"after {RECORD_TIMEOUT_S:.0f} s {step.detail}")
                    return group
                time.sleep(0.5)

    def _commit(self, epoch: int, kind: str) -> str:
        try:
            return commit_of_move(self._lab.git_dir(), self._group_name, epoch, kind)
        except GitError:
            return ""

    def _lost(
        self, session: Session, group: RedundancyGroup, acks: list[Ack], failures: list[str]
    ) -> dict[str, list[tuple[int, int]]]:
        """Acknowledged ids that are missing, by where they were looked for; an unreadable place is a failure."""
        active = group.status.active_site if group.status else ""
        missing: dict[str, list[tuple[int, int]]] = {}
        with self._progress.step(
            f"every acknowledged write is at {active or 'the service'} and at the standby"
        ) as step:
            try:
                missing["service"] = measure.lost_ids(acks, session.workload.ids_at_service())
            except (pymysql.err.Error, OSError, LabError) as error:
                failures.append(f"the ids could not be read through the service address: {error}")
            for site in group.spec.site_names:
                if site == active:
                    continue
                try:
                    missing[site] = self._standby_lost(session, site, acks)
                except (pymysql.err.Error, OSError, LabError) as error:
                    failures.append(f"the ids could not be read at {site}: {error}")
            step.detail = ", ".join(f"{place}: {len(ids)} missing of {len(acks)}" for place, ids in missing.items())
        return missing

    @staticmethod
    def _standby_lost(session: Session, site: str, acks: list[Ack]) -> list[tuple[int, int]]:
        """What a standby still lacks when it has had time to catch up."""
        end = time.monotonic() + CATCH_UP_TIMEOUT_S
        while True:
            lost = measure.lost_ids(acks, session.workload.ids_at_site(site))
            if not lost or time.monotonic() > end:
                return lost
            time.sleep(0.5)

    def _operations(
        self,
        session: Session,
        acks: list[Ack],
        missing: dict[str, list[tuple[int, int]]],
        end_ns: int,
        failures: list[str],
    ) -> list[Operation]:
        moves = recorded(session)
        times = measure.ack_times(acks)
        start_ns = session.fault_ns or end_ns - 1
        windows = measure.operation_windows(moves, wall_to_mono_ns(), start_ns, end_ns)
        lost = set().union(*missing.values()) if missing else set()
        lost_at = sorted(ack.acked_ns for ack in acks if (ack.client, ack.seq) in lost)
        result, before_ns = [], 0
        for index, (operation, (at_ns, low, high)) in enumerate(zip(moves, windows, strict=True)):
            until = at_ns if index + 1 < len(moves) else end_ns
            result.append(
                Operation(
                    type=operation.type,
                    from_site=operation.from_site,
                    to_site=operation.to_site,
                    epoch_from=operation.epoch_from,
                    epoch_to=operation.epoch_to,
                    rto_ms=measure.longest_gap(times, low, high).ms if times else None,
                    rpo_writes=sum(before_ns <= at < until for at in lost_at),
                    phases_ms=operation.phases_ms,
                    git_commit=self._commit(operation.epoch_to, operation.type),
                    at_ns=at_ns,
                )
            )
            before_ns = until
        return result

    def _conclude(
        self,
        session: Session,
        acks: list[Ack],
        errors: list[ClientError],
        samples: list[Sample],
        missing: dict[str, list[tuple[int, int]]],
        operations: list[Operation],
        failures: list[str],
        end_ns: int,
    ) -> Run:
        times = measure.ack_times(acks)
        begin_ns = session.markers[0].at_ns
        fault_ns = session.fault_ns or end_ns
        windows = [measure.measure_window(times, window) for window in session.windows]
        client = client_summary(times, errors, missing, windows, fault_ns, session)
        safety = safety_summary(samples, session, times[0] if times else begin_ns, end_ns)
        sites = (session.preferred, session.spare)
        result, checks = judge(
            Evidence(
                client=client,
                safety=safety,
                stale=session.stale,
                operations=operations,
                expected=self._scenario.expected(*sites),
                windows=windows,
                sites=sites,
                controls=controls(samples, session, operations, fault_ns),
                failures=failures,
                own=session.checks,
                allowed=self._scenario.allowed,
            )
        )
        return Run(
            scenario=self._scenario.name,
            profile=self._profile,
            group=self._group_name,
            started_wall_ms=int((begin_ns - wall_to_mono_ns()) / MS),
            origin_ns=fault_ns,
            result=result,
            checks=checks,
            client=client,
            safety=safety,
            operations=tuple(operations),
            windows=tuple(windows),
            markers=tuple(
                sorted(
                    [*session.markers, *record_markers(session, begin_ns), *gap_markers(times, session.windows)],
                    key=lambda m: m.at_ns,
                )
            ),
            steps=tuple(step.to_json() for step in self._progress.steps),
            evidence={"stale_calls": list(session.stale.details), "error_kinds": error_kinds(errors)},
        )


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _compress(paths: tuple[Path, ...]) -> None:
    """Keeps the raw data, smaller."""
    for path in paths:
        target = path.with_suffix(".csv.gz")
        with path.open("rb") as source, gzip.open(target, "wb", compresslevel=3) as file:
            shutil.copyfileobj(source, file)
        path.unlink()

"""The drill `workload-move`: a warm Deployment and its configuration move with the group, by a loss and by plan.

Needs a lab with an application (`graf lab up --workload`). Before each move the configuration is changed at the site
that is active; afterwards the application must run at the other one with exactly that. Each part begins where the one
before it ended.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from graf.crd.group import GroupComponent, RedundancyGroup
from graf.lab import application as lab_application
from graf.lab.drill.application import Part, Told, judge_one_at_a_time, judge_part, read
from graf.lab.drill.application_server import digest_of
from graf.lab.drill.application_watch import WatchConfig
from graf.lab.drill.errors import StepError
from graf.lab.drill.session import LOAD_RETURNS, Session, active_is, settled
from graf.lab.errors import LabError

RETURN_TIMEOUT_S = 240.0
TAKE_OVER_TIMEOUT_S = 60.0
ANSWERS_RETURN = 10
_STOP_S = 5.0

Move = Callable[[str], None]


class WorkloadMove:
    """One run. The watch is ended whatever ends the script; faults are taken back by the session."""

    def __init__(self, session: Session, component: GroupComponent, move: Move) -> None:
        self._session = session
        self._move = move
        self._namespace = str(component.parameters["namespace"])
        self._service_host = session.workload.service_host
        self._out = session.workload.out
        self._changes = 0
        self._parts: list[Part] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def _journal(self) -> Path:
        return self._out / "application.log"

    def run(self) -> None:
        """A loss with its return, then a planned move there and back."""
        session = self._session
        active, standby = session.preferred, session.spare
        try:
            with session.progress.step(f"the application runs at {active} and is watched"):
                self._start()
                begun_ns = session.workload.now_ns()
                plan, key = self._change(active)
                self._wait_synced(standby, plan)
                self._wait_answers(active, begun_ns, step_end_s=30.0)
            self._lose(active, standby, plan, key)
            self._planned(active, standby)
        finally:
            self._stop()
        answers = read(self._journal)
        limit_s = (session.gap_limit_ms or 0.0) / 1000
        for part in self._parts:
            session.checks.extend(judge_part(part, answers, limit_s))
        session.checks.extend(judge_one_at_a_time(answers, (active, standby)))

    # -- the parts ---------------------------------------------------------------------------------------------

    def _lose(self, active: str, standby: str, plan: str, key: str) -> None:
        session, label = self._session, f"kill everything at {self._session.preferred}"
        group = session.group()
        epoch = group.status.epoch if group.status else 0
        with session.progress.step(f"fault: {label}"):
            start_ns = session.inject(
                label, lambda: session.lab.kill(active), (label, lambda: session.lab.start(active))
            )
        with session.progress.step(f"{standby} takes over, and starts the application") as step:
            session.wait_for_acks(step, "the service to answer again", session.injected_ns, LOAD_RETURNS, 60.0)
            session.wait(step, f"{standby} to be active", lambda g: active_is(g, standby, epoch), TAKE_OVER_TIMEOUT_S)
            self._wait_answers(standby, session.injected_ns, step_end_s=TAKE_OVER_TIMEOUT_S)
        with session.progress.step("calls with the old epoch are refused"):
            session.try_stale(standby, epoch, group)
        session.window("site lost", start_ns, session.gap_limit_ms)
        self._part("site lost", standby, start_ns, plan, key)
        plan_after, key_after = self._change(standby)
        healed_ns = session.workload.now_ns()
        with session.progress.step(f"heal {active}"):
            session.heal(label)
        with session.progress.step(f"{active} follows again, and the group goes back by its policy") as step:
            session.wait(
                step,
                f"the group to be back at {active} with {standby} ready",
                lambda g: settled(g, active, standby, epoch + 1),
                RETURN_TIMEOUT_S,
            )
            self._wait_answers(active, healed_ns, step_end_s=30.0)
        session.window("return and planned move back", healed_ns, None, counts=False)
        self._part("return", active, healed_ns, plan_after, key_after)

    def _planned(self, active: str, standby: str) -> None:
        """Changed right before the move: a planned one loses nothing, so nobody waits for the change to arrive."""
        session = self._session
        for target, other in ((standby, active), (active, standby)):
            begin_ns = session.workload.now_ns()
            group = session.group()
            epoch = group.status.epoch if group.status else 0
            with session.progress.step(f"switchover to {target}, right after a change at {other}") as step:
                plan, key = self._change(other)
                session.mark("drill", f"switchover to {target} asked for")
                self._move(target)
                session.wait(
                    step,
                    f"the group to be at {target} with {other} ready",
                    lambda g, target=target, other=other, epoch=epoch: settled(g, target, other, epoch),  # type: ignore[misc]
                    RETURN_TIMEOUT_S,
                )
                self._wait_answers(target, begin_ns, step_end_s=30.0)
            session.window(f"switchover to {target}", begin_ns, session.gap_limit_ms, counts=False)
            self._part(f"switchover to {target}", target, begin_ns, plan, key)

    def _part(self, name: str, site: str, begin_ns: int, plan: str, key: str) -> None:
        self._parts.append(Part(name, site, begin_ns, self._session.workload.now_ns(), plan, key))

    # -- what is done ------------------------------------------------------------------------------------------

    def _change(self, site: str) -> tuple[str, str]:
        """Writes a new ConfigMap and Secret at a site, as an operator; the plan, and what is told of the key."""
        self._changes += 1
        plan = f"{self._session.workload.run_id}-{self._changes}"
        key = f"key-of-{plan}"
        encoded = base64.b64encode(key.encode()).decode()
        self._patch(site, "secret", lab_application.SECRET, {lab_application.SECRET_KEY: encoded})
        self._patch(site, "configmap", lab_application.PLAN, {lab_application.PLAN_KEY: plan})
        self._session.mark(site, f"configured with {plan}")
        return plan, digest_of(key)

    def _patch(self, site: str, kind: str, name: str, data: dict[str, str]) -> None:
        patch = json.dumps({"data": data})
        self._session.lab.kubectl(site, "-n", self._namespace, "patch", kind, name, "--type=merge", "-p", patch)

    def _wait_synced(self, site: str, plan: str) -> None:
        """An unplanned loss may lose what was written last: the first part waits until it has arrived.

        Raises:
            StepError: It has not.
        """
        session, begun_ns, seen = self._session, self._session.workload.now_ns(), ""
        path = f"-o=jsonpath={{.data.{lab_application.PLAN_KEY}}}"
        while seen != plan:
            if (session.workload.now_ns() - begun_ns) / 1e9 > 30.0:
                raise StepError(f"the ConfigMap at {site} says {seen!r} after 30 s, and not {plan!r}")
            session.pause()
            with contextlib.suppress(LabError):
                seen = session.lab.kubectl(
                    site, "-n", self._namespace, "get", "configmap", lab_application.PLAN, "--ignore-not-found", path
                )

    def _wait_answers(self, site: str, since_ns: int, step_end_s: float) -> None:
        """Users are answered by a site.

        Raises:
            StepError: They are not.
        """
        session, begun_ns = self._session, self._session.workload.now_ns()

        def count() -> int:
            return sum(self._is_users(told, site) and told.start_ns >= since_ns for told in read(self._journal))

        while count() < ANSWERS_RETURN:
            if self._process is None or self._process.poll() is not None:
                raise StepError("the watch of the application ended by itself; see application.stderr")
            if (session.workload.now_ns() - begun_ns) / 1e9 > step_end_s:
                raise StepError(f"the application at {site} did not answer users within {step_end_s:.0f} s")
            session.pause()

    @staticmethod
    def _is_users(told: Told, site: str) -> bool:
        return told.probe == "users" and told.site == site

    def _start(self) -> None:
        lab, sites = self._session.lab, (self._session.preferred, self._session.spare)
        config = WatchConfig(
            users=lab.namespace("users"),
            sites={site: lab.namespace(site) for site in sites},
            service_host=self._service_host,
            port=lab_application.PORT,
            output=str(self._journal),
        )
        path = self._out / "application.json"
        config.save(path)
        argv = [sys.executable, "-m", "graf.lab.drill.application_watch", str(path)]
        self._process = lab.spawn("users", argv, self._out / "application.stderr")

    def _stop(self) -> None:
        if self._process is None:
            return
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)


def workload_of(group: RedundancyGroup) -> GroupComponent:
    """The group's component that runs Pods.

    Raises:
        StepError: It has none; says how to get one.
    """
    for component in group.spec.components:
        if component.stage == "workload":
            return component
    raise StepError(
        f"the group {group.name} has no workload: bring a lab with one up, graf lab up --name workload --workload"
    )

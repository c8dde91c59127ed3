"""graf-controller: one per site."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError

from graf.controller.config import ConfigError, ControllerConfig, load
from graf.controller.deploy import ClusterKeeper, Desired
from graf.controller.dialing import Dialer
from graf.controller.driver_pki import DriverPki
from graf.controller.driver_reports import ClassState, driver_report
from graf.controller.endpoints import Endpoints
from graf.controller.groups import assignment_of
from graf.controller.keeper import Keeper
from graf.controller.manager_link import ManagerLink, assignments_to_json
from graf.controller.records import Records
from graf.controller.uses import uses_of
from graf.crd.assignment import GroupAssignmentSpec
from graf.crd.driverclass import DriverClass
from graf.shell import logs
from graf.shell.disk import write_durably
from graf.shell.promises import PromiseStore, PromiseStoreError
from graf.shell.proto import manager_pb2
from graf.shell.tls import TlsError, TlsMaterial
from graf.shell.voting import Voting

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.controller.rollout import Use

LOG = logging.getLogger("graf.controller")


class Controller:
    """Wires keeper, manager link and cluster keeper of one site together; lives on the lease loop."""

    def __init__(self, config: ControllerConfig) -> None:
        self._config = config
        config.data_dir.mkdir(parents=True, exist_ok=True)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="records-disk")
        self._records = Records(config.data_dir / "records", config.site, self._spool)
        voting = Voting(config.site, PromiseStore(config.data_dir / "promises"))
        endpoints = Endpoints(config.data_dir / "endpoints.json", self._spool)
        drivers = config.data_dir / "drivers"
        pki = DriverPki(drivers / "pki", config.site)
        dialer = Dialer(config.driver_socket_dir, drivers / "addresses.json", pki)
        self._keeper = Keeper(config.site, voting, self._records, config.tls_dir, dialer, endpoints)
        self._link = ManagerLink(config, self._keeper, self._records, self.take, self._driver_reports)
        self._statuses: dict[str, dict[str, Any]] = {}
        self._uses: dict[str, tuple[Use, str]] = {}
        self._classes: dict[str, DriverClass] = {}
        self._cluster = (
            ClusterKeeper(
                config.namespace,
                str(config.driver_socket_dir),
                lambda: self._statuses,
                lambda: self._uses,
                pki,
                dialer,
                drivers / "revisions",
            )
            if config.kubernetes
            else None
        )
        self._assignments_file = config.data_dir / "assignments.json"

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps leases until told to stop."""
        port = await self._keeper.start(self._config.listen)
        logs.event(LOG, "controller runs", site=self._config.site, listen=self._config.listen, port=port)
        if self._cluster is not None:
            self._cluster.start()
        self._load_last_assignments()
        tasks = [asyncio.create_task(self._link.run()), asyncio.create_task(self._collect_statuses())]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._keeper.close()
        if self._cluster is not None:
            self._cluster.close()
        self._disk.shutdown(wait=True)

    def take(self, message: manager_pb2.Assignments) -> None:
        """Takes assignments of the manager: all of them or, when one is wrong, none."""
        complete = message.existing_is_complete
        existing = frozenset(message.existing_driver_classes) if complete else None
        if self._use(list(message.group_assignments_json), list(message.driver_classes_json), existing):
            content = assignments_to_json(message)
            self._spool(lambda: write_durably(self._assignments_file, content))

    def _use(self, groups: list[bytes], classes: list[bytes], existing: frozenset[str] | None = None) -> bool:
        try:
            parsed_classes = {c.name: c for c in (DriverClass.model_validate_json(raw) for raw in classes)}
            specs = tuple(GroupAssignmentSpec.model_validate_json(raw) for raw in groups)
            known = {**self._classes, **parsed_classes}
            strangers = [spec.group for spec in specs if spec.site != self._config.site]
            if strangers:
                raise ValueError(f"assignments of other sites were sent here: {', '.join(strangers)}")
            assignments = [assignment_of(spec, known) for spec in specs]
        except (ValidationError, ValueError) as error:
            cause = str(error).replace("\n", " ")
            logs.event(LOG, "assignments refused, the old ones stay", logging.ERROR, cause=cause)
            return False
        self._classes = known
        self._keeper.assign(assignments)
        if self._cluster is not None:
            used = {w.driver_class for a in assignments for w in a.wiring.values()}
            self._cluster.want(Desired({n: c for n, c in known.items() if n in used}, specs, existing))
        return True

    def _load_last_assignments(self) -> None:
        try:
            content = json.loads(self._assignments_file.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            logs.event(LOG, "last assignments unreadable, waiting for the manager", logging.ERROR, cause=str(error))
            return
        self._use(
            [json.dumps(spec).encode() for spec in content["groupAssignments"]],
            [json.dumps(item).encode() for item in content["driverClasses"]],
        )

    async def _collect_statuses(self) -> None:
        """Copies for the cluster thread, which must not touch agents."""
        while True:
            self._statuses = {
                group: {
                    "role": agent.role.value,
                    "epoch": agent.epoch,
                    "phase": agent.decision.reasons[0].code if agent.decision.reasons else "",
                    "components": [
                        {
                            "name": component.name,
                            "role": (view.role.value if view.role is not None else "Unknown"),
                            "health": view.health.value,
                            "epoch": component.status.epoch if component.status is not None else 0,
                            "message": component.last_error,
                        }
                        for component, view in ((c, agent.view_of(c.name)) for c in agent.components.values())
                    ],
                }
                for group, agent in self._keeper.agents.items()
            }
            self._uses = uses_of(self._keeper)
            await asyncio.sleep(1.0)

    def _driver_reports(self) -> list[manager_pb2.DriverReport]:
        states = self._cluster.states if self._cluster is not None else None
        reports: dict[str, manager_pb2.DriverReport] = {}
        for agent in self._keeper.agents.values():
            for component in agent.components.values():
                driver_class = self._classes.get(component.wiring.driver_class)
                if driver_class is None:
                    continue
                state = None if states is None else states.get(driver_class.name, ClassState(reason="NotApplied"))
                heard = component.status is not None
                told = driver_report(driver_class, state, component.driver, heard, component.last_error)
                before = reports.get(driver_class.name)
                if before is None or (before.ready and not told.ready):
                    reports[driver_class.name] = told
        return list(reports.values())

    def _spool(self, write: Callable[[], None]) -> None:
        def run() -> None:
            try:
                write()
            except OSError as error:
                logs.event(LOG, "cannot write to disk", logging.ERROR, cause=str(error))

        self._disk.submit(run)


def _keep_leases(controller_config: ControllerConfig, stop_thread: threading.Event, failures: list[str]) -> None:
    """The lease loop, in a thread of its own: nothing else of this process runs on it."""
    import uvloop

    async def until_stopped() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        threading.Thread(target=lambda: (stop_thread.wait(), loop.call_soon_threadsafe(stop.set)), daemon=True).start()
        await Controller(controller_config).run(stop)

    try:
        uvloop.run(until_stopped())
    except (TlsError, PromiseStoreError, OSError) as error:
        failures.append(str(error))
    finally:
        stop_thread.set()


def _command(config: Annotated[Path, typer.Option(help="Configuration file (YAML).")]) -> None:
    logs.set_up()
    stop = threading.Event()
    failures: list[str] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        controller_config = load(config, ControllerConfig)
        TlsMaterial.load(controller_config.tls_dir)
    except (ConfigError, TlsError) as error:
        logs.event(LOG, str(error), logging.CRITICAL)
        sys.exit(1)
    keeper = threading.Thread(target=_keep_leases, args=(controller_config, stop, failures), name="leases")
    keeper.start()
    while keeper.is_alive():
        keeper.join(timeout=0.5)
    for failure in failures:
        logs.event(LOG, failure, logging.CRITICAL)
    sys.exit(1 if failures else 0)


def main() -> None:
    """Entry point of the command graf-controller."""
    typer.run(_command)

"""Clients and observer of one run as processes, the tables they use, and what the sites hold at the end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from bisect import bisect_left
from pathlib import Path
from typing import Any

import pymysql

from graf.lab.drill.clients import CREATE_WRITES, WRITES_TABLE, ClientConfig, read_journal
from graf.lab.drill.errors import DrillError
from graf.lab.drill.lab_port import Account, DrillLab
from graf.lab.drill.model import Ack, ClientError, Probe, Sample
from graf.lab.drill.netns import connect_in
from graf.lab.drill.observer import CREATE_PROBE, ObserverConfig, parse_samples, read_samples

USERS = "users"
DIRECT_HOST = "127.0.0.1"
STOP_TIMEOUT_S = 10.0
OBSERVER_TIMEOUT_S = 15.0


class Workload:
    """The load and the observation of one run.

    Args:
        lab: Where to run them.
        account: The application's user.
        service: Service address and port.
        sites: The sites of the group.
        out: Folder for the raw data.
    """

    def __init__(
        self, lab: DrillLab, account: Account, service: tuple[str, int], sites: tuple[str, ...], out: Path
    ) -> None:
        self._lab = lab
        self._account = account
        self._service = service
        self._sites = sites
        self._journal = out / "clients.log"
        self._samples = out / "observer.log"
        self._out = out
        self._processes: list[subprocess.Popen[bytes]] = []
        self._offset = 0
        self._sent_acked: list[tuple[int, int]] = []
        self._samples_offset = 0
        self._recent: list[Sample] = []
        self.run_id = time.time_ns() // 1_000_000

    def prepare(self) -> None:
        """Makes the tables through the service address, as a user would. What earlier runs wrote stays."""
        try:
            connection = self._open(USERS, *self._service)
            with contextlib.closing(connection), connection.cursor() as cursor:
                for statement in (CREATE_WRITES, CREATE_PROBE):
                    cursor.execute(statement)
        except (pymysql.err.Error, OSError) as error:
            host, port = self._service
            raise DrillError(
                f"the users cannot write to the service at {host}:{port}",
                f"{type(error).__name__}: {error}",
                "graf status shows who should serve; graf lab status shows what runs",
            ) from error

    def start(self) -> None:
        """Starts the observer, and the clients once it has an answer to each question: it must see what they do.

        Raises:
            DrillError: It had none in time, or ended.
        """
        self._journal.touch()
        self._samples.touch()
        host, port = self._service
        observer = ObserverConfig(
            sites={site: self._lab.namespace(site) for site in self._sites},
            user=self._account.user,
            password=self._account.password,
            database=self._account.database,
            output=str(self._samples),
            service_host=host,
            port=port,
        )
        clients = ClientConfig(
            host=host,
            port=port,
            user=self._account.user,
            password=self._account.password,
            database=self._account.database,
            run=self.run_id,
            output=str(self._journal),
        )
        self._spawn("observer", observer)
        self._wait_for_observer()
        self._spawn("clients", clients)

    def _wait_for_observer(self) -> None:
        asked = {(site, probe) for site in self._sites for probe in Probe}
        ends = time.monotonic() + OBSERVER_TIMEOUT_S
        while missing := asked - {(sample.site, sample.probe) for sample in read_samples(self._samples)}:
            self.check_alive()
            if time.monotonic() > ends:
                names = ", ".join(sorted(f"{site}/{probe}" for site, probe in missing))
                raise DrillError(
                    f"the observer had no answer within {OBSERVER_TIMEOUT_S:.0f} s",
                    f"nothing of {names}",
                    "run the drill again when the machine is less busy",
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Ends both by the end of their input; kills what does not end."""
        for process in self._processes:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        for process in self._processes:
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT_S)
        self._processes.clear()

    def check_alive(self) -> None:
        """Raises when one of them has ended by itself: a measurement without its instrument is none."""
        for process in self._processes:
            if process.poll() is not None:
                logs = {path.name: path.read_text(errors="replace")[-600:] for path in self._out.glob("*.stderr")}
                raise DrillError(f"a process of the measurement ended by itself (exit {process.returncode})", str(logs))

    def acked_after(self, since_ns: int) -> list[int]:
        """Times of acknowledgements of writes that were sent after a moment, in order, as known now."""
        self.check_alive()
        with self._journal.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        complete = data.rfind(b"\n") + 1
        self._offset += complete
        for line in data[:complete].splitlines():
            if line.startswith(b"A "):
                _, _, _, sent, acked = line.split(b" ")
                self._sent_acked.append((int(sent), int(acked)))
        self._sent_acked.sort()
        first = bisect_left(self._sent_acked, (since_ns, 0))
        return sorted(acked for _, acked in self._sent_acked[first:])

    def recent_samples(self, span_ns: int) -> list[Sample]:
        """What the observer was answered within the last `span_ns`, as known now."""
        self.check_alive()
        with self._samples.open("rb") as file:
            file.seek(self._samples_offset)
            data = file.read()
        complete = data.rfind(b"\n") + 1
        self._samples_offset += complete
        since_ns = self.now_ns() - span_ns
        self._recent += parse_samples(data[:complete].decode())
        self._recent = [sample for sample in self._recent if sample.end_ns >= since_ns]
        return self._recent

    @staticmethod
    def now_ns() -> int:
        """Now, on the clock of every measurement."""
        return time.monotonic_ns()

    def results(self) -> tuple[list[Ack], list[ClientError], list[Sample]]:
        """Everything that was measured."""
        return *read_journal(self._journal), read_samples(self._samples)

    @property
    def service_host(self) -> str:
        """The service address."""
        return self._service[0]

    @property
    def out(self) -> Path:
        """Folder of the raw data."""
        return self._out

    def raw_files(self) -> tuple[Path, Path]:
        """Journal of the clients and samples of the observer."""
        return self._journal, self._samples

    def ids_at_service(self) -> set[tuple[int, int]]:
        """Ids of this run that the active site has, read as a user does."""
        return self._ids(USERS, *self._service)

    def ids_at_site(self, site: str) -> set[tuple[int, int]]:
        """Ids of this run that a site's own database has."""
        return self._ids(site, DIRECT_HOST, self._service[1])

    def _ids(self, location: str, host: str, port: int) -> set[tuple[int, int]]:
        connection = self._open(location, host, port, timeout_s=10.0)
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute(f"SELECT client, seq FROM {WRITES_TABLE} WHERE run = %s", (self.run_id,))  # noqa: S608
            return {(int(client), int(seq)) for client, seq in cursor.fetchall()}

    def _open(self, location: str, host: str, port: int, timeout_s: float = 3.0) -> Any:
        return connect_in(self._lab.namespace(location), host, port, self._account, timeout_s)

    def _spawn(self, name: str, config: ObserverConfig | ClientConfig) -> None:
        path = self._out / f"{name}.json"
        config.save(path)
        argv = [sys.executable, "-m", f"graf.lab.drill.{name}", str(path)]
        self._processes.append(self._lab.spawn(USERS, argv, self._out / f"{name}.stderr"))

"""The drill's port on the real lab."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from graf.lab import process, volume
from graf.lab.drill.database import Administrator, ends_with
from graf.lab.drill.errors import DrillError
from graf.lab.drill.volume_writer import WriterConfig
from graf.lab.errors import LabError
from graf.lab.faults import Direction
from graf.lab.lab import Lab
from graf.lab.process import Daemon
from graf.lab.topology import MANAGEMENT

DATABASE_PATTERN = r"(^|/)(mariadbd|mysqld)( |$)"
DATABASE_PORT = 3306
MANAGER_PATTERN = r"(^|/)graf-manager( |$)"
SECRET, SECRET_KEY, LOCAL_KEY = "graf-mysql", "application-password", "local-password"
HOLD_TABLE = "graf_drill_hold"
WRITER, WRITER_DIR = "volume-writer", "/var/lib/graf/volume-writer"


class RealLab:
    """`DrillLab` by `graf.lab.lab.Lab`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._held_applies: dict[str, Administrator] = {}

    @property
    def name(self) -> str:
        return self._lab.name

    def lock_file(self) -> Path:
        return self._lab.topology.state_dir / "drill.lock"

    def namespace(self, location: str) -> str:
        return self._lab.netns(location)

    def kubeconfig(self, location: str) -> Path:
        return self._lab.kubeconfig(location)

    def kubectl(self, location: str, *argv: str) -> str:
        return self._lab.kubectl(location, *argv)

    def git_dir(self) -> Path:
        return self._lab.topology.git_repository

    def driver_socket_dir(self, location: str) -> Path:
        # /run is the location's own, in its mount namespace: looked into through the process that holds that namespace.
        holder = process.daemon_pid(self._lab.topology, location, "holder")
        return Path(f"/proc/{holder}/root/run/graf/drivers") if holder else Path("/nonexistent")

    def application_password(self, location: str) -> str:
        return self._password(location, SECRET_KEY, "the drill's clients write as the application's user")

    def local_password(self, location: str) -> str:
        return self._password(location, LOCAL_KEY, "the drill writes as the site's own account")

    def _password(self, location: str, key: str, why: str) -> str:
        text = self._lab.kubectl(location, "-n", "graf-system", "get", "secret", SECRET, "-o", "json")
        encoded = json.loads(text).get("data", {}).get(key)
        if not encoded:
            raise DrillError(
                f"the Secret {SECRET} of {location} has no {key}",
                why,
                "take the lab down and up again: graf lab down && graf lab up",
            )
        return base64.b64decode(encoded).decode().strip()

    def spawn(self, location: str, argv: Sequence[str], stderr: Path) -> subprocess.Popen[bytes]:
        with stderr.open("wb") as log:
            return self._lab.popen_in(location, argv, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def kill(self, location: str) -> None:
        self._lab.kill_site(location)

    def start(self, location: str) -> None:
        self._lab.start_site(location, wait=False)

    def freeze(self, location: str) -> None:
        self._lab.freeze_site(location)

    def thaw(self, location: str) -> None:
        self._lab.thaw_site(location)

    def cut_off(self, location: str) -> None:
        self._lab.partition(location)

    def reconnect(self, location: str) -> None:
        self._lab.heal(location)

    def kill_database(self, location: str) -> None:
        self._lab.kill_process(location, DATABASE_PATTERN)

    def logged(self, location: str, data_dir: str, statement: str) -> bool:
        return ends_with(self._lab.disk(location, f"{data_dir}/data"), statement)

    def hold_replication(self, sites: Sequence[str]) -> None:
        one, other = (self._lab.topology.location(site).address for site in sites)
        rules = "\n".join(
            f"    ip saddr {a} ip daddr {b} tcp {port} {DATABASE_PORT} drop"
            for a, b in ((one, other), (other, one))
            for port in ("dport", "sport")
        )
        self._wan_nft(
            f"add table bridge {HOLD_TABLE}\ndelete table bridge {HOLD_TABLE}\n"
            f"table bridge {HOLD_TABLE} {{\n  chain forward {{\n    type filter hook forward priority -10;\n"
            f"{rules}\n  }}\n}}\n"
        )

    def release_replication(self) -> None:
        self._wan_nft(f"add table bridge {HOLD_TABLE}\ndelete table bridge {HOLD_TABLE}\n")

    def cut(self, location: str, peers: Sequence[str], one_way: bool) -> None:
        self._lab.partition(location, _direction(one_way), peers=peers)

    def mend(self, location: str, peers: Sequence[str], one_way: bool) -> None:
        self._lab.mend(location, _direction(one_way), peers)

    def hold_apply(self, location: str) -> None:
        # A lock, not STOP SLAVE: the applier runs and waits, as behind a backup, and the receiver goes on.
        administrator = self._administrator(location)
        administrator.run("FLUSH TABLES WITH READ LOCK")
        self._held_applies[location] = administrator

    def release_apply(self, location: str) -> None:
        if (administrator := self._held_applies.pop(location, None)) is not None:
            administrator.close()  # the lock ends with its connection

    def semi_sync_off(self, location: str) -> None:
        with contextlib.closing(self._administrator(location)) as administrator:
            administrator.run("SET GLOBAL rpl_semi_sync_master_enabled = OFF")

    def volume_dir(self, location: str) -> Path:
        return volume.folder(self._lab.topology, location)

    def lose_volume(self, location: str) -> None:
        volume.lose(self._lab.topology, location)

    def forget_lost_volume(self, location: str) -> None:
        volume.forget_lost(self._lab.topology, location)

    def start_writer(self, location: str, run: int) -> None:
        folder = self._lab.disk(location, WRITER_DIR)
        folder.mkdir(parents=True, exist_ok=True)
        driver = f"/run/graf/drivers/{volume.DRIVER_CLASS}.sock"
        config = WriterConfig(f"{volume.DIRECTORY}/current", f"{WRITER_DIR}/{run}.log", location, run, driver)
        config.save(folder / "config.json")
        argv = (sys.executable, "-m", "graf.lab.drill.volume_writer", f"{WRITER_DIR}/config.json")
        process.start_daemon(self._lab.topology, location, Daemon(WRITER, argv, nice=0))

    def stop_writer(self, location: str) -> None:
        process.stop_daemon(self._lab.topology, location, WRITER)

    def writer_journal(self, location: str, run: int) -> Path:
        return self._lab.disk(location, WRITER_DIR) / f"{run}.log"

    def pause_manager(self) -> None:
        self._lab.kill_process(MANAGEMENT, MANAGER_PATTERN, signal.SIGSTOP)

    def resume_manager(self) -> None:
        with contextlib.suppress(LabError):  # its location was killed meanwhile: nothing stands still
            self._lab.kill_process(MANAGEMENT, MANAGER_PATTERN, signal.SIGCONT)

    def _administrator(self, location: str) -> Administrator:
        servers = self._lab.find_pids(location, DATABASE_PATTERN)
        if not servers:
            raise DrillError(f"no database server runs at {location}", "a step of the scenario needs it to run")
        return Administrator(location, servers[0])

    def _wan_nft(self, script: str) -> None:
        namespace = f"/run/netns/{self._lab.topology.wan_netns}"
        done = subprocess.run(
            ["nsenter", f"--net={namespace}", "nft", "-f", "-"],
            input=script,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        if done.returncode != 0:
            raise DrillError("the replication between the sites cannot be held or let go", done.stderr.strip())


def _direction(one_way: bool) -> Direction:
    return Direction.OUT if one_way else Direction.BOTH

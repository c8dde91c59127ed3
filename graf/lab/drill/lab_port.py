"""What a drill asks of the lab: where things are, and the faults. `adapter` implements it with the real lab."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Account:
    """The ordinary application user of the protected database: no privilege that passes read_only."""

    user: str
    password: str
    database: str


class DrillLab(Protocol):
    """A lab that is up. Every fault has its healing, and healing twice does no harm."""

    @property
    def name(self) -> str:
        """Name of the lab."""

    def lock_file(self) -> Path:
        """File whose lock the one drill of this lab holds."""

    def namespace(self, location: str) -> str:
        """Network namespace of a location."""

    def kubeconfig(self, location: str) -> Path:
        """Operator's kubeconfig of a location's cluster."""

    def kubectl(self, location: str, *argv: str) -> str:
        """What kubectl prints at a location's cluster, in its own network: also while it is cut off."""

    def git_dir(self) -> Path:
        """The bare GitOps repository on this machine's disk."""

    def driver_socket_dir(self, location: str) -> Path:
        """Where this machine finds a location's driver sockets."""

    def application_password(self, location: str) -> str:
        """Password of the application's database user, from the Secret of a location's cluster."""

    def local_password(self, location: str) -> str:
        """Password of the site's own account beside a scope, from the same Secret."""

    def spawn(self, location: str, argv: Sequence[str], stderr: Path) -> subprocess.Popen[bytes]:
        """Starts a program in a location's network with the clients' share of CPU; its standard input is a pipe."""

    def kill(self, location: str) -> None:
        """Kill -9 of every process of a location, at once."""

    def start(self, location: str) -> None:
        """Starts a killed location again; its cluster need not be ready yet when this returns."""

    def freeze(self, location: str) -> None:
        """Stops every process of a location, at once."""

    def thaw(self, location: str) -> None:
        """Lets them go on."""

    def cut_off(self, location: str) -> None:
        """Drops everything between a location and all others, both ways."""

    def reconnect(self, location: str) -> None:
        """Takes `cut_off` back."""

    def kill_database(self, location: str) -> None:
        """Kill -9 of the location's database server and of nothing else."""

    def logged(self, location: str, data_dir: str, statement: str) -> bool:
        """Whether a statement is at the end of the binary log of the location's database, on its disk."""

    def hold_replication(self, sites: Sequence[str]) -> None:
        """Drops the database's own traffic between sites, nothing else."""

    def release_replication(self) -> None:
        """Takes `hold_replication` back."""

    def cut(self, location: str, peers: Sequence[str], one_way: bool) -> None:
        """Drops everything between a location and these others; one way: only what goes from it to them."""

    def mend(self, location: str, peers: Sequence[str], one_way: bool) -> None:
        """Takes exactly this `cut` back."""

    def hold_apply(self, location: str) -> None:
        """What a standby receives is kept and acknowledged, and not applied."""

    def release_apply(self, location: str) -> None:
        """Takes `hold_apply` back."""

    def semi_sync_off(self, location: str) -> None:
        """Switches the wait for a standby's acknowledgement off, as somebody would by hand."""

    def volume_dir(self, location: str) -> Path:
        """Where this machine finds a site's volume."""

    def lose_volume(self, location: str) -> None:
        """A site's volume is gone at once; an empty folder is in its place."""

    def forget_lost_volume(self, location: str) -> None:
        """Deletes what `lose_volume` put aside; the site has the empty one."""

    def start_writer(self, location: str, run: int) -> None:
        """Starts the application that writes records into the volume, as a process of the site."""

    def stop_writer(self, location: str) -> None:
        """Ends it."""

    def writer_journal(self, location: str, run: int) -> Path:
        """Where this machine finds what that application has told."""

    def pause_manager(self) -> None:
        """Stops the manager's process; what else runs at its location goes on."""

    def resume_manager(self) -> None:
        """Lets it go on."""

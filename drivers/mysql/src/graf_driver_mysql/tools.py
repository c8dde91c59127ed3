"""The programs by which data is copied, and how they are called. No I/O but the look whether one is installed.

``mariadb-backup`` and the dumping programs run beside the active, as its administrator by the socket; what they write
goes over the channel (channel.py), and is unpacked, prepared or loaded at the site that gets it.
"""

from __future__ import annotations

import os
from pathlib import Path

from graf_driver_mysql.engines import engine
from graf_driver_mysql.methods import AUTO, PHYSICAL, Method
from graf_driver_mysql.parameters import Parameters
from graf_driver_mysql.programs import MissingProgramError, program

BACKUP = ("mariadb-backup", "mariadb-backup")
UNPACK = ("mbstream", "mariadb-backup")
DUMPS = {"mariadb": ("mariadb-dump", "mariadb-client"), "mysql": ("mysqldump", "mysql-client-core")}
CLIENTS = {"mariadb": ("mariadb", "mariadb-client-core"), "mysql": ("mysql", "mysql-client-core")}
_LOADER = {
    "mariadb": ("--skip-log-bin", "--innodb-log-file-size=64M", "--skip-slave-start"),
    "mysql": (
        *("--disable-log-bin", "--mysqlx=OFF", "--gtid-mode=ON", "--enforce-gtid-consistency=ON"),
        *("--plugin-load-add=auth_socket.so", "--secure-file-priv=NULL", "--skip-replica-start"),
    ),
}


def missing(product: str, method: Method, *, serving: bool) -> str:
    """Which program of a method is not here, "" when all are."""
    needed: tuple[tuple[str, str], ...] = ()
    if method is Method.BACKUP:
        needed = (BACKUP,) if serving else (BACKUP, UNPACK)
    elif method is Method.DUMP:
        needed = (DUMPS[product] if serving else CLIENTS[product],)
    try:
        for one in needed:
            program(*one)
    except MissingProgramError as error:
        return str(error)
    return ""


def no_copy(parameters: Parameters) -> str:
    """Why a site could only get the data by the log, "" when a copy can be made. So the log must stay whole, then."""
    if parameters.scope is not None:
        return "a part of a server is bootstrapped by its log alone"
    if parameters.bootstrap == Method.LOG:
        return "whole log is asked for (bootstrap: log)"
    product = parameters.engine
    method = PHYSICAL[product] if parameters.bootstrap == AUTO else Method(parameters.bootstrap)
    for serving in (False, True):  # either side of it may be this site's
        if why := missing(product, method, serving=serving):
            return why
    return ""


def backup(parameters: Parameters, data: Path, scratch: Path) -> list[str]:
    """Copies a running MariaDB to standard output, with the position that the copy is of."""
    return [
        *(program(*BACKUP), "--no-defaults", "--backup", "--stream=xbstream", "--user=root"),
        *(f"--socket={parameters.socket}", f"--datadir={data}", f"--target-dir={scratch}", f"--tmpdir={scratch}"),
    ]


def unpack(target: Path) -> list[str]:
    """Standard input into a folder."""
    return [program(*UNPACK), "-x", "-C", str(target)]


def prepare(target: Path, memory_mib: int) -> list[str]:
    """Makes the copied files one state: that of the position."""
    own = f"--defaults-file={target}/backup-my.cnf"  # how the files that were copied are laid out
    return [program(*BACKUP), own, "--prepare", f"--use-memory={max(32, memory_mib)}M", f"--target-dir={target}"]


def dump(parameters: Parameters, databases: list[str]) -> list[str]:
    """One transaction's view of these databases to standard output, with the position that it is of."""
    product = parameters.engine
    position = ["--master-data=1", "--gtid"] if product == "mariadb" else ["--set-gtid-purged=ON"]
    return [
        *(program(*DUMPS[product]), "--no-defaults", f"--socket={parameters.socket}", "--user=root"),
        *("--single-transaction", "--quick", "--hex-blob", "--routines", "--events", "--triggers", *position),
        *("--default-character-set=utf8mb4", "--databases", *databases),
    ]


def client(product: str, socket: Path) -> list[str]:
    """Runs the statements that come by standard input, as the administrator; the first mistake ends it."""
    return [
        *(program(*CLIENTS[product]), "--no-defaults", f"--socket={socket}", "--user=root", "--batch"),
        *("--binary-mode", "--default-character-set=utf8mb4", "--max-allowed-packet=1G"),
    ]


def loader(parameters: Parameters, data: Path, socket: Path, scratch: Path) -> list[str]:
    """A server that nobody but the driver reaches, to load a dump into; what it does is durable when it has ended."""
    product = parameters.engine
    return [
        *(program(*engine(product).server), "--no-defaults", f"--datadir={data}", f"--socket={socket}"),
        *("--skip-networking", f"--pid-file={scratch}/load.pid", f"--tmpdir={scratch}"),
        *(f"--server-id={parameters.server_id}", f"--innodb-buffer-pool-size={parameters.buffer_pool_mib}M"),
        *("--max-allowed-packet=1G", "--performance-schema=OFF", "--innodb-flush-log-at-trx-commit=0"),
        *_LOADER[product],
        *(("--user=root",) if os.geteuid() == 0 else ()),
    ]

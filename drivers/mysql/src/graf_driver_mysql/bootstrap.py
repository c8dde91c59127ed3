"""An empty data directory with the users of GRAF and of the application, equal at every site.

It is made once as a template, without the binary log: both sites start with empty, equal histories. A site that
starts empty or is rebuilt gets a copy.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
from pathlib import Path

from graf_driver_mysql.engines import engine
from graf_driver_mysql.layout import Layout
from graf_driver_mysql.parameters import Parameters
from graf_driver_mysql.programs import BootstrapError
from graf_driver_mysql.scope import escaped
from graf_driver_mysql.sql import quoted
from graf_driver_mysql.text import LONGEST_PASSWORD, unusable

_libc = ctypes.CDLL(None, use_errno=True)


def ensure_data(parameters: Parameters, layout: Layout) -> bool:
    """Makes the data directory where there is none; True when it is new. Blocking: call it in a thread.

    Raises:
        BootstrapError: the product's tools failed; the message has what they said.
    """
    if layout.data.exists():
        _refuse_other_scope(parameters, layout)
        return False
    fresh = layout.root / "data.new"
    copy_template(parameters, layout, fresh)
    sync_tree(fresh)
    if parameters.scope is None:
        layout.scope.unlink(missing_ok=True)
    else:
        layout.scope.write_text(parameters.scope.identity(), encoding="utf-8")
    fresh.replace(layout.data)
    sync(layout.root)
    return True


def copy_template(parameters: Parameters, layout: Layout, target: Path) -> None:
    """An empty database in a folder of its own. Blocking; raises BootstrapError."""
    _ensure_template(parameters, layout)
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(layout.template, target)


def _refuse_other_scope(parameters: Parameters, layout: Layout) -> None:
    """What was out of scope has no history to follow: a change of the scope needs data that was made for it."""
    made = layout.scope.read_text(encoding="utf-8") if layout.scope.exists() else ""
    wanted = "" if parameters.scope is None else parameters.scope.identity()
    if made != wanted:
        raise BootstrapError(
            f"the data in {layout.data} was made for the scope {made or 'whole server'} and is to serve "
            f"{wanted or 'whole server'}: restore the parameter, or choose another dataDir and load the data there"
        )


def statements(parameters: Parameters) -> str:
    """The SQL that gives a fresh server its users and the application's database."""
    lines = [
        *engine(parameters.engine).users(
            _secret(parameters.replication_password_file, LONGEST_PASSWORD[parameters.engine])
        ),
        "CREATE DATABASE graf;",
        "CREATE TABLE graf.probe (site VARCHAR(63) PRIMARY KEY, number BIGINT NOT NULL) ENGINE=InnoDB;",
    ]
    if parameters.application_user and parameters.application_database:
        user, database = parameters.application_user, parameters.application_database
        secret = quoted(_secret(parameters.application_password_file))
        lines.append(f"CREATE DATABASE IF NOT EXISTS `{database}`;")
        lines.append(f"CREATE USER {quoted(user)}@'%' IDENTIFIED BY {secret};")
        # No administrative privilege: read_only binds this user.
        for name in (database,) if parameters.scope is None else map(escaped, parameters.scope.all_databases):
            lines.append(f"GRANT ALL PRIVILEGES ON `{name}`.* TO {quoted(user)}@'%';")
    lines += [f"{statement};" for statement in initial_databases(parameters)]
    if parameters.init_sql is not None:
        if parameters.application_database:
            lines.append(f"USE `{parameters.application_database}`;")
        lines.append(parameters.init_sql.read_text(encoding="utf-8"))
    return "\n".join(lines) + "\n"


def initial_databases(parameters: Parameters) -> tuple[str, ...]:
    """The statements that make the databases of the scope where they are missing."""
    names = () if parameters.scope is None else parameters.scope.all_databases
    return tuple(f"CREATE DATABASE IF NOT EXISTS `{name}`" for name in names)


def initial_content(parameters: Parameters) -> tuple[str, ...]:
    """The statements of ``initSql`` one by one, for a server that runs: each ends with ``;`` at the end of a line."""
    if parameters.init_sql is None:
        return ()
    found = [f"USE `{parameters.application_database}`"] if parameters.application_database else []
    lines: list[str] = []
    for line in parameters.init_sql.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.lstrip().startswith(("-- ", "#")):
            lines.append(line)
        if line.rstrip().endswith(";") and lines:
            found.append("\n".join(lines).rstrip().removesuffix(";"))
            lines = []
    return tuple(found)


def _ensure_template(parameters: Parameters, layout: Layout) -> None:
    sql = statements(parameters)
    digest = hashlib.sha256((parameters.engine + sql if parameters.engine != "mariadb" else sql).encode()).hexdigest()
    mark = layout.root / "template.sha256"
    if layout.template.is_dir() and mark.is_file() and mark.read_text(encoding="ascii") == digest:
        return
    layout.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.rmtree(layout.template, ignore_errors=True)
    engine(parameters.engine).make_template(parameters, layout, sql)
    mark.write_text(digest, encoding="ascii")


def _secret(path: Path, longest: int = 0) -> str:
    try:
        found = path.read_text(encoding="utf-8").strip()
        why = unusable(found, longest)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or "cannot be read" if isinstance(error, OSError) else "it is not text"
    if why:
        raise BootstrapError(f"the password in {path} cannot be used: {why}; put another one into the Secret")
    return found


def sync_tree(root: Path) -> None:
    """Returns when everything below (and beside it on the file system) would survive a power cut."""
    # One syncfs instead of some 300 fsyncs (0.1 s instead of 3 s).
    descriptor = os.open(root, os.O_RDONLY)
    try:
        if _libc.syncfs(descriptor) != 0:
            raise BootstrapError(f"syncfs of {root}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Returns when this one file or folder would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

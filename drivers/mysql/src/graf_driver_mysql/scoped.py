"""Empties what is in scope on a server that keeps the rest: the active's history is followed from its start then."""

from __future__ import annotations

from graf_driver_sdk.blocking import run_blocking

from graf_driver_mysql import bootstrap
from graf_driver_mysql.backend import Backend
from graf_driver_mysql.guard import UNLOGGED
from graf_driver_mysql.observe import replica
from graf_driver_mysql.scope import Scope
from graf_driver_mysql.sql import Session

DROP_TIMEOUT_S = 60.0
LOCK_WAIT_S = 5


async def empty(backend: Backend, scope: Scope) -> None:
    """Afterwards the scope is as bootstrap left it, and the server's history is empty. Can be begun anew at any point.

    The caller keeps on record that it is under way: a half-emptied scope must neither serve nor follow.

    Raises:
        SqlError: A statement failed, e.g. a reader holds a table; call again.
    """
    statements = await run_blocking(_initial, backend)
    engine = backend.engine
    side = await backend.side_session("empty-scope")
    try:
        await side.run(UNLOGGED, "SET SESSION foreign_key_checks = 0", f"SET SESSION lock_wait_timeout = {LOCK_WAIT_S}")
        if await replica(side) is not None:
            await side.run(engine.stop_following, engine.forget_source, timeout_s=10)
        drops = [f"DROP DATABASE IF EXISTS `{name}`" for name in scope.databases]
        drops += [f"DROP TABLE IF EXISTS `{database}`.`{table}`" for database, table in scope.tables]
        drops += await _routines(side, scope)
        await side.run(*drops, "DELETE FROM graf.probe", timeout_s=DROP_TIMEOUT_S)
        await side.run(*statements, timeout_s=DROP_TIMEOUT_S)
        # Last: as long as there is a history, it is one that was rebuilt because it does not fit.
        await side.run("RESET MASTER", "SET GLOBAL gtid_slave_pos = ''", timeout_s=10)
    finally:
        side.close()


def _initial(backend: Backend) -> tuple[str, ...]:
    parameters = backend.parameters
    return (*bootstrap.initial_databases(parameters), *bootstrap.initial_content(parameters))


async def _routines(side: Session, scope: Scope) -> list[str]:
    """Routines and events belong to no table, so the filters let those of a listed table's database through: all go."""
    found = []
    for database in sorted({database for database, _ in scope.tables}):
        for row in await side.rows(
            "SELECT ROUTINE_TYPE k, ROUTINE_NAME n FROM information_schema.ROUTINES"  # noqa: S608 - a checked name
            f" WHERE ROUTINE_SCHEMA = '{database}' UNION ALL SELECT 'EVENT', EVENT_NAME"
            f" FROM information_schema.EVENTS WHERE EVENT_SCHEMA = '{database}'"
        ):
            found.append(f"DROP {row['k']} `{database}`.`{str(row['n']).replace('`', '``')}`")
    return found

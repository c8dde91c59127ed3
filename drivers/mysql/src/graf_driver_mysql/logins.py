"""The accounts of a server as statements that make them at another one: a dump has the data only."""

from __future__ import annotations

import re

from graf_driver_mysql.sql import Session, quoted

# The administrator and the product's own are made by the template, each in its own way.
_NOT = ("root", "mariadb.sys", "mysql.sys", "mysql.session", "mysql.infoschema", "PUBLIC", "")

_DEFAULT_ROLE = re.compile(r" DEFAULT ROLE .+?(?= REQUIRE )")  # only a role that is granted can be one


async def logins(session: Session, product: str) -> list[str]:
    """The statements, in an order in which each finds what it names. Raises SqlError."""
    if product == "mysql":
        # Without it, the hashes would come as bytes that no statement can hold.
        await session.run("SET SESSION print_identified_with_as_hex = ON")
        return await _of_mysql(session)
    return await _of_mariadb(session)


async def _of_mariadb(session: Session) -> list[str]:
    rows = await session.rows(
        "SELECT User u, Host h, JSON_VALUE(Priv, '$.is_role') r FROM mysql.global_priv ORDER BY User, Host"
    )
    made: list[str] = []
    granted: list[str] = []
    for row in rows:
        if row["u"] in _NOT:
            continue
        role = str(row["r"]).lower() in ("1", "true")
        account = quoted(row["u"]) if role else f"{quoted(row['u'])}@{quoted(row['h'])}"
        if role:
            made.append(f"CREATE ROLE IF NOT EXISTS {account}")
        else:
            made += [f"DROP USER IF EXISTS {account}", await _only(session, f"SHOW CREATE USER {account}")]
        granted += await _all(session, f"SHOW GRANTS FOR {account}")
    if any(row["u"] == "PUBLIC" for row in rows):
        granted += await _all(session, "SHOW GRANTS FOR PUBLIC")
    return made + granted


async def _of_mysql(session: Session) -> list[str]:
    made: list[str] = []
    granted: list[str] = []
    last: list[str] = []
    for row in await session.rows("SELECT User u, Host h FROM mysql.user ORDER BY User, Host"):
        if row["u"] in _NOT:
            continue
        account = f"{quoted(row['u'])}@{quoted(row['h'])}"
        create = await _only(session, f"SHOW CREATE USER {account}")
        made += [f"DROP USER IF EXISTS {account}", _DEFAULT_ROLE.sub(" ", create)]
        granted += await _all(session, f"SHOW GRANTS FOR {account}")
        if (found := _DEFAULT_ROLE.search(create)) is not None:
            last.append(f"ALTER USER {account}{found[0]}")
    return made + granted + last


async def _only(session: Session, query: str) -> str:
    return str(next(iter((await session.row(query)).values())))


async def _all(session: Session, query: str) -> list[str]:
    return [str(next(iter(row.values()))) for row in await session.rows(query)]

"""Which accounts may exist beside a scope. Pure: from the rows of the grant tables to what is wrong.

The site's own accounts pass ``read_only`` and are not in the binary log: they must not reach what is in scope.
Everybody else is bound by ``read_only`` and is in the log: they must hold nothing that lifts one of the two. Only root,
by its socket, is neither: what root does is root's responsibility.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graf_driver_mysql.scope import DRIVERS_OWN, Scope

PASSES_READ_ONLY = "READ_ONLY ADMIN"
PUBLIC = "PUBLIC"
_HARMLESS = frozenset({"USAGE", "PROCESS", "SHOW DATABASES", "BINLOG MONITOR", "SLAVE MONITOR"})
_READS = frozenset({"SELECT", "SHOW VIEW"})
# Each lets its holder write past read_only or past the log, or become somebody who may.
_LIFTS = frozenset(
    {
        PASSES_READ_ONLY, "SUPER", "BINLOG ADMIN", "BINLOG REPLAY", "SET USER", "CREATE USER", "FILE",
        "REPLICATION SLAVE ADMIN", "REPLICATION MASTER ADMIN", "CONNECTION ADMIN",
    }
)  # fmt: skip
_GRANTEE = re.compile(r"'(.*)'@'(.*)'")

READ_ACCOUNTS = (
    "SELECT User u, Host h, JSON_VALUE(Priv, '$.is_role') r, JSON_VALUE(Priv, '$.account_locked') l"
    " FROM mysql.global_priv"
)
READ_GRANTS = (
    "SELECT GRANTEE g, PRIVILEGE_TYPE p, NULL d, NULL t FROM information_schema.USER_PRIVILEGES"
    " UNION ALL SELECT GRANTEE, PRIVILEGE_TYPE, TABLE_SCHEMA, NULL FROM information_schema.SCHEMA_PRIVILEGES"
    " UNION ALL SELECT GRANTEE, PRIVILEGE_TYPE, TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLE_PRIVILEGES"
    " UNION ALL SELECT GRANTEE, PRIVILEGE_TYPE, TABLE_SCHEMA, TABLE_NAME FROM information_schema.COLUMN_PRIVILEGES"
    " UNION ALL SELECT CONCAT('''', User, '''@''', Host, ''''), 'EXECUTE', Db, CONCAT(Routine_name, '()')"
    " FROM mysql.procs_priv"
)
READ_ROLES = "SELECT User u, Host h, Role r FROM mysql.roles_mapping"
READ_PROXIES = "SELECT User u, Host h FROM mysql.proxies_priv"

Account = tuple[str, str]  # user, host; a role has the host ""


@dataclass(frozen=True, slots=True)
class Grant:
    """One privilege: on the server, on a database (a pattern), or on something in it."""

    privilege: str
    database: str | None = None
    table: str | None = None


@dataclass(frozen=True, slots=True)
class Accounts:
    """What the grant tables say."""

    locked: Mapping[Account, bool]
    grants: Mapping[Account, tuple[Grant, ...]]
    roles: Mapping[Account, tuple[str, ...]] = field(default_factory=dict)
    proxies: frozenset[Account] = frozenset()

    @classmethod
    def of(
        cls,
        accounts: Iterable[Mapping[str, Any]],
        grants: Iterable[Mapping[str, Any]],
        roles: Iterable[Mapping[str, Any]],
        proxies: Iterable[Mapping[str, Any]],
    ) -> Accounts:
        """From the rows of the four queries."""
        held: dict[Account, list[Grant]] = {}
        for row in grants:
            held.setdefault(_account(row["g"]), []).append(Grant(row["p"].upper(), row["d"], row["t"]))
        mapped: dict[Account, list[str]] = {}
        for row in roles:
            mapped.setdefault((row["u"], row["h"]), []).append(row["r"])
        return cls(
            {(row["u"], row["h"]): _true(row["l"]) for row in accounts if not _true(row["r"]) and row["u"] != PUBLIC},
            {account: tuple(found) for account, found in held.items()},
            {account: tuple(found) for account, found in mapped.items()},
            frozenset((row["u"], row["h"]) for row in proxies),
        )

    def effective(self, account: Account) -> tuple[Grant, ...]:
        """Its own, those of its roles and of their roles, and everybody's."""
        seen: set[Account] = set()
        todo: list[Account] = [account, (PUBLIC, "")]
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += [(role, "") for role in self.roles.get(one, ())]
        return tuple(grant for one in sorted(seen) for grant in self.grants.get(one, ()))


def _account(grantee: str) -> Account:
    match = _GRANTEE.fullmatch(grantee)
    return (match[1], match[2]) if match is not None else (grantee.strip("'"), "")


def _true(value: Any) -> bool:
    return str(value).lower() in ("1", "true")


def trusted(account: Account) -> bool:
    """The administrator by the socket, and the server's own."""
    return account in (("root", "localhost"), ("mariadb.sys", "localhost"))


def wrong(scope: Scope, accounts: Accounts) -> dict[Account, str]:
    """The accounts that must not be used beside this scope, each with why."""
    found = {}
    for account in sorted(accounts.locked):
        if not trusted(account) and (why := _why(scope, accounts, account)):
            found[account] = why
    return found


def _why(scope: Scope, accounts: Accounts, account: Account) -> str:
    if not account[0]:
        return "it is anonymous: anybody's name fits it"
    if account in accounts.proxies:
        return "it may act as another account"
    grants = accounts.effective(account)
    on_server = {grant.privilege for grant in grants if grant.database is None}
    local = account[0] in scope.local_users
    lifts = on_server - _HARMLESS - {PASSES_READ_ONLY} if local else on_server & _LIFTS
    if lifts:
        return f"it has {', '.join(sorted(lifts))} on the whole server"
    for grant in grants:
        if grant.database is None or grant.privilege in _READS:
            continue
        if _matches(grant.database, "mysql"):
            return f"it has {grant.privilege} on the server's own tables"
        if local and (where := _reached(scope, grant)):
            return f"it belongs to the site and has {grant.privilege} on {where}, which is in scope"
    return ""


def _reached(scope: Scope, grant: Grant) -> str:
    """What of the scope a grant on a database or in it touches, "" if nothing."""
    if grant.database == DRIVERS_OWN and grant.table == "enter()":
        return ""
    for database in (*scope.databases, DRIVERS_OWN):
        if _matches(grant.database or "", database):
            return f"{database}.{grant.table or '*'}"
    for database, table in scope.tables:
        routine = grant.table is not None and grant.table.endswith("()")
        if _matches(grant.database or "", database) and (grant.table in (None, table) or routine):
            return f"{database}.{table}"
    return ""


def _matches(pattern: str, name: str) -> bool:
    """Like LIKE, as grants on databases do."""
    words = re.findall(r"\\.|.", pattern, re.DOTALL)
    signs = {"%": ".*", "_": "."}
    regex = "".join(re.escape(word[1]) if len(word) > 1 else signs.get(word, re.escape(word)) for word in words)
    return re.fullmatch(regex, name, re.DOTALL | re.IGNORECASE) is not None

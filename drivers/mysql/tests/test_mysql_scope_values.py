"""What a scope may be, and which accounts may be beside it: values only."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from graf_driver_mysql.accounts import Account, Accounts, wrong
from graf_driver_mysql.bootstrap import initial_content
from graf_driver_mysql.mariadb import MariaDB
from graf_driver_mysql.parameters import KNOWN, parse, peer_conflicts
from graf_driver_mysql.scope import Local, Scope, read
from graf_driver_sdk.errors import InvalidParametersError

LOCAL = Local("sitelog", "sitelog")
SCOPE = Scope(databases=("a_b",), tables=(("shop", "orders"),), local=(LOCAL,))
APP, SITE, ROOT = ("app", "%"), ("sitelog", "%"), ("root", "localhost")


def parameters(tmp_path: Path, **changed: Any) -> dict[str, Any]:
    for name in ("replication", "application", "local"):
        (tmp_path / f"{name}-password").write_text("x\n")
    return {
        "replicationAddress": "127.0.0.1",
        "serverId": 20,
        "gtidDomainId": 20,
        "credentialsDir": str(tmp_path),
        "application": {"database": "app", "user": "app"},
        "scope": {"databases": ["app"], "local": [{"database": "sitelog", "user": "sitelog"}]},
        **changed,
    }


def test_the_whole_server_is_the_default(tmp_path: Path) -> None:
    raw = parameters(tmp_path)
    del raw["scope"]
    assert parse(raw).scope is None


def test_a_scope_is_read_and_written_into_the_configuration(tmp_path: Path) -> None:
    raw = parameters(tmp_path, scope={"databases": ["app", "a_b"], "tables": ["shop.orders"], "local": []})
    found = parse(raw)
    assert found.scope == Scope(("a_b", "app"), (("shop", "orders"),))
    lines = MariaDB().own_settings(found).splitlines()
    assert "init_connect = CALL graf.enter()" in lines
    assert "replicate_wild_do_table = a\\_b.%" in lines
    assert "replicate_do_table = shop.orders" in lines


def test_the_example_takes_every_parameter_that_the_driver_knows() -> None:
    """A parameter that the DriverClass does not list is refused by the manager."""
    example = Path(__file__).parents[3] / "gitops" / "example" / "driverclasses" / "mysql.yaml"
    schema = yaml.safe_load(example.read_text())["spec"]["parametersSchema"]
    assert set(schema["properties"]) == KNOWN


def with_local(database: str, user: str) -> dict[str, Any]:
    return {"scope": {"databases": ["app"], "local": [{"database": database, "user": user}]}}


@pytest.mark.parametrize(
    ("changed", "field", "cause"),
    [
        ({"scope": {}}, "scope", "lists no database"),
        ({"scope": ["app"]}, "scope", "is not {databases"),
        ({"scope": {"databases": "app"}}, "scope.databases", "not a list"),
        ({"scope": {"databases": ["app", "mysql"]}}, "scope.databases", "of the server or of the driver"),
        ({"scope": {"databases": ["app", "graf"]}}, "scope.databases", "of the server or of the driver"),
        ({"scope": {"databases": ["app", "a-b"]}}, "scope.databases", "not a plain name"),
        ({"scope": {"databases": ["app"], "tables": ["orders"]}}, "scope.tables", "not database.table"),
        ({"scope": {"databases": ["app"], "tables": ["app.t"]}}, "scope.tables", "in scope as a whole"),
        ({"scope": {"databases": ["other"]}}, "application.database", "is not in scope"),
        ({"scope": {"databases": ["app"], "local": [{"user": "x"}]}}, "scope.local", "not a list of"),
        (with_local("app", "x"), "scope.local", "is in scope"),
        (with_local("x", "app"), "scope.local", "application's"),
        (with_local("x", "root"), "scope.local", "account of the"),
        ({"engine": "mysql", **with_local("x", "x")}, "scope.local", "lets no account pass super_read_only"),
        ({"scope": {"databases": ["app"], "tables": ["shop.t"]}, "initSql": "/etc/hostname"}, "initSql", "run again"),
    ],
)  # fmt: skip
def test_what_a_scope_cannot_be_is_refused_with_the_reason(
    tmp_path: Path, changed: dict[str, Any], field: str, cause: str
) -> None:
    with pytest.raises(InvalidParametersError) as refused:
        parse(parameters(tmp_path, **changed))
    assert [p for p in refused.value.problems if p.field == field and cause in p.cause], refused.value.problems


def test_both_sites_have_the_same_scope(tmp_path: Path) -> None:
    own = parse(parameters(tmp_path))
    other = {"serverId": 30, "gtidDomainId": 30}
    assert [p.field for p in peer_conflicts(own, {"west": other})] == ["scope"]
    same = {**other, "scope": {"databases": ["app"], "local": []}}
    assert peer_conflicts(own, {"west": same}) == (), "a site's own accounts are its own affair"


def test_a_missing_password_of_the_sites_own_accounts_is_told(tmp_path: Path) -> None:
    raw = parameters(tmp_path)
    (tmp_path / "local-password").unlink()
    with pytest.raises(InvalidParametersError, match="local-password"):
        parse(raw)


def test_the_initial_content_is_taken_statement_by_statement(tmp_path: Path) -> None:
    sql = tmp_path / "init.sql"
    sql.write_text("-- a comment\nCREATE TABLE t (\n  n INT\n);\n\nINSERT INTO t VALUES (1), (2);\n")
    raw = parameters(tmp_path, initSql=str(sql))
    assert initial_content(parse(raw)) == ("USE `app`", "CREATE TABLE t (\n  n INT\n)", "INSERT INTO t VALUES (1), (2)")


def accounts(
    *grants: tuple[str, str, str | None, str | None], roles: tuple[tuple[str, str, str], ...] = (), proxy: Any = None
) -> Accounts:
    """Of the application and the site, with these grants: grantee, privilege, database, table."""
    usual = [
        ("'app'@'%'", "INSERT", "a\\_b", None),
        ("'sitelog'@'%'", "READ_ONLY ADMIN", None, None),
        ("'sitelog'@'%'", "INSERT", "sitelog", None),
        ("'PUBLIC'@''", "EXECUTE", "graf", "enter()"),
        ("'root'@'localhost'", "SUPER", None, None),
    ]
    rows = [{"g": g, "p": p, "d": d, "t": t} for g, p, d, t in (*usual, *grants)]
    there = [{"u": user, "h": host, "r": None, "l": None} for user, host in (APP, SITE, ROOT, ("graf_repl", "%"))]
    there.append({"u": "writers", "h": "", "r": "true", "l": None})
    mapped = [{"u": user, "h": host, "r": role} for user, host, role in roles]
    return Accounts.of(there, rows, mapped, [{"u": "root", "h": "localhost"}, *([proxy] if proxy else [])])


def test_accounts_that_keep_to_their_side_are_left_alone() -> None:
    assert wrong(SCOPE, accounts()) == {}
    harmless = (
        ("'sitelog'@'%'", "SELECT", "a\\_b", None),
        ("'sitelog'@'%'", "INSERT", "shop", "log"),  # a table beside the listed one
        ("'sitelog'@'%'", "PROCESS", None, None),
        ("'app'@'%'", "SELECT", None, None),
        ("'app'@'%'", "INSERT", "elsewhere", None),
        ("'graf_repl'@'%'", "REPLICATION SLAVE", None, None),
    )
    assert wrong(SCOPE, accounts(*harmless)) == {}


@pytest.mark.parametrize(
    ("grant", "who", "why"),
    [
        (("'sitelog'@'%'", "INSERT", "a\\_b", None), SITE, "INSERT on a_b.*"),
        (("'sitelog'@'%'", "INSERT", "a_b", None), SITE, "INSERT on a_b.*"),
        (("'sitelog'@'%'", "UPDATE", "%", None), SITE, "server's own tables"),
        (("'sitelog'@'%'", "UPDATE", "a%", None), SITE, "UPDATE on a_b.*"),
        (("'sitelog'@'%'", "UPDATE", "a\\_b", "t"), SITE, "UPDATE on a_b.t"),
        (("'sitelog'@'%'", "REFERENCES", "a\\_b", "t"), SITE, "REFERENCES on a_b.t"),
        (("'sitelog'@'%'", "EXECUTE", "a_b", "p()"), SITE, "EXECUTE on a_b.p()"),
        (("'sitelog'@'%'", "INSERT", "shop", None), SITE, "INSERT on shop.orders"),
        (("'sitelog'@'%'", "INSERT", "shop", "orders"), SITE, "INSERT on shop.orders"),
        (("'sitelog'@'%'", "EXECUTE", "shop", "p()"), SITE, "EXECUTE on shop.orders"),
        (("'sitelog'@'%'", "EXECUTE", "graf", "other()"), SITE, "EXECUTE on graf.other()"),
        (("'sitelog'@'%'", "INSERT", None, None), SITE, "INSERT on the whole server"),
        (("'sitelog'@'%'", "SELECT", None, None), SITE, "SELECT on the whole server"),
        (("'PUBLIC'@''", "INSERT", "a\\_b", None), SITE, "INSERT on a_b.*"),
        (("'app'@'%'", "READ_ONLY ADMIN", None, None), APP, "READ_ONLY ADMIN"),
        (("'app'@'%'", "SUPER", None, None), APP, "SUPER"),
        (("'app'@'%'", "BINLOG ADMIN", None, None), APP, "BINLOG ADMIN"),
        (("'app'@'%'", "CREATE USER", None, None), APP, "CREATE USER"),
        (("'app'@'%'", "INSERT", "mysql", "global_priv"), APP, "server's own tables"),
    ],
)
def test_an_account_that_could_reach_both_is_found(grant: Any, who: Account, why: str) -> None:
    found = wrong(SCOPE, accounts(grant))
    assert why in found[who]


def test_roles_count_with_all_that_they_hold() -> None:
    grant = ("'writers'@''", "INSERT", "a\\_b", None)
    assert wrong(SCOPE, accounts(grant)) == {}, "nobody has the role"
    direct = accounts(grant, roles=(("sitelog", "%", "writers"),))
    assert "a_b.*" in wrong(SCOPE, direct)[SITE]
    nested = accounts(grant, roles=(("sitelog", "%", "outer"), ("outer", "", "writers")))
    assert "a_b.*" in wrong(SCOPE, nested)[SITE]


def test_proxies_and_nameless_accounts_are_found() -> None:
    assert "another account" in wrong(SCOPE, accounts(proxy={"u": "app", "h": "%"}))[APP]
    nameless = Accounts({("", "localhost"): False}, {})
    assert "anonymous" in wrong(SCOPE, nameless)["", "localhost"]


def test_an_account_that_was_taken_out_of_the_list_no_longer_passes_read_only() -> None:
    without = Scope(SCOPE.databases, SCOPE.tables)
    assert "READ_ONLY ADMIN" in wrong(without, accounts())[SITE]


def test_every_problem_of_a_scope_is_told_at_once() -> None:
    told: list[str] = []
    read({"databases": ["sys", "a b"], "tables": ["x"]}, lambda field, *_: told.append(field))
    assert told == ["scope.databases", "scope.databases", "scope.tables", "scope"]

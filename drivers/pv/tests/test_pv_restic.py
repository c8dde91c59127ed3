"""How restic is run: what it is told and what is told of it, locks that are left, servers that want credentials."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from graf_driver_pv.deposit import Deposit
from graf_driver_pv.layout import Layout
from graf_driver_pv.manifest import Manifest
from graf_driver_pv.parameters import Repository, parse
from graf_driver_pv.position import Position
from graf_driver_pv.restic import LockedError, NoRepositoryError, RepositoryError, Restic, escape, read_environment
from graf_driver_pv.testing import free_port, make_authority, make_identity
from graf_driver_pv.testing_restic import make_repository, restic
from graf_driver_sdk.testing import eventually

TAGS = "graf-pv"


def repository_of(parameters: dict[str, Any]) -> Repository:
    parsed, problems = parse({"directory": "/v", "repository": parameters, "rpoSeconds": 300})
    assert parsed is not None, problems
    assert parsed.repository is not None
    return parsed.repository


def text_of(path: str) -> str:
    return Path(path).read_text()


@pytest.fixture
def there(tmp_path: Path) -> Restic:
    """A repository that is there."""
    repository = repository_of(make_repository(tmp_path / "shared"))
    return Restic(repository, repository.location, tmp_path / "own")


def generation(folder: Path, size: int = 100) -> Path:
    (folder / "tree").mkdir(parents=True)
    (folder / "tree" / "file").write_bytes(os.urandom(size))
    (folder / "manifest.json").write_text("{}")
    return folder


async def test_a_backup_comes_back_and_a_path_is_only_that_path(there: Restic, tmp_path: Path) -> None:
    folder = generation(tmp_path / "g")
    (folder / "tree" / "f[1]*").write_text("wanted")
    (folder / "tree" / "f1x").write_text("not wanted")
    snapshot = await there.backup(folder, ["tree", "manifest.json"], [TAGS], "east", "")
    assert await there.dump(snapshot, "/manifest.json") == b"{}"
    await there.restore(snapshot, tmp_path / "out", ["/tree/f[1]*"], [])
    assert [path.name for path in (tmp_path / "out" / "tree").iterdir()] == ["f[1]*"]
    assert escape("a\\b?") == "a\\\\b\\?"


async def test_what_is_not_there_and_a_wrong_password_are_told_as_such(there: Restic, tmp_path: Path) -> None:
    elsewhere = Restic(there.repository, str(tmp_path / "none"), tmp_path / "own")
    with pytest.raises(NoRepositoryError, match="restic init"):
        await elsewhere.snapshots(TAGS)
    (tmp_path / "wrong").write_text("not it\n")
    wrong = Restic(replace(there.repository, password_file=tmp_path / "wrong"), there.location, tmp_path / "own")
    with pytest.raises(RepositoryError, match="wrong password"):
        await wrong.snapshots(TAGS)


# Prints what any user could see of restic: its arguments.
SPY = """#!{python}
import os, sys
with open({out!r}, "a") as out:
    out.write(repr(sys.argv) + chr(10))
print("for repository", os.environ["RESTIC_REPOSITORY"], os.environ["AWS_SECRET_ACCESS_KEY"], file=sys.stderr)
sys.exit(1)
"""


async def test_secrets_are_neither_in_arguments_nor_in_messages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    spy, out = tmp_path / "bin" / "restic", tmp_path / "seen"
    spy.write_text(SPY.format(python=sys.executable, out=str(out)))
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("RESTIC_PASSWORD", "of-somebody-else")
    secrets = {"RESTIC_REST_USERNAME": "us/er", "RESTIC_REST_PASSWORD": "pass@word", "AWS_SECRET_ACCESS_KEY": "aws-key"}
    environment = tmp_path / "environment"
    environment.mkdir()
    for name, value in {**secrets, "LD_PRELOAD": "/evil.so"}.items():
        (environment / name).write_text(f"{value}\n")
    assert read_environment(environment) == secrets
    raw = make_repository(
        tmp_path / "shared", made=False, location="rest:https://backup.test/vcu", environment=str(environment)
    )
    password = text_of(raw["passwordFile"]).strip()
    repository = repository_of(raw)
    with pytest.raises(RepositoryError) as caught:
        await Restic(repository, repository.location, tmp_path / "own").snapshots(TAGS)
    told = str(caught.value) + out.read_text()
    assert "for repository" in told
    for secret in (*secrets.values(), "us%2Fer", "pass%40word", password):
        assert secret not in told


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"location": "rest:https://user:pw@backup.test/vcu"}, "repository.location"),
        ({"location": "backup"}, "repository.location"),
        ({"passwordFile": "relative"}, "repository.passwordFile"),
        ({"password": "in the clear"}, "repository.password"),
        ({"create": "yes"}, "repository.create"),
        ({"keep": 0}, "repository.keep"),
        ({"confirmSeconds": 400}, "rpoSeconds"),
    ],
)
def test_parameters_that_cannot_be_used_are_refused(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    raw = {"directory": "/v", "repository": make_repository(tmp_path, made=False) | change}
    assert [problem.field for problem in parse(raw)[1]] == [field]


def test_with_a_repository_there_is_no_way_from_site_to_site(tmp_path: Path) -> None:
    raw = {"directory": "/v", "repository": make_repository(tmp_path, made=False), "endpoint": "a:1", "tls": {}}
    assert [problem.field for problem in parse(raw)[1]] == ["endpoint", "tls"]


# -- locks ------------------------------------------------------------------------------------------------------------


def locked(there: Restic) -> list[str]:
    """Locks that are there, without half-written ones."""
    return [path.name for path in (Path(there.location) / "locks").iterdir() if "tmp" not in path.name]


def leave_lock(there: Restic, tmp_path: Path, *, collected: bool = True) -> "subprocess.Popen[bytes]":
    """As a driver does that was killed in the middle of a backup; the process has ended when this returns."""
    folder = generation(tmp_path / "big", 30 << 20)
    environment = os.environ | {
        "RESTIC_REPOSITORY": there.location,
        "RESTIC_PASSWORD_FILE": str(there.repository.password_file),
    }
    command = ["restic", "--no-cache", "backup", "--limit-upload", "500", "tree"]
    killed = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    ends = time.monotonic() + 60
    while not locked(there) and killed.poll() is None and time.monotonic() < ends:
        time.sleep(0.01)
    killed.kill()
    os.waitid(os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT)
    if collected:
        killed.wait()
    assert locked(there), "no backup was killed in the middle"
    return killed


class Nothing:
    """An active side that has nothing to tell."""

    epoch = 1
    manifest: Manifest | None = None
    base: Manifest | None = None

    async def complete_until(self) -> int:
        return 0

    async def wait_newer(self, have: str, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)


def deposit(there: Restic, tmp_path: Path, source: Nothing | None = None) -> Deposit:
    return Deposit(there, Layout(tmp_path / "volume"), "vcu/pv", "east", source or Nothing(), lambda: None)


async def test_what_a_killed_backup_has_locked_is_free_again(there: Restic, tmp_path: Path) -> None:
    mark = await there.mark([TAGS], "east")
    leave_lock(there, tmp_path)
    with pytest.raises(LockedError):
        await there.forget([mark])
    await deposit(there, tmp_path)._writing(there.forget, [mark])
    assert await there.snapshots(TAGS) == []
    assert await there.locks() == []


async def test_what_a_killed_backup_has_locked_is_free_again_before_anybody_has_collected_it(
    there: Restic, tmp_path: Path
) -> None:
    mark = await there.mark([TAGS], "east")
    ended = leave_lock(there, tmp_path, collected=False)
    try:
        await deposit(there, tmp_path)._writing(there.forget, [mark])
        assert await there.locks() == []
    finally:
        ended.wait()


async def test_the_lock_of_a_process_that_runs_is_left_alone(there: Restic, tmp_path: Path) -> None:
    mark = await there.mark([TAGS], "east")
    folder = generation(tmp_path / "big", 30 << 20)
    slow = Restic(there.repository, there.location, tmp_path / "other", 500)
    other = asyncio.create_task(slow.backup(folder, ["tree"], [TAGS], "west", ""))
    await eventually("its lock", lambda: locked(there), 60)
    with pytest.raises(LockedError, match="already locked"):
        await deposit(there, tmp_path)._writing(there.forget, [mark])
    assert len(await there.locks()) == 1
    assert not other.done(), "it ended by itself"
    other.cancel()
    await asyncio.gather(other, return_exceptions=True)


async def test_a_host_that_had_another_name_is_known(there: Restic) -> None:
    assert there.former_hosts("pod-1") == set()
    assert there.former_hosts("pod-2") == {"pod-1"}
    assert there.former_hosts("pod-2") == {"pod-1", "pod-2"}


# -- keeping it tidy --------------------------------------------------------------------------------------------------


async def test_old_snapshots_are_forgotten_and_what_they_held_is_deleted(there: Restic, tmp_path: Path) -> None:
    source = Nothing()
    keeper = deposit(replace_repository(there, keep=2, prune_h=1.0), tmp_path, source)
    for number in range(1, 6):
        source.manifest = source.base = Manifest(Position(1, number), {}, "moving", number, {}, (0o755, 0, 0))
        generation(tmp_path / "volume" / "generations" / str(source.manifest.position))
        if number == 5:  # an hour is over
            os.utime(there.folder / "pruned", (0, 0))
        await keeper._step()
    left = {tag for one in await there.snapshots(TAGS) for tag in one["tags"] if tag.startswith("generation=")}
    assert left == {"generation=e0000000001-0000000004", "generation=e0000000001-0000000005"}
    assert (there.folder / "pruned").stat().st_mtime > 0
    would = restic(vars_of(there), "prune", "--dry-run", "--max-unused", "0")
    assert re.search(r"total prune: +0 blobs", would), would
    restic(vars_of(there), "check", "--read-data")


def replace_repository(there: Restic, **change: Any) -> Restic:
    return Restic(replace(there.repository, **change), there.location, there.folder)


def vars_of(there: Restic) -> dict[str, str]:
    return {"location": there.location, "passwordFile": str(there.repository.password_file)}


# -- servers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def rest_server(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A repository server over TLS that wants a client's certificate and a name with a password."""
    pki = tmp_path / "pki"
    make_authority(pki)
    server = make_identity(pki, "localhost")
    port = free_port()
    (tmp_path / "served").mkdir()
    command = [
        *("rclone", "serve", "restic", "--config", "/dev/null", "--addr", f"localhost:{port}"),
        *("--cert", server["certFile"], "--key", server["keyFile"], "--client-ca", server["caFile"]),
        *("--user", "east", "--pass", "let me in", str(tmp_path / "served")),
    ]
    with (tmp_path / "server.log").open("wb") as log, subprocess.Popen(command, stderr=log, stdout=log) as process:
        yield port, pki
        process.terminate()


async def test_a_repository_behind_a_server_with_mutual_tls_and_a_password(
    rest_server: tuple[int, Path], tmp_path: Path
) -> None:
    port, pki = rest_server
    identity = make_identity(pki, "east.pv.test")
    both = tmp_path / "both.pem"
    both.write_text(text_of(identity["certFile"]) + text_of(identity["keyFile"]))
    environment = tmp_path / "environment"
    environment.mkdir()
    (environment / "RESTIC_REST_USERNAME").write_text("east\n")
    (environment / "RESTIC_REST_PASSWORD").write_text("let me in\n")
    raw = make_repository(
        tmp_path / "shared",
        made=False,
        location=f"rest:https://localhost:{port}/vcu/",
        environment=str(environment),
        caFile=identity["caFile"],
        clientCertFile=str(both),
    )
    repository = repository_of(raw)
    made = Restic(repository, repository.location, tmp_path / "own")
    await eventually("the server", lambda: "Serving" in (tmp_path / "server.log").read_text(), 60, 0.1)
    await made.create()
    snapshot = await made.backup(generation(tmp_path / "g"), ["tree"], [TAGS], "east", "")
    await made.restore(snapshot, tmp_path / "out", [], [])
    assert (tmp_path / "out" / "tree" / "file").read_bytes() == (tmp_path / "g" / "tree" / "file").read_bytes()
    strangers = Restic(replace(repository, client_cert_file=None), repository.location, tmp_path / "own")
    with pytest.raises(RepositoryError, match=r"certificate|reset|broken pipe") as caught:
        await strangers.dump(snapshot, "/tree/file")
    assert not isinstance(caught.value, NoRepositoryError), "nobody may make another one for it"


async def test_a_repository_by_way_of_rclone(tmp_path: Path) -> None:
    raw = make_repository(tmp_path / "shared", made=False, location=f"rclone::local:{tmp_path / 'remote'}")
    repository = repository_of(raw)
    made = Restic(repository, repository.location, tmp_path / "own")
    await made.create()
    snapshot = await made.mark([TAGS], "east")
    assert json.dumps(await made.snapshots(TAGS)).count(snapshot) > 0

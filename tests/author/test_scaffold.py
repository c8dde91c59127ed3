"""`graf driver new`: a folder as a whole or not at all, and what is in it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from graf_driver_sanity.config import load

from graf.author import scaffold, vendor
from graf.author.errors import AuthorError
from graf.author.scaffold import check_names, create
from graf.cli.main import run
from graf.crd.driverclass import DriverClass


def until(what: str, true: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, f"waited 30 s for {what}"
        time.sleep(0.02)


def made_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["", "Demo", "2nd", "my_store", "my--store", "-x", "x-", "../x", "a" * 41, "a b"])
def test_a_bad_name_is_refused_before_anything_is_written(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["driver", "new", "--into", str(tmp_path), "--", name]) == 1
    said = capsys.readouterr().err
    assert "is no name for a driver" in said
    assert "a letter first, in parts joined by one dash" in said
    assert made_in(tmp_path) == []


@pytest.mark.parametrize("name", ["sdk", "sanity", "mysql"])
def test_the_name_of_something_installed_is_refused(name: str) -> None:
    with pytest.raises(AuthorError, match="exists already"):
        check_names(name, "example.org")


@pytest.mark.parametrize(("name", "near"), [("Demo", "demo"), ("acme.cache", "acme-cache"), ("1st", "my-store")])
def test_a_bad_name_is_answered_with_one_that_could_be_meant(name: str, near: str) -> None:
    with pytest.raises(AuthorError) as told:
        check_names(name, "example.org")
    assert f"e.g. {near};" in told.value.next_step


@pytest.mark.parametrize(
    "domain", ["nowhere", "-a.b", "a-.b", "a..b", "A.b", f"{'a' * 64}.b", ".".join(["a" * 60] * 4)]
)
def test_a_domain_is_checked(domain: str) -> None:
    with pytest.raises(AuthorError, match="is no domain"):
        check_names("demo", domain)


def test_what_exists_is_never_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo").mkdir()
    assert run(["driver", "new", "demo", "--into", str(tmp_path)]) == 1
    assert "nothing in it was touched" in capsys.readouterr().err
    assert made_in(tmp_path) == ["demo"]
    assert made_in(tmp_path / "demo") == []


def test_a_folder_that_cannot_be_written_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["driver", "new", "demo", "--into", "/proc"]) == 1
    assert "nothing can be made in /proc" in capsys.readouterr().err


def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Path) -> None:
        raise AuthorError("no index", "go online")

    monkeypatch.setattr(scaffold, "_lock", fails)
    with pytest.raises(AuthorError, match="no index"):
        create(check_names("demo", "example.org"), tmp_path)
    assert made_in(tmp_path) == []


def test_a_folder_that_appears_meanwhile_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaffold, "_lock", lambda _: (tmp_path / "demo").mkdir())
    with pytest.raises(AuthorError, match="made by somebody else"):
        create(check_names("demo", "example.org"), tmp_path)
    assert made_in(tmp_path) == ["demo"]
    assert made_in(tmp_path / "demo") == []


def test_a_missing_kit_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaffold, "KIT", "graf-driver-nowhere")
    with pytest.raises(AuthorError, match="is not installed beside graf") as told:
        create(check_names("demo", "example.org"), tmp_path)
    assert "graf-framework[author]" in told.value.next_step
    assert made_in(tmp_path) == []


def test_the_driver_class_is_one_that_grafs_api_accepts(tmp_path: Path) -> None:
    made = create(check_names("my-store", "example.org"), tmp_path, lock=False)
    document = yaml.safe_load((made / "driverclass.yaml").read_text())
    assert document["spec"]["driver"] == "my-store.example.org"
    DriverClass.model_validate(document)


@pytest.mark.parametrize("name", ["null", "true", "on", "no", "y", "e1"])
def test_a_name_that_yaml_reads_as_something_else_stays_a_name(name: str, tmp_path: Path) -> None:
    made = create(check_names(name, "example.org"), tmp_path, lock=False)
    written = DriverClass.model_validate(yaml.safe_load((made / "driverclass.yaml").read_text()))
    assert written.metadata.name == name
    assert load(made / "tests" / "conformance.yaml").name == name


@pytest.mark.parametrize("name", ["x", "-".join(["abcd"] * 8) + "e"])
def test_the_code_of_the_shortest_and_of_the_longest_name_has_the_style_that_its_make_check_asks_for(
    name: str, tmp_path: Path
) -> None:
    made = create(check_names(name, "example.org"), tmp_path, lock=False)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [shutil.which("ruff", path=str(Path(sys.executable).parent)) or "ruff", *command, "--no-cache", "."],
            cwd=made,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize("is_locked", [False, True])
def test_without_uv_every_target_says_what_to_install(is_locked: bool, tmp_path: Path) -> None:
    made = create(check_names("demo", "example.org"), tmp_path, lock=False)
    if is_locked:
        (made / "uv.lock").touch()
    makefile = made / "Makefile"  # without the places where uv may be, whatever machine this is
    makefile.write_text(re.sub(r"(?m)^export PATH .*$", "export PATH := /nowhere", makefile.read_text()))
    for target in ("test", "conformance", "check", "image"):
        done = subprocess.run(["make", target], cwd=made, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert "uv is missing; install it: pip install uv" in done.stderr
        assert "not found" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_while_it_locks_it_leaves_neither_a_folder_nor_a_process(
    number: signal.Signals, tmp_path: Path
) -> None:
    programs, folder, told = tmp_path / "bin", tmp_path / "drivers", tmp_path / "pid"
    programs.mkdir()
    folder.mkdir()
    uv = programs / "uv"
    uv.write_text(f"#!/bin/sh\necho $$ > {told}.new\nmv {told}.new {told}\nexec sleep 300\n")
    uv.chmod(0o755)
    command = [sys.executable, "-c", "from graf.cli.main import main; main()", "driver", "new", "demo"]
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    running = subprocess.Popen(
        [*command, "--into", str(folder)],
        env={**os.environ, "PATH": path},
        start_new_session=True,
        # Tests that run in the background of a shell were told to ignore SIGINT, and so would their children be.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until("uv to be started", told.exists)
        running.send_signal(number)
        assert running.wait(timeout=30) == 128 + number
        assert made_in(folder) == []
        until("uv to be ended", lambda: not Path("/proc", told.read_text().strip()).exists())
    finally:
        running.kill()
        running.wait()


def test_of_a_long_complaint_the_reason_is_told_and_the_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho 'error: no such package {'x ' * 900} hint: go online' >&2\nexit 2\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(AuthorError) as told:
        create(check_names("demo", "example.org"), tmp_path)
    assert "cannot be locked: error: no such package" in told.value.what
    assert told.value.what.endswith("hint: go online")
    assert len(told.value.what) < 800


def test_no_file_names_this_machine_and_nothing_is_left_to_fill_in(tmp_path: Path) -> None:
    made = create(check_names("my-store", "example.org"), tmp_path, lock=False)
    texts = {path: path.read_text() for path in made.rglob("*") if path.is_file() and path.suffix != ".whl"}
    assert (made / "src" / "graf_driver_my_store" / "driver.py") in texts
    assert {path for path, text in texts.items() if "{" + "{" in text or str(tmp_path) in text} == set()


def test_a_wheel_of_what_runs_here_can_be_installed_and_is_always_the_same(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (vendor.pack(vendor.SDK, tmp_path / name) for name in ("one", "two"))
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(two.read_bytes()).digest()
    assert one.name == f"graf_driver_sdk-{version('graf-driver-sdk')}-py3-none-any.whl"
    with zipfile.ZipFile(one) as archive:
        assert "graf_driver_sdk/v1/driver.proto" in archive.namelist()
    target = tmp_path / "installed"
    subprocess.run(
        ["uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", target, one],
        check=True,
        timeout=120,
        env={**os.environ, "PATH": os.pathsep.join([os.environ["PATH"], str(Path.home() / ".local/bin")])},
    )
    assert (target / "graf_driver_sdk" / "driver.py").is_file()

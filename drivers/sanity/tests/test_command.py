"""The command line: its configuration's mistakes are told in words, and a stop leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from graf_driver_sanity.config import ConfigError, load
from graf_driver_sanity.launch import Process

COMMAND = (sys.executable, "-m", "graf_driver_sanity.cli")


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    (tmp_path / "east").mkdir()
    path = tmp_path / "sanity.yaml"
    path.write_text(
        'name: fake\nsite:\n  name: east\n  command: ["${PYTHON}", -m, graf_driver_fake.main]\n'
        '  parameters: {dataDir: "${DIR}/east"}\n'
    )
    return path


def test_json_has_the_counts_and_every_skip_has_a_reason(configuration: Path) -> None:
    arguments = ("--config", str(configuration), "--json", "--only", "identity", "--only", "resync-verdict-clean")
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["failed"] == 0
    assert report["checks"] == report["passed"] + len(report["skipped"])
    assert {"id": "resync-verdict-clean", "reason": "there is no second driver: configure peer"} in report["skipped"]
    assert all(skip.keys() == {"id", "reason"} and skip["reason"] for skip in report["skipped"])


def test_the_same_object_goes_to_a_file_beside_the_lines(configuration: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.json"
    arguments = ("--config", str(configuration), "--out", str(out), "--only", "identity-name")
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fake: 1 checks, 1 passed, 0 failed, 0 skipped" in done.stdout
    report = json.loads(out.read_text())
    assert (report["checks"], report["passed"], report["failed"], report["skipped"]) == (1, 1, 0, [])


@pytest.mark.parametrize("out", ["sanity.yaml/report.json", "east", "/dev/full", "/proc/report.json"])
def test_a_file_that_cannot_be_written_is_told_in_one_line_and_says_nothing_of_the_driver(
    configuration: Path, tmp_path: Path, out: str
) -> None:
    arguments = ("--config", str(configuration), "--out", str(tmp_path / out), "--only", "identity-name")
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 2, done.stdout + done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("graf-driver-sanity: --out: ")]
    assert len(told) == 1
    assert "cannot be written: " in told[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("find", "put", "failed", "requirement"),
    [
        ("-m, graf_driver_fake.main", "-c, 'raise SystemExit(3)'", "start", "GD-INFO-001"),
        ('"${DIR}/east"', "not/absolute", "start", "GD-VALID-001"),
        # The client's own error is no sentence of the kit's, and must not take the report with it.
        ("site:", "hooks: {write: ['true'], read: ['false']}\nsite:", "role-write-survives-restart", "GD-ROLE-011"),
    ],
    ids=["does-not-start", "refuses-its-parameters", "hook-fails"],
)
def test_json_is_written_too_when_something_failed(
    find: str, put: str, failed: str, requirement: str, configuration: Path
) -> None:
    configuration.write_text(configuration.read_text().replace(find, put))
    arguments = ("--config", str(configuration), "--json", "--only", "role-write-survives-restart")
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 1, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["checks"], report["passed"], report["failed"], report["skipped"]) == (1, 0, 1, [])
    assert [(failure["id"], failure["requirement"]) for failure in report["failures"]] == [(failed, requirement)]
    assert "Traceback" not in done.stderr


RUNS = "site: {name: east, command: [x]}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("site: {name: east}", "neither `endpoint` nor `command`"),
        ("colour: red", "colour is not known"),
        ("site: {name: east, command: run it}", "`command` is a text"),
        ("site: {name: east, command: [false]}", "not a list of texts"),
        ("site: {name: '${NOBODY_SETS_THIS}'}", "NOBODY_SETS_THIS"),
        ("site: east", "site is 'east', not a mapping"),
        ("[1, 2]", "not a mapping"),
        ("site: {name: East_1, command: [x]}", "'East_1' is no name"),
        ("site: {name: east, command: [x], directory: /nowhere}", "there is no folder /nowhere"),
        ("site: {name: east, command: [x], parameters: [1]}", "parameters is"),
        ("site: {name: east, command: [x], parameters: {since: 2026-01-01}}", "quote what YAML reads as a date"),
        ("site: {name: east, command: [x], environment: [A]}", "environment is"),
        ("site: {name: east, endpoint: 'http://east:1'}", "no endpoint of a driver; give unix:/path"),
        ("site: {name: east, endpoint: 'east:1', tls: {directory: /nowhere, serverName: a.b}}", "cannot read /nowhere"),
        ("site: {name: east, endpoint: 'east:1', tls: {folder: /nowhere}}", "folder is not known"),
        (RUNS + "budget: {call: 3}", "budget: call is not known"),
        (RUNS + "budget: {call_s: -1}", "a number of seconds above 0"),
        (RUNS + "budget: {lease_s: 90}", "no lease is longer than 55 s"),
        (RUNS + "budget: [1]", "budget is"),
        (RUNS + "invalid: [{feild: a}]", "feild is not known"),
        (RUNS + "invalid: [{field: a}]", "what makes it bad"),
        (RUNS + "secrets: s3cret", "secrets is not a list"),
        (RUNS + "skip: {role-actve-to-fenced: because}", "did you mean role-active-to-fenced"),
        (RUNS + "skip: {role-active-to-fenced: ''}", "has no reason"),
        (RUNS + "hooks: {write: 5}", "neither a list"),
        (RUNS + "hooks: {rite: [x]}", "rite is not known"),
        (RUNS + "peer: {name: east, command: [x]}", "two sites have one name"),
        (RUNS + "peer: {name: west}", "peer has neither"),
        (RUNS + "group: Not A Label", "is no name"),
    ],
)
def test_a_mistake_in_the_configuration_is_told_in_words(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "sanity.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load(path)


def test_a_name_of_no_check_is_told_and_does_not_pass(configuration: Path) -> None:
    arguments = ("--config", str(configuration), "--only", "identity", "--only", "identiy-name")
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=90)
    assert done.returncode == 2
    assert "there is no check identiy-name; did you mean identity-name?" in done.stderr


def test_a_python_configuration_that_raises_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "sanity.py"
    path.write_text("def config():\n    raise FileNotFoundError('no server here')\n")
    with pytest.raises(ConfigError, match="FileNotFoundError at line 2: no server here"):
        load(path)


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ((*COMMAND, "--config"), signal.SIGTERM),
        ((*COMMAND, "--config"), signal.SIGINT),
        ((sys.executable, "-m", "pytest", "-s", "-c", "/dev/null", "--graf-driver-sanity"), signal.SIGTERM),
    ],
    ids=["SIGTERM", "SIGINT", "pytest-SIGTERM"],
)
def test_a_run_that_is_stopped_leaves_no_driver_and_no_folder_behind(
    command: tuple[str, ...], number: signal.Signals, configuration: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    process = subprocess.Popen(
        [*command, str(configuration)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )
    assert process.stderr is not None
    ends = time.monotonic() + 60
    children: list[str] = []
    while not children or not list(folder.glob("gsan-*/state/*")):  # in the midst of the checks
        assert time.monotonic() < ends, "no driver had a role after 60 s"
        time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert list(folder.iterdir())
    process.send_signal(number)
    assert any("stopping" in line for line in process.stderr)
    process.send_signal(number)  # a hand without patience: the end is a clean one all the same
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    ends = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < ends, f"{children} are left, {os.getpid()}"
        time.sleep(0.05)
    assert list(folder.iterdir()) == []


def test_what_a_killed_driver_left_in_its_temporary_directory_goes_with_the_kit() -> None:
    driver = Process(("sh", "-c", "mktemp -d; kill -9 $$"), {})

    async def live_and_die() -> None:
        await driver.start()
        ends = time.monotonic() + 20
        while driver.alive():
            assert time.monotonic() < ends, "it was to kill itself"
            await asyncio.sleep(0.02)

    asyncio.run(live_and_die())
    left = Path(driver.log().strip())
    assert left.is_absolute()
    assert left.is_dir()
    driver.cleanup()
    assert not left.exists()


@pytest.mark.parametrize(
    "text", ["import nothing_here", "x = (", "def config(): raise RuntimeError('boo')", "config = 3"]
)
def test_a_mistake_in_a_python_configuration_is_told_with_its_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "sanity.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"raised .* at line 1: |defines no `config`"):
        load(path)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "sanity.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no text in UTF-8"):
        load(path)


def test_a_secret_that_is_no_list_is_not_told(tmp_path: Path) -> None:
    path = tmp_path / "sanity.yaml"
    path.write_text(RUNS + "secrets: correct-horse")
    with pytest.raises(ConfigError) as told:
        load(path)
    assert "correct-horse" not in str(told.value)


def test_an_endpoint_takes_the_place_of_what_a_python_configuration_starts(tmp_path: Path) -> None:
    path = tmp_path / "sanity.py"
    path.write_text(
        "from graf_driver_sanity import Config\nfrom graf_driver_sanity.config import Side\n"
        "config = Config(Side('east', command=('x',), parameters={'a': 1}))\n"
    )
    site = load(path, "/run/one.sock").site
    assert (site.endpoint, site.startable, site.parameters) == ("unix:/run/one.sock", False, {"a": 1})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "neither --config nor --endpoint"),
        (("--endpoint", "http://east:1"), "no endpoint of a driver"),
        (("--endpoint", "unix:/nowhere", "--only", "rolle"), "there is no check rolle; did you mean role?"),
        (("--endpoint", "unix:/nowhere", "--tls-dir", "/"), "at host:port"),
        (("--endpoint", "127.0.0.1:1", "--tls-dir", "/nowhere"), "cannot read /nowhere/ca.crt"),
    ],
)
def test_what_cannot_be_run_ends_with_status_2_in_words(arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_is_not_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "sanity.yaml"
    path.write_text("site: {name: east, command: [/nowhere/driver]}")
    done = subprocess.run([*COMMAND, "--config", str(path)], capture_output=True, text=True, timeout=90)
    assert (done.returncode, done.stderr) == (1, "")
    assert "/nowhere/driver cannot be started: No such file or directory" in done.stdout
    assert "start the command by hand" in done.stdout


def test_what_is_not_proved_is_told_and_ends_with_status_1_where_that_is_asked_for(configuration: Path) -> None:
    check = "resync-wiped-not-promotable"

    def run(*more: str) -> tuple[int, str]:
        arguments = ("--config", str(configuration), "--only", check, *more)
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=90)
        return done.returncode, done.stdout

    status, told = run("--strict")
    assert (status, "1 guarantees NOT PROVED" in told, "or say under `skip` why" in told) == (1, True, True)
    status, told = run()
    assert (status, "1 guarantees NOT PROVED" in told) == (0, True)
    configuration.write_text(configuration.read_text() + f"skip: {{{check}: the disk cannot be lost}}\n")
    status, told = run("--strict", "--json")
    report = json.loads(told)
    assert (status, report["kept"], report["unproved"][0]["accepted"]) == (0, True, "the disk cannot be lost")


def test_a_driver_starts_though_the_folder_for_temporary_files_has_a_long_name(
    configuration: Path, tmp_path: Path
) -> None:
    place = tmp_path / ("x" * 90)
    place.mkdir()
    done = subprocess.run(
        [*COMMAND, "--config", str(configuration), "--only", "identity-name"],
        env={**os.environ, "TMPDIR": str(place)}, capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_plugin_tells_what_is_not_proved_and_fails_a_test_for_it_where_that_is_asked_for(
    configuration: Path, tmp_path: Path
) -> None:
    arguments = ("-p", "no:cacheprovider", "--graf-driver-sanity", str(configuration), "--rootdir", str(tmp_path))
    place = ("--basetemp", str(tmp_path / "base"))
    wanted = (*place, "-k", "identity-name or resync-wiped-not-promotable")

    def run(*more: str) -> tuple[int, str]:
        command = (sys.executable, "-m", "pytest", "-q", *arguments, *wanted, *more, str(tmp_path))
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr

    status, told = run("--graf-driver-sanity-strict")
    assert (status, "1 failed, 1 passed" in told) == (1, True), told
    assert "GD-STATUS-006 is NOT PROVED: a driver that always says promotable" in told
    status, told = run()
    assert (status, "1 passed, 1 skipped" in told, "1 guarantees NOT PROVED" in told) == (0, True, True), told

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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("site: {name: east}", "neither `endpoint` nor `command`"),
        ("colour: red", "colour is not known"),
        ("site: {name: east, command: run it}", "`command` is a text"),
        ("site: {name: '${NOBODY_SETS_THIS}'}", "NOBODY_SETS_THIS"),
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
    assert "--only identiy-name names no check" in done.stderr


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

"""A lab of its own: up, a lost site and a planned move under load, the record, down, and nothing left.

The tests of this module use one lab and are meant to run in their order; pytest keeps it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from graf.lab import binaries, liveness
from graf.lab.topology import state_root

NAME = "e2e"
GROUP = "vcu-db"
GRAF = Path(sys.executable).with_name("graf")
# The first `up` on a machine makes the images; afterwards it takes under a minute.
DRILL_TRIES = 3
UP_TIMEOUT_S, DRILL_TIMEOUT_S = 600, 240

pytestmark = [pytest.mark.lab, pytest.mark.root]


def graf(*arguments: str, timeout_s: float = 60) -> str:
    done = subprocess.run([GRAF, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    told = f"graf {' '.join(arguments)} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, told
    return done.stdout


@pytest.fixture(scope="module")
def lab() -> Iterator[Path]:
    """The lab's state directory."""
    assert os.geteuid() == 0, "the lab needs root: make test uses sudo"
    try:
        graf("lab", "up", "--name", NAME, timeout_s=UP_TIMEOUT_S)
        yield state_root() / NAME
    finally:
        graf("lab", "down", "--name", NAME, timeout_s=120)


def kubectl(*arguments: str) -> Any:
    kubeconfig = graf("lab", "kubeconfig", "mgmt", "--name", NAME).strip()
    argv = [str(binaries.located() / "kubectl"), "--kubeconfig", kubeconfig, *arguments, "-o", "json"]
    return json.loads(subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout)


def git(lab: Path, *arguments: str) -> str:
    argv = ["git", "-C", str(lab / "git" / "gitops.git"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def drill(name: str, out: Path) -> dict[str, Any]:
    """A drill with which nothing is amiss but, on a machine that is busy elsewhere, how long the gap was.

    The figures are the business of `make drills`; here the service has to be back, whenever the machine lets it. A run
    in which the observer could not look for a while proves nothing of that time, so it is done again.
    """
    for _ in range(DRILL_TRIES):
        report = drill_once(name, out)
        reasons = report["runs"][0]["reasons"]
        if not any(reason.startswith("observer not blind ") for reason in reasons):
            break
    assert all(reason.startswith("gap in ") for reason in reasons), reasons
    return report


def drill_once(name: str, out: Path) -> dict[str, Any]:
    """One run of a drill, whatever it found, with its reports."""
    argv = [str(GRAF), "drill", "run", name, "--lab", NAME, "--group", GROUP, "--json", "--out", str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DRILL_TIMEOUT_S, check=False)
    assert done.stdout, f"no report, status {done.returncode}\n{done.stderr[-3000:]}"
    report: dict[str, Any] = json.loads(done.stdout)
    reasons = report["runs"][0]["reasons"]
    assert report["scenario"] == name
    assert (done.returncode == 0) is (report["verdict"] == "pass") is (not reasons)
    for file in ("report.json", "report.md", "report.html"):
        assert (out / file).stat().st_size > 0
    return report


@pytest.mark.timeout(UP_TIMEOUT_S + 60)
def test_a_second_up_finds_nothing_to_do(lab: Path) -> None:
    assert "nothing was missing" in graf("lab", "up", "--name", NAME, timeout_s=UP_TIMEOUT_S)


@pytest.mark.timeout(DRILL_TRIES * DRILL_TIMEOUT_S + 30)
def test_a_lost_site_is_replaced_and_comes_back_without_losing_a_write(lab: Path, tmp_path: Path) -> None:
    (run,) = drill("site-loss", tmp_path)["runs"]
    assert run["client"]["acked"] > 0
    assert run["client"]["lost"] == 0
    for unsafe in ("dual_writable_samples", "dual_served_samples", "stale_epoch_accepted"):
        assert run["safety"][unsafe] == 0
    moves = [(each["type"], each["from"], each["to"]) for each in run["operations"]]
    assert moves == [("Failover", "east", "west"), ("Failback", "west", "east")]


@pytest.mark.timeout(DRILL_TRIES * DRILL_TIMEOUT_S + 30)
def test_a_planned_move_goes_there_and_back(lab: Path, tmp_path: Path) -> None:
    (run,) = drill("switchover", tmp_path)["runs"]
    assert run["client"]["lost"] == 0
    assert [(each["from"], each["to"]) for each in run["operations"]] == [("east", "west"), ("west", "east")]
    for each in run["operations"]:
        message = git(lab, "show", "--no-patch", "--format=%B", each["git_commit"])
        assert f"Graf-Group: {GROUP}" in message
        assert f"Graf-Epoch: {each['epoch_to']}" in message


@pytest.mark.timeout(60)
def test_kubernetes_git_and_the_command_line_say_the_same(lab: Path) -> None:
    status = kubectl("get", "redundancygroup", GROUP, "-n", "graf-system")["status"]
    record = yaml.safe_load(git(lab, "show", f"main:records/{GROUP}.yaml"))
    assert (record["activeSite"], record["epoch"]) == (status["activeSite"], status["epoch"])
    for site in ("east", "west"):
        assigned = yaml.safe_load(git(lab, "show", f"main:clusters/{site}/{GROUP}.yaml"))["spec"]
        assert (assigned["epoch"], assigned["activeSite"]) == (status["epoch"], status["activeSite"])


def remains(lab: Path) -> list[str]:
    """What the kernel and the disk still have of the lab.

    A process that has ended is no remainder while process 1, its parent by then, has not reaped it: nobody else can.
    """
    found = [f"namespace {path.name}" for path in Path("/run/netns").glob(f"graf-{NAME}-*")]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"**/graf/{NAME}")]
    found += [f"mount {line}" for line in Path("/proc/self/mounts").read_text().splitlines() if str(lab) in line]
    found += [f"file {path}" for path in ([lab] if lab.exists() else [])]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            cgroup = (process / "cgroup").read_text()
        except OSError:  # it ended meanwhile
            continue
        if (f"/graf/{NAME}/" in cgroup or f"{lab}/" in command) and liveness.is_alive(int(process.name)):
            found.append(f"process {liveness.stat_of(int(process.name))}: {command}")
    return found


@pytest.mark.timeout(150)
def test_down_leaves_nothing(lab: Path) -> None:
    kinds = {each.split()[0] for each in remains(lab)}
    assert kinds >= {"namespace", "cgroup", "file", "process"}, "the search must find a lab that is up"
    graf("lab", "down", "--name", NAME, timeout_s=120)
    assert remains(lab) == []

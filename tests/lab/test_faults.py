from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from graf.lab import faults, network
from graf.lab.errors import LabError
from graf.lab.faults import Cut, Direction, render
from graf.lab.topology import Topology


def test_a_partition_both_ways_drops_what_enters_and_what_leaves() -> None:
    text = render([Cut("east")])
    assert 'iifname "east" drop' in text
    assert 'oifname "east" drop' in text


def test_one_way_out_leaves_the_way_in_open() -> None:
    text = render([Cut("east", Direction.OUT)])
    assert 'iifname "east" drop' in text
    assert "oifname" not in text


def test_a_partition_towards_one_peer_names_it_in_both_directions() -> None:
    text = render([Cut("east", peers=("west",))])
    assert 'iifname "east" oifname { "west" } drop' in text
    assert 'oifname "east" iifname { "west" } drop' in text


def test_loss_is_by_chance() -> None:
    assert "numgen random mod 100 < 30 drop" in render([Cut("east", percent=30)])


def test_no_fault_leaves_no_rule() -> None:
    assert "drop" not in render([])


def test_a_partition_is_mended_alone_and_others_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAF_LAB_DIR", str(tmp_path))
    scripts: list[str] = []
    monkeypatch.setattr(network, "nft", lambda script, _: scripts.append(script))
    lab = Topology("none", 0)
    lab.state_dir.mkdir(parents=True)
    faults.partition(lab, "east", Direction.BOTH, ())
    faults.partition(lab, "east", Direction.OUT, ("west",))
    faults.mend(lab, "east", Direction.OUT, ("west",))
    faults.mend(lab, "east", Direction.OUT, ("mgmt",))
    assert faults.active(lab) == [Cut("east")]
    assert scripts[-1] == render([Cut("east")])


def test_an_unknown_location_is_refused_before_anything_is_done() -> None:
    with pytest.raises(LabError, match="no location 'north'"):
        faults.partition(Topology("none", 0), "north", Direction.BOTH, ())


def test_a_loss_of_nothing_is_refused() -> None:
    with pytest.raises(LabError, match="0 %"):
        faults.loss(Topology("none", 0), "east", 0)


_WAN = f"graf-t{os.getpid() % 100000}-wan"


@pytest.fixture
def bridge() -> Iterator[str]:
    """A bridge with two ports named after locations, and a namespace behind each."""
    if os.geteuid() != 0 or shutil.which("nft") is None:
        pytest.skip("needs root and nft")
    names = {"wan": _WAN, "east": f"{_WAN}-e", "west": f"{_WAN}-w"}
    try:
        for name in names.values():
            network.ip("netns", "add", name)
        network.ip("link", "add", "wan0", "type", "bridge", netns=names["wan"])
        network.ip("link", "set", "wan0", "up", netns=names["wan"])
        for number, site in enumerate(("east", "west"), start=1):
            peer = ["peer", "name", "eth0", "netns", names[site]]
            network.ip("link", "add", site, "netns", names["wan"], "type", "veth", *peer)
            network.ip("link", "set", site, "master", "wan0", "up", netns=names["wan"])
            network.ip("address", "add", f"198.18.15.{number}/24", "dev", "eth0", netns=names[site])
            network.ip("link", "set", "eth0", "up", netns=names[site])
        yield names["wan"]
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


_ASK = """
import socket, sys, threading
def answer(sock):
    while True:
        data, who = sock.recvfrom(64)
        sock.sendto(data, who)
mine, theirs, role = sys.argv[1:]
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((mine, 4000 if role == "answer" else 0))
if role == "answer":
    print("ready", flush=True)
    answer(sock)
sock.settimeout(0.25)
for _ in range(4 if role == "reach" else 2):
    sock.sendto(b"?", (theirs, 4000))
    try:
        sock.recvfrom(64)
        sys.exit(0)
    except (TimeoutError, OSError):
        pass
sys.exit(1)
"""


@pytest.mark.root
def test_a_cut_link_carries_nothing_until_it_is_healed(bridge: str) -> None:
    def run(namespace: str, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{namespace}", "--", "python3", "-c", _ASK, *argv]

    def reaches() -> bool:
        argv = run(f"{bridge}-e", "198.18.15.1", "198.18.15.2", "reach")
        return subprocess.run(argv, check=False).returncode == 0

    with subprocess.Popen(
        run(f"{bridge}-w", "198.18.15.2", "-", "answer"), stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        try:
            assert reaches()
            network.nft(render([Cut("east")]), bridge)
            assert not reaches()
            network.nft(render([Cut("west", Direction.OUT)]), bridge)
            assert not reaches()
            network.nft(render([]), bridge)
            assert reaches()
        finally:
            server.kill()

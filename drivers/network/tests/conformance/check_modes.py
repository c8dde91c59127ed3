"""`graf-driver-sanity` against the driver as a process of its own, in each mode, with the real thing around it.

Some minutes for all modes, so they are no part of the default suite: `make network-sanity`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graf_driver_network.testing import ADDRESSES, EDGE_CONFIG, PORT, SERVICE, Edge, World, sh
from graf_driver_network.testing_api import TOKEN, WHERE, Api, api_server, definitions, parameters
from graf_driver_network.testing_dns import SECRET, DnsServer, dns_parameters
from graf_driver_sanity import Config, Report, run
from graf_driver_sanity.config import Invalid, Side

from graf.lab.binaries import located

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

PASSWORD = "p4ss word of the #tests'; }"
VIP, VIP6 = "198.18.0.200", "2001:db8:18::200"
NOBODY = "198.18.0.99"  # an address that no site has
NOT_ONE = Invalid("serviceAddress", {"serviceAddress": "nowhere"})


class Store:
    """A service at both sites on the service's port: keeps what it is told, and says so."""

    def __init__(self, world: World, addresses: dict[str, str]) -> None:
        self._world = world
        self._addresses = addresses
        self._values: dict[str, list[str]] = {name: [] for name in addresses}
        self._servers: list[socket.socket] = []
        for name in addresses:
            with world.inside(name):
                server = socket.create_server(("", PORT))
            self._servers.append(server)
            threading.Thread(target=self._serve, args=(name, server), daemon=True).start()

    def _serve(self, name: str, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                with client, contextlib.suppress(OSError):
                    client.settimeout(5)
                    self._values[name].append(client.recv(1000).decode())
                    client.sendall(b"kept")

    def write(self, site: str, value: str) -> str:
        """A client at the site's own node; raises where the gate refuses."""
        with self._world.inside(site):
            client = socket.socket()
        with client:
            client.settimeout(5)
            client.connect((self._addresses[site], PORT))
            client.sendall(value.encode())
            if client.recv(100) != b"kept":
                raise ConnectionError("not acknowledged")
        return value

    def read(self, site: str, value: str) -> str:
        return " ".join(self._values[site])

    def close(self) -> None:
        for server in self._servers:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()


@pytest.fixture
def run_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="gnt-"))
    yield path
    shutil.rmtree(path)


def side(world: World, run_dir: Path, name: str, parameters: dict[str, Any]) -> Side:
    command = tuple(world.command(name, sys.executable, "-m", "graf_driver_network.main"))
    return Side(name, command=command, parameters=parameters, environment={"GRAF_NETWORK_RUN_DIR": f"{run_dir}/{name}"})


async def checked(config: Config) -> None:
    """Runs the kit, writes its report where GRAF_SANITY_OUT says, and shows every failure."""
    report = await run(config)
    write(report, config.name)
    assert report.failures == [], report.failures
    assert report.checks >= 120


def write(report: Report, name: str) -> None:
    out = Path(os.environ.get("GRAF_SANITY_OUT", "out/sanity"))
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")


def bgp(name: str, **neighbour: Any) -> dict[str, Any]:
    return {
        "serviceAddress": f"{SERVICE}/32",
        "localAddress": ADDRESSES.get(name, NOBODY),
        "localAs": 65010,
        "neighbours": [{"address": ADDRESSES["edge"], "as": 65000} | neighbour],
    }


async def test_mode_bgp_keeps_the_contract(world: World, run_dir: Path) -> None:
    """With a password on every session."""
    edge = Edge(world, text=EDGE_CONFIG.replace("as 65010; }", f'as 65010; password "{PASSWORD}"; }}'))
    file = run_dir / "password"
    file.write_text(PASSWORD)
    east, west = (bgp(name, passwordFile=str(file)) for name in ("east", "west"))
    store = Store(world, {"east": SERVICE, "west": SERVICE})
    try:
        await checked(
            Config(
                side(world, run_dir, "east", east),
                name="network-bgp",
                peer=side(world, run_dir, "west", west),
                unreachable_peer=bgp("elsewhere"),
                invalid=(
                    Invalid("localAs", {"localAs": 0}),
                    Invalid("mode", {"mode": "pigeon"}),
                    # A password where its file's path belongs is refused, and not shown.
                    Invalid("neighbours[0].passwordFile", bgp("east", passwordFile=PASSWORD)),
                ),
                secrets=(PASSWORD,),
                hooks={"write": store.write, "read": store.read},
            )
        )
        assert PASSWORD in (run_dir / "east" / "bird.conf").read_text(), "the sessions had no password"
    finally:
        store.close()
        edge.close()


@pytest.mark.parametrize("service", [f"{VIP}/32", f"{VIP6}/128"])
async def test_mode_vip_keeps_the_contract(world: World, run_dir: Path, service: str) -> None:
    parameters = {"mode": "vip", "serviceAddress": service, "interface": "eth0"}
    await checked(
        Config(
            side(world, run_dir, "east", parameters),
            name=f"network-vip{4 if service.startswith(VIP) else 6}",
            peer=side(world, run_dir, "west", parameters),
            unreachable_peer=parameters,  # no site speaks to another one here: out of reach is who is not there
            invalid=(Invalid("interface", {"interface": "lo"}), Invalid("vip.intervalMs", {"vip": {"intervalMs": 1}})),
        )
    )


async def test_mode_dns_keeps_the_contract(world: World, run_dir: Path) -> None:
    server = DnsServer(world, 53, master=True)
    secret = run_dir / "secret"
    secret.write_text(SECRET)
    addresses = {"east": "198.19.255.11", "west": "198.19.255.12"}
    store = Store(world, addresses)
    try:
        await checked(
            Config(
                side(world, run_dir, "east", dns_parameters(secret, f"{addresses['east']}/32")),
                name="network-dns",
                peer=side(world, run_dir, "west", dns_parameters(secret, f"{addresses['west']}/32")),
                unreachable_peer=dns_parameters(secret, f"{NOBODY}/32"),
                invalid=(Invalid("dns", remove=("dns",)), Invalid("dns.zone", {"dns": {}}), NOT_ONE),
                secrets=(SECRET,),
                hooks={"write": store.write, "read": store.read},
            )
        )
    finally:
        store.close()
        server.close()


@pytest.fixture(scope="module")
def apis(whole_world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Api]]:
    """Each site's own API server; where their programs or definitions are missing this fails and says what is."""
    crds, programs = definitions(), located()
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                api_server(whole_world, name, tmp_path_factory.mktemp(f"apiserver-{name}"), programs, crds)
            )
            for name in ("east", "west")
        }


# `fencing: gate` is a promise of the site, that every packet comes through the driver's node: here that is so.
@pytest.mark.parametrize(
    ("mode", "variant", "own"),
    [
        ("metallb", "", {"localPreference": "epoch"}),
        ("metallb", "-l2", {"kind": "l2"}),
        ("metallb", "-gate", {"fencing": "gate"}),
        ("cilium", "", {"localPreference": "epoch"}),
    ],
)
async def test_modes_metallb_and_cilium_keep_the_contract(
    world: World, run_dir: Path, apis: dict[str, Api], mode: str, variant: str, own: dict[str, Any]
) -> None:
    where = ("l2advertisement", *WHERE["metallb"][1:]) if variant == "-l2" else WHERE[mode]

    def take_away(site: str, _: str) -> str:
        """Somebody deletes the object: nothing is announced any more."""
        return apis[site].kubectl("delete", *where)

    # What the cluster's service proxy and its speakers do in a real one: the address is at every node.
    for name in apis:
        sh("ip", "-n", world.names[name], "addr", "add", f"{SERVICE}/32", "dev", "lo")
    store = Store(world, dict.fromkeys(apis, SERVICE))
    east, west = (parameters(apis[name], mode, **own) for name in ("east", "west"))
    try:
        await checked(
            Config(
                side(world, run_dir, "east", east),
                name=f"network-{mode}{variant}",
                peer=side(world, run_dir, "west", west),
                unreachable_peer=west | {mode: {**west[mode], "kubeconfig": "/nowhere"}},
                invalid=(
                    NOT_ONE,
                    Invalid(mode, remove=(mode,)),
                    Invalid(f"{mode}.name", {mode: {**east[mode], "name": "Two Words"}}),
                    Invalid(f"{mode}.fencing", {mode: {**east[mode], "fencing": "hope"}}),
                ),
                secrets=(TOKEN,),
                hooks={"write": store.write, "read": store.read, "break": take_away},
            )
        )
    finally:
        store.close()
    assert {name: api.get(*where) for name, api in apis.items()} == {"east": {}, "west": {}}, "no object is left behind"

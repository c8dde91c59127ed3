"""Network namespaces with a bridge between them, as the driver's tests and its benchmark use them. Needs root.

Not used by the driver itself.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, TypeVar

from graf_driver_network.connections import end_connections
from graf_driver_network.gate import Gate
from graf_driver_network.libnftables import Nftables

T = TypeVar("T")

SERVICE = "198.19.255.1"
PORT = 3306
ADDRESSES = {"east": "198.18.0.20", "west": "198.18.0.30", "edge": "198.18.0.40"}
ADDRESSES6 = {"east": "2001:db8:18::20", "west": "2001:db8:18::30", "edge": "2001:db8:18::40"}
SERVICE6 = "2001:db8:19::1"
_TOOLS = {"ip": "iproute2", "bird": "bird2", "nft": "nftables", "nsenter": "util-linux", "setpriv": "util-linux"}
_LIBC = ctypes.CDLL(None, use_errno=True)


def missing() -> list[str]:
    """What this machine lacks for tests in namespaces, each with its remedy."""
    found = [f"{tool}: apt-get install {package}" for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    try:
        ctypes.CDLL("libnftables.so.1")
    except OSError:
        found.append("libnftables.so.1: apt-get install libnftables1")
    if os.geteuid() != 0:
        found.append("root: network namespaces need it; run as root")
    return found


def sh(*command: str, text: str | None = None) -> str:
    """Runs a command, which must succeed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def wait_until(what: str, condition: Callable[[], bool], timeout_s: float = 20.0) -> float:
    """Polls until true; gives the seconds it took.

    Raises:
        AssertionError: it did not come true; says what was waited for.
    """
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"waited {timeout_s} s in vain: {what}")
        time.sleep(0.002)
    return time.monotonic() - began


def last_seen_open_ns(gate: Gate, timeout_s: float = 2.0) -> int:
    """Watches until the gate is shut.

    Returns:
        ``monotonic_ns`` before the last look that found it open: a machine that holds this process up makes it
        earlier, never later.
    """
    last = began = time.monotonic_ns()
    while True:
        asked_at = time.monotonic_ns()
        if not gate.read(SERVICE).open:
            return last
        last = asked_at
        if asked_at > began + timeout_s * 1e9:
            raise AssertionError(f"waited {timeout_s} s in vain: the gate shuts")


class World:
    """Namespaces east, west and edge on one bridge, named so that two test runs do not meet."""

    def __init__(self) -> None:
        self._prefix = f"gnt{os.getpid()}-"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._gates: list[Gate] = []
        self.names = {name: self._prefix + name for name in (*ADDRESSES, "wan")}

    def __enter__(self) -> World:
        for name in self.names.values():
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        wan = self.names["wan"]
        sh("ip", "-n", wan, "link", "add", "br0", "type", "bridge")
        sh("ip", "-n", wan, "link", "set", "br0", "up")
        for name, address in ADDRESSES.items():
            namespace = self.names[name]
            sh("ip", "link", "add", "eth0", "netns", namespace, "type", "veth", "peer", name, "netns", wan)
            sh("ip", "-n", wan, "link", "set", name, "master", "br0", "up")
            sh("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
            sh("ip", "-n", namespace, "addr", "add", f"{ADDRESSES6[name]}/64", "dev", "eth0", "nodad")
            sh("ip", "-n", namespace, "link", "set", "eth0", "up")
        return self

    def _close_gates(self) -> None:
        while self._gates:
            self._gates.pop().close()

    def __exit__(self, *_: object) -> None:
        self._close_gates()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for name in self.names.values():
            with contextlib.suppress(AssertionError):
                sh("ip", "netns", "del", name)

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread is in the namespace; what it opens there stays there."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            target = os.open(f"/run/netns/{self.names[name]}", os.O_RDONLY)
            try:
                self._setns(target)
            finally:
                os.close(target)
            yield
        finally:
            self._setns(home)
            os.close(home)

    def gate(self, name: str) -> Gate:
        """A gate object whose netlink socket is in the namespace."""
        with self.inside(name):
            gate = Gate(Nftables())
        self._gates.append(gate)
        return gate

    def command(self, name: str, *command: str) -> list[str]:
        """A command line that runs ``command`` inside."""
        return ["nsenter", f"--net=/run/netns/{self.names[name]}", "--", *command]

    def run(self, name: str, *command: str) -> str:
        """Runs a command inside, which must succeed."""
        return sh(*self.command(name, *command))

    def start(self, name: str, *command: str, **options: Any) -> subprocess.Popen[bytes]:
        """A process inside, ended with the world."""
        process = subprocess.Popen(self.command(name, *command), **options)
        self._processes.append(process)
        return process

    def clean(self) -> None:
        """Gates, service addresses, routes and what is left of connections are gone."""
        self._close_gates()
        for name in ADDRESSES:
            namespace = self.names[name]
            for command in (
                self.command(name, "nft", "delete", "table", "inet", "graf_gate"),
                ["ip", "-n", namespace, "addr", "del", f"{SERVICE}/32", "dev", "lo"],
                ["ip", "-n", namespace, "route", "del", f"{SERVICE}/32"],
                ["ip", "-n", namespace, "addr", "del", f"{SERVICE6}/128", "dev", "lo"],
            ):
                subprocess.run(command, capture_output=True, check=False)
            with self.inside(name):
                end_connections(IPv4Address(SERVICE))

    def cut(self, name: str) -> None:
        """Nothing passes between the namespace and the others."""
        rules = "add table bridge cut\nadd chain bridge cut c { type filter hook forward priority 0; }\n"
        rules += f'add rule bridge cut c iifname "{name}" drop\nadd rule bridge cut c oifname "{name}" drop\n'
        sh(*self.command("wan", "nft", "-f", "-"), text=rules)

    def heal(self) -> None:
        """Undoes :meth:`cut`."""
        sh(*self.command("wan", "nft", "delete", "table", "bridge", "cut"))

    def edge_next_hop(self) -> str:
        """Where the edge's kernel sends packets for the service address; empty when nowhere."""
        words = sh("ip", "-n", self.names["edge"], "route", "show", f"{SERVICE}/32").split()
        return words[words.index("via") + 1] if "via" in words else ""

    @staticmethod
    def _setns(descriptor: int) -> None:
        if _LIBC.setns(descriptor, 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "setns")


class Echo:
    """A TCP server on the service port of a namespace that answers what it gets, and says what it has seen."""

    def __init__(self, world: World, name: str) -> None:
        with world.inside(name):
            self._socket = socket.create_server(("", PORT))
        self.received = 0
        self.ended: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(4096):
                    self.received += len(data)
                    if data.startswith(b"later"):
                        time.sleep(0.2)
                    connection.sendall(data)
                self.ended.append("eof")
            except OSError as error:
                self.ended.append(type(error).__name__)

    def close(self) -> None:
        """Frees the port."""
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept(), which would hold the port
        self._socket.close()


def connect(world: World, name: str, timeout_s: float = 1.0) -> socket.socket:
    """A client's connection to the service address, from inside a namespace."""
    with world.inside(name):
        client = socket.socket()
    client.settimeout(timeout_s)
    try:
        client.connect((SERVICE, PORT))
    except BaseException:
        client.close()
        raise
    return client


def ask(client: socket.socket, message: bytes = b"x") -> bytes:
    """Sends a message and gives what came back."""
    client.sendall(message)
    return client.recv(4096)


class SiteLoop:
    """A thread inside a namespace with an event loop of its own: where a driver of that site runs."""

    def __init__(self, world: World, name: str) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="gnt-"))
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()

        def run() -> None:
            with world.inside(name):
                asyncio.set_event_loop(self._loop)
                self._loop.call_soon(ready.set)
                self._loop.run_forever()
                self._loop.close()

        self._thread = threading.Thread(target=run, name=f"site-{name}", daemon=True)
        self._thread.start()
        assert ready.wait(5), "the site's event loop did not start"

    def do(self, work: Coroutine[Any, Any, T], timeout_s: float = 10.0) -> T:
        """Runs a coroutine there and gives its result."""
        future: concurrent.futures.Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(timeout_s)

    def close(self) -> None:
        """Ends the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        shutil.rmtree(self.run_dir, ignore_errors=True)


EDGE_CONFIG = """
log stderr { warning, error, fatal, bug };
router id 198.18.0.40;

protocol device { }

protocol kernel service_routes {
  scan time 10;
  merge paths off;
  ipv4 { import none; export where source = RTS_BGP; };
}

template bgp graf_site {
  local 198.18.0.40 as 65000;
  strict bind yes;
  hold time 3;
  keepalive time 1;
  connect delay time 0;
  connect retry time 1;
  error wait time 1, 1;
  med metric off;
  ipv4 {
    import filter { if net ~ [ 198.19.255.0/24{32,32} ] then accept; reject; };
    export none;
  };
}

protocol bgp east from graf_site { neighbor 198.18.0.20 as 65010; }
protocol bgp west from graf_site { neighbor 198.18.0.30 as 65010; }
"""


EDGE6_CONFIG = """
template bgp graf_site6 {
  local 2001:db8:18::40 as 65000;
  strict bind yes;
  hold time 3;
  keepalive time 1;
  connect delay time 0;
  connect retry time 1;
  error wait time 1, 1;
  bfd on;
  ipv6 { import all; export none; };
}

protocol bfd { interface "*" { interval 50 ms; multiplier 3; }; }
protocol bgp east6 from graf_site6 { neighbor 2001:db8:18::20 as 65010; }
protocol bgp west6 from graf_site6 { neighbor 2001:db8:18::30 as 65010; }
"""


class Edge:
    """The users' edge router: a real BIRD with the text of the reference page, and more where a test needs it."""

    def __init__(self, world: World, more: str = "", *, text: str = EDGE_CONFIG, place: str = "edge") -> None:
        """``text`` and ``place`` make another router of it, in another namespace."""
        self._world = world
        self._place = place
        self._dir = Path(tempfile.mkdtemp(prefix="gnt-edge-"))
        (self._dir / "edge.conf").write_text(text + more)
        self.start()

    def start(self) -> None:
        """Starts the router (again)."""
        files = {"-c": "edge.conf", "-s": "edge.ctl", "-P": "edge.pid"}
        arguments = [word for flag, name in files.items() for word in (flag, str(self._dir / name))]
        self.process = self._world.start(self._place, "bird", "-f", *arguments)

    def configure(self, text: str) -> None:
        """Another text, while it runs."""
        (self._dir / "edge.conf").write_text(text)
        sh("birdc", "-s", str(self._dir / "edge.ctl"), "configure")

    def ask(self, command: str) -> str:
        """Asks the router over its control socket."""
        return sh("birdc", "-r", "-s", str(self._dir / "edge.ctl"), *command.split())

    def close(self) -> None:
        """Ends the router and takes its routes out of the kernel."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self._dir, ignore_errors=True)
        subprocess.run(
            ["ip", "-n", self._world.names[self._place], "route", "flush", "proto", "bird"],
            capture_output=True,
            check=False,
        )

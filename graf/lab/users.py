"""The users' side: where clients live, behind an edge router (BIRD) that learns the service address by BGP.

Both sites announce from the same autonomous system, so that the edge compares their MED: the lower one wins. That is
how a newer epoch's route beats an older one that lingers.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from graf.lab import network, process
from graf.lab.errors import LabError
from graf.lab.process import Daemon
from graf.lab.topology import SITES, USERS, Topology

EDGE_AS = 65000
SITE_AS = 65010


def bird_config(topology: Topology) -> str:
    """Configuration of the edge router."""
    address = topology.location(USERS).address
    neighbours = "".join(
        f"protocol bgp {name} from site {{ neighbor {topology.location(name).address} as {SITE_AS}; }}\n"
        for name in SITES
    )
    return f"""log stderr all;
router id {address};

protocol device {{ scan time 10; }}

protocol kernel {{
  ipv4 {{ import none; export where net ~ [ 198.19.255.0/24{{32,32}} ]; }};
}}

protocol bfd {{
  interface "eth0" {{ interval 50 ms; multiplier 3; }};
}}

template bgp site {{
  local {address} as {EDGE_AS};
  bfd on;
  hold time 3;
  keepalive time 1;
  connect delay time 1;
  connect retry time 1;
  # The default waits 60 s after an error before it speaks to a neighbour again.
  error wait time 1, 5;
  ipv4 {{
    import where net ~ [ 198.19.255.0/24{{32,32}} ];
    export none;
  }};
}}

{neighbours}"""


def control_socket(topology: Topology) -> Path:
    return topology.location_dir(USERS) / "bird.ctl"


def start(topology: Topology) -> list[str]:
    """Start what does not run of the users' side. Returns what was started."""
    program = shutil.which("bird")
    if program is None:
        raise LabError("BIRD is not installed", "it is the users' edge router", "apt-get install bird2")
    _, booted = process.ensure_holder(topology, USERS)
    if booted:
        network.reset_location(topology, USERS)
    config = topology.location_dir(USERS) / "bird.conf"
    config.write_text(bird_config(topology))
    argv = (program, "-f", "-c", str(config), "-s", str(control_socket(topology)))
    # The edge router is under measurement: it does not yield to the clusters' daemons.
    started = process.start_daemon(topology, USERS, Daemon("bird", argv, nice=0))
    return [f"{USERS}: bird"] if started else []


def birdc(topology: Topology, *command: str) -> str:
    """Ask the edge router; see `Lab.birdc`."""
    argv = ["birdc", "-r", "-s", str(control_socket(topology)), *command]
    return process.run_in(topology, USERS, argv, timeout_s=5, check=True).stdout

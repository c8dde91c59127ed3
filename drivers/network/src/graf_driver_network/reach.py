"""From an activation until the users reach the new site: this driver's part of the predicted outage. Pure.

Worst cases, not means. What has a figure here is measured by ``benchmarks/gate.py`` or is a protocol's own number.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

from graf_driver_network.announcer import Seen
from graf_driver_network.parameters import Parameters
from graf_driver_network.parameters_bgp import Bgp
from graf_driver_network.parameters_dns import Dns
from graf_driver_network.parameters_objects import Objects

UNKNOWN: Final = -1
NEWER_WINS_MS: Final = 30
"""A newer epoch's route at the edge's kernel, over the lingering one: worst of the benchmark, rounded up."""
SPEAKERS_MS: Final = 1000
"""Until the cluster's speakers have announced what was written. Not measured: no speaker runs in the tests."""
HOLD_MS: Final = 90_000
"""How long an old route outlives a silent site: the hold time that RFC 4271 suggests, which is Cilium's default too."""
ARP_LOCK_MS: Final = 1000
"""Linux ignores a second claim of an address for this long (``locktime``)."""
BGP_HOLD_MS: Final = 3000
"""The hold time of this driver's own sessions."""


def reach_ms(parameters: Parameters, seen: Seen) -> int:
    """From the completed activation until the last user reaches this site; negative when it cannot be told.

    Args:
        parameters: of this site.
        seen: the announcement as it is now.
    """
    own = parameters.announcement
    if isinstance(own, Dns):
        return max(own.ttl_s * 1000, seen.lingers_ms)
    if parameters.convergence_ms is not None:
        return parameters.convergence_ms
    if isinstance(own, Bgp):
        return UNKNOWN if seen.problem else NEWER_WINS_MS
    if isinstance(own, Objects):
        # Without a preference by epoch only the old route's end tells two sites apart.
        return SPEAKERS_MS if own.l2 or own.local_preference == -1 else HOLD_MS
    if not isinstance(parameters.service_address, IPv4Address):
        return own.interval_ms
    if (own.announcements - 1) * own.interval_ms > ARP_LOCK_MS:
        return ARP_LOCK_MS + own.interval_ms
    return own.refresh_s * 1000 if own.refresh_s else UNKNOWN


def detection_ms(bgp: Bgp) -> int:
    """How long a neighbour keeps the route of a site that died without a word: by BFD, or the session's hold time."""
    return BGP_HOLD_MS if bgp.bfd is None else min(BGP_HOLD_MS, bgp.bfd.interval_ms * bgp.bfd.multiplier)

"""The objects of MetalLB and Cilium as values. Pure: parameters and an epoch go in, an object's body comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from graf_driver_network.cluster import Kind
from graf_driver_network.parameters_objects import Objects

EPOCH: Final = "network.graf.dev/epoch"
COMPONENT: Final = "network.graf.dev/component"
"""Annotations of every object that this driver writes. One without them is somebody else's."""

BGP_ADVERTISEMENT: Final = Kind("metallb.io", "v1beta1", "BGPAdvertisement", "bgpadvertisements")
L2_ADVERTISEMENT: Final = Kind("metallb.io", "v1beta1", "L2Advertisement", "l2advertisements")
CILIUM_ADVERTISEMENT: Final = Kind("cilium.io", "v2", "CiliumBGPAdvertisement", "ciliumbgpadvertisements")
CILIUM_NODES: Final = Kind("cilium.io", "v2", "CiliumBGPNodeConfig", "ciliumbgpnodeconfigs")
METALLB_BGP_STATUS: Final = Kind("metallb.io", "v1beta1", "ServiceBGPStatus", "servicebgpstatuses")
METALLB_L2_STATUS: Final = Kind("metallb.io", "v1beta1", "ServiceL2Status", "servicel2statuses")
MAX_LOCAL_PREFERENCE: Final = 2_147_483_647
"""MetalLB keeps it in 32 bits with a sign."""


def kind_of(mode: str, parameters: Objects) -> Kind:
    """Which kind is written."""
    if mode == "cilium":
        return CILIUM_ADVERTISEMENT
    return L2_ADVERTISEMENT if parameters.l2 else BGP_ADVERTISEMENT


def body_of(mode: str, parameters: Objects, component: str, epoch: int) -> dict[str, Any]:
    """The whole object, as it is applied for this epoch."""
    kind = kind_of(mode, parameters)
    metadata: dict[str, Any] = {
        "name": parameters.name,
        "annotations": {EPOCH: str(epoch), COMPONENT: component},
    }
    if parameters.namespace:
        metadata["namespace"] = parameters.namespace
    if parameters.labels:
        metadata["labels"] = dict(parameters.labels)
    spec = _cilium(parameters, epoch) if mode == "cilium" else _metallb(parameters, epoch)
    return {"apiVersion": f"{kind.group}/{kind.version}", "kind": kind.kind, "metadata": metadata, "spec": spec}


def epoch_of(found: Mapping[str, Any]) -> int:
    """The epoch that an object was written for; 0 when it does not say."""
    text = str(_annotations(found).get(EPOCH, ""))
    return int(text) if text.isdecimal() else 0


def component_of(found: Mapping[str, Any]) -> str:
    """Whose an object is; empty when it is not this driver's."""
    return str(_annotations(found).get(COMPONENT, ""))


def contains(found: object, wanted: object) -> bool:
    """Whether everything that was written is there; what others or defaults have added does not count."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(contains(found.get(name), value) for name, value in wanted.items())
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(found) == len(wanted)
        return same and all(contains(a, b) for a, b in zip(found, wanted, strict=True))  # type: ignore[call-overload]
    return found == wanted


def _annotations(found: Mapping[str, Any]) -> Mapping[str, Any]:
    annotations = found.get("metadata", {}).get("annotations")
    return annotations if isinstance(annotations, Mapping) else {}


def _preference(parameters: Objects, epoch: int) -> int | None:
    return epoch if parameters.local_preference == -1 else parameters.local_preference


def _metallb(parameters: Objects, epoch: int) -> dict[str, Any]:
    spec: dict[str, Any] = {"ipAddressPools": list(parameters.address_pools)}
    if parameters.l2:
        return spec
    if parameters.peers:
        spec["peers"] = list(parameters.peers)
    if parameters.communities:
        spec["communities"] = [
            ("large:" if len(community) == 3 else "") + ":".join(map(str, community))
            for community in parameters.communities
        ]
    preference = _preference(parameters, epoch)
    if preference is not None:
        spec["localPref"] = preference
    return spec


def _cilium(parameters: Objects, epoch: int) -> dict[str, Any]:
    attributes: dict[str, Any] = {}
    if parameters.communities:
        kinds = {"standard": 2, "large": 3}
        attributes["communities"] = {
            name: [":".join(map(str, c)) for c in parameters.communities if len(c) == length]
            for name, length in kinds.items()
            if any(len(c) == length for c in parameters.communities)
        }
    preference = _preference(parameters, epoch)
    if preference is not None:
        attributes["localPreference"] = preference
    advertisement: dict[str, Any] = {
        "advertisementType": "Service",
        "service": {"addresses": ["LoadBalancerIP"]},
        "selector": {"matchLabels": dict(parameters.service_selector)},
    }
    if attributes:
        advertisement["attributes"] = attributes
    return {"advertisements": [advertisement]}

"""Parameters of the modes ``metallb`` and ``cilium``: objects of the site's cluster. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from graf_driver_network.fields import Reader
from graf_driver_network.parameters_bgp import read_communities, read_local_preference

_COMMON: Final = frozenset({"name", "communities", "localPreference", "fencing", "kubeconfig", "timeoutMs", "labels"})
_KNOWN: Final = {
    "metallb": _COMMON | {"namespace", "addressPools", "peers", "kind"},
    "cilium": _COMMON | {"serviceSelector"},
}
_PATH: Final = re.compile(r"/[^\0]{1,4000}")
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,251}[A-Za-z0-9])?")
_VALUE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Objects:
    """Which objects are written for the active site. A ``local_preference`` of -1 stands for the epoch itself.

    Attributes:
        fences_by_gate: every packet for the service address comes through this driver's node, so that the gate alone
            proves that nothing is accepted. Otherwise the objects must be seen to be gone as well.
    """

    name: str
    namespace: str = ""
    l2: bool = False
    address_pools: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    service_selector: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    communities: tuple[tuple[int, ...], ...] = ()
    local_preference: int | None = None
    fences_by_gate: bool = False
    kubeconfig: str = ""
    timeout_ms: int = 2000


def read_objects(mode: str, raw: object, reader: Reader) -> Objects | None:
    """Reads what belongs to these modes; None when there is a problem."""
    before = len(reader.problems)
    fields = reader.mapping(raw, mode, _KNOWN[mode], "an object, see the reference page")
    if len(reader.problems) > before and not fields:
        return None
    name = reader.kubernetes_name(fields.get("name"), f"{mode}.name", "the object's name, e.g. vcu-db")
    namespace = ""
    pools: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    l2 = False
    selector: tuple[tuple[str, str], ...] = ()
    if mode == "metallb":
        namespace = reader.kubernetes_name(
            fields.get("namespace", "metallb-system"), "metallb.namespace", "MetalLB's own namespace"
        )
        pools = _names(fields.get("addressPools", []), "metallb.addressPools", reader)
        if not pools:
            reader.problem("metallb.addressPools", "is missing or empty", "the pools that have the service address")
        peers = _names(fields.get("peers", []), "metallb.peers", reader)
        kind = fields.get("kind", "bgp")
        if kind not in ("bgp", "l2"):
            reader.problem("metallb.kind", f"{kind!r} is neither bgp nor l2", "bgp or l2")
        l2 = kind == "l2"
        if l2 and (peers or "communities" in fields or "localPreference" in fields):
            reader.problem("metallb.kind", "l2 has no peers, communities or localPreference", "leave them out")
    else:
        selector = _labels(fields.get("serviceSelector", {}), "cilium.serviceSelector", reader)
        if not selector:
            reader.problem("cilium.serviceSelector", "is missing or empty", "labels of the Service, e.g. {app: db}")
    fencing = fields.get("fencing", "objects")
    if fencing not in ("objects", "gate"):
        reader.problem(f"{mode}.fencing", f"{fencing!r} is neither objects nor gate", "objects, the default, or gate")
    preference = read_local_preference(fields, f"{mode}.localPreference", reader)
    kubeconfig = ""
    if "kubeconfig" in fields:
        kubeconfig = reader.text(fields["kubeconfig"], f"{mode}.kubeconfig", _PATH, "a file, from the root")
    found = Objects(
        name,
        namespace,
        l2,
        pools,
        peers,
        selector,
        _labels(fields.get("labels", {}), f"{mode}.labels", reader),
        read_communities(fields.get("communities", []), f"{mode}.communities", reader),
        preference,
        fencing == "gate",
        kubeconfig,
        reader.number(fields.get("timeoutMs"), f"{mode}.timeoutMs", 100, 10_000, "milliseconds, e.g. 2000", 2000),
    )
    return None if len(reader.problems) > before else found


def _names(value: object, field: str, reader: Reader) -> tuple[str, ...]:
    fix = "a list of names"
    entries = reader.sequence(value, field, fix)
    return tuple(sorted({reader.kubernetes_name(entry, f"{field}[{i}]", fix) for i, entry in enumerate(entries)}))


def _labels(value: object, field: str, reader: Reader) -> tuple[tuple[str, str], ...]:
    fix = "labels, e.g. {app: db}"
    if not isinstance(value, Mapping):
        reader.problem(field, f"{value!r} is no object", fix)
        return ()
    found = {
        reader.text(name, f"{field}.{name}", _LABEL, fix): reader.text(entry, f"{field}.{name}", _VALUE, fix)
        for name, entry in value.items()
    }
    return tuple(sorted(found.items()))

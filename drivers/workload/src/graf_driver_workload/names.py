"""Names that the driver writes into a cluster. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

from graf_driver_sdk.types import ComponentKey

PREFIX: Final = "workload.graf.dev/"
OWNER: Final = PREFIX + "owner"  # group/component@site
ROLE: Final = PREFIX + "role"
EPOCH: Final = PREFIX + "epoch"
REPLICAS: Final = PREFIX + "replicas"  # how many there are when it is scaled out
COMPONENT: Final = PREFIX + "component"  # label: objects of a component are found by it
APPLIED: Final = PREFIX + "applied"  # label: the driver made it, so the driver may remove it

FIELD_MANAGER: Final = "graf-workload"


def component_label(key: ComponentKey) -> str:
    """The value of the label: a label's value is too short for two names."""
    return hashlib.sha256(f"{key.group}/{key.component}".encode()).hexdigest()[:16]


def record_name(key: ComponentKey) -> str:
    """The ConfigMap that lists what the driver has applied. The two names have no dot."""
    return f"graf-workload.{key.group}.{key.component}"

"""The kinds of this API group, by name and by folder."""

from __future__ import annotations

from graf.crd.assignment import GroupAssignment
from graf.crd.base import Resource
from graf.crd.driverclass import DriverClass
from graf.crd.group import RedundancyGroup
from graf.crd.operation import RedundancyOperation
from graf.crd.policy import RedundancyPolicy
from graf.crd.site import Site

# In the order in which they are applied: what is referred to comes before what refers to it.
ALL_KINDS: tuple[type[Resource], ...] = (
    Site,
    DriverClass,
    RedundancyPolicy,
    RedundancyGroup,
    RedundancyOperation,
    GroupAssignment,
)
BY_KIND: dict[str, type[Resource]] = {kind.kind_name: kind for kind in ALL_KINDS}
BY_FOLDER: dict[str, type[Resource]] = {kind.folder: kind for kind in ALL_KINDS}

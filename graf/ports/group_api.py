"""What an operator's tools ask of a cluster's API: groups, operations, and how far Git has been applied.

The command line and the drills use this port and nothing else of Kubernetes. None of it is on a failover path.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from graf.crd.assignment import GroupAssignment
from graf.crd.driverclass import DriverClass
from graf.crd.group import RedundancyGroup
from graf.crd.operation import RedundancyOperation
from graf.crd.policy import RedundancyPolicy
from graf.crd.site import Site


class ApiFault(StrEnum):
    """Why a question to the API was not answered."""

    UNREACHABLE = "unreachable"
    NOT_FOUND = "not found"
    REFUSED = "refused"
    UNREADABLE = "unreadable"


class ApiError(Exception):
    """A question to the API that was not answered as asked.

    Attributes:
        fault: What kind of problem it is.
        what: One sentence: what failed, where, why.
        next_step: What the operator can do.
    """

    def __init__(self, fault: ApiFault, what: str, next_step: str) -> None:
        super().__init__(f"{what} {next_step}")
        self.fault = fault
        self.what = what
        self.next_step = next_step


class GroupApi(Protocol):
    """Reads and asks; every method raises `ApiError` and answers within seconds."""

    def groups(self) -> list[RedundancyGroup]:
        """All groups, by name."""

    def group(self, name: str) -> RedundancyGroup:
        """One group."""

    def driver_classes(self) -> list[DriverClass]:
        """All driver classes, by name."""

    def sites(self) -> list[Site]:
        """All sites, by name."""

    def policy(self, name: str) -> RedundancyPolicy:
        """One policy."""

    def assignment(self, group: str) -> GroupAssignment:
        """The group's assignment, at a site's cluster."""

    def create_operation(self, operation: RedundancyOperation) -> None:
        """Asks for an operation."""

    def operation(self, name: str) -> RedundancyOperation:
        """One operation."""

    def gitops_status(self) -> dict[str, str]:
        """How far Git has been applied, as the manager reports it; empty before its first report."""

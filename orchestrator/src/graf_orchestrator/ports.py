"""What the manager needs of the management cluster's API: a narrow port, so that tests can stand in for it."""

from __future__ import annotations

from typing import Any, Protocol

Document = dict[str, Any]


class ClusterError(Exception):
    """The API server did not do what was asked.

    Attributes:
        status: HTTP status, 0 when there was no answer (then it may have been done).
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def unreachable(self) -> bool:
        """Whether to try again later, rather than to change what is asked for."""
        return self.status == 0 or self.status == 429 or self.status >= 500


class Cluster(Protocol):
    """Objects of GRAF and two kinds of its own record, by the API server. Every method raises ClusterError."""

    def objects(self, kind: str) -> list[Document]:
        """All objects of a kind of GRAF."""

    def apply(self, document: Document, *, dry_run: bool) -> None:
        """Server-side apply as field manager `graf-manager`."""

    def create(self, document: Document) -> bool:
        """Creates an object of GRAF; False when one of that name exists."""

    def write_status(self, kind: str, name: str, status: Document) -> None:
        """Replaces the status of an object."""

    def write_event(self, event: Document) -> None:
        """Creates an Event; one of the same name is left as it is."""

    def read_config_map(self, name: str) -> dict[str, str] | None:
        """Data of a ConfigMap in GRAF's namespace, None when there is none."""

    def write_config_map(self, name: str, data: dict[str, str]) -> None:
        """Creates or replaces a ConfigMap in GRAF's namespace."""

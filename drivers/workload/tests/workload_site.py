"""A namespace of a test with the driver in front of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from graf_driver_sdk.client import DriverClient
from graf_driver_sdk.testing import eventually
from graf_driver_sdk.types import ComponentKey, EnsureRole, Role, Spec, Status
from graf_driver_workload.parameters import DEPLOYMENT, Kind
from workload_cluster import Cluster, wait_for


@dataclass
class Site:
    """A namespace with the driver in front of it."""

    cluster: Cluster
    namespace: str
    client: DriverClient
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def spec(self) -> Spec:
        return Spec(ComponentKey("vcu", "app", "east"), {"namespace": self.namespace, **self.parameters})

    def path(self, name: str, kind: Kind = DEPLOYMENT, subresource: str = "") -> str:
        return self.cluster.api.resource(kind).path(self.namespace, name, subresource)

    def get(self, name: str, kind: Kind = DEPLOYMENT) -> dict[str, Any] | None:
        return self.cluster.api.get(self.path(name, kind))

    def patch(self, name: str, body: dict[str, Any], kind: Kind = DEPLOYMENT) -> None:
        assert self.cluster.api.merge(self.path(name, kind), body) is not None

    def replicas(self, name: str, kind: Kind = DEPLOYMENT) -> int:
        found = self.get(name, kind)
        assert found is not None, f"{name} is not there"
        return int(found["spec"]["replicas"])

    def pods(self) -> list[dict[str, Any]]:
        return self.cluster.api.items(f"/api/v1/namespaces/{self.namespace}/pods")

    def until_pods(self, count: int) -> None:
        wait_for(f"{count} pods", lambda: len(self.pods()) == count)

    def create(self, manifest: str) -> None:
        self.cluster.kubectl("-n", self.namespace, "apply", "--server-side", "-f", "-", stdin=manifest)

    async def ensure(self, role: Role, epoch: int = 1, timeout_s: float = 60) -> str:
        """Calls until completed; gives the last message."""

        async def call() -> str:
            progress = await self.client.ensure_role(EnsureRole(self.spec, role, epoch))
            return (progress.message or "done") if progress.completed else ""

        return str(await eventually(f"{role.name} of {self.parameters}", call, timeout_s, 0.05))

    async def once(self, role: Role, epoch: int = 1) -> Any:
        return await self.client.ensure_role(EnsureRole(self.spec, role, epoch))

    async def status(self) -> Status:
        return await self.client.status(self.spec)


DEPLOYMENT_YAML = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, labels: {part: vcu}}
spec:
  replicas: REPLICAS
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec: {containers: [{name: main, image: "localhost/app:1"}]}
"""


def deployment(name: str, replicas: int) -> str:
    return DEPLOYMENT_YAML.replace("NAME", name).replace("REPLICAS", str(replicas))

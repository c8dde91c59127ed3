"""Fixtures: one cluster for the whole run, a namespace of its own for each test, the driver behind a real socket."""

from __future__ import annotations

import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from graf_driver_sdk.testing import running
from graf_driver_workload.driver import WorkloadDriver

from graf.lab.binaries import located

sys.path.insert(0, str(Path(__file__).parent))
from workload_cluster import Cluster, running_cluster
from workload_site import Site

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The programs come from `make programs`."""
    with running_cluster(tmp_path_factory.mktemp("workload"), located()) as found:
        yield found


@pytest.fixture
async def site(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    namespace = f"vcu-{next(_numbers)}"
    cluster.create_namespace(namespace)
    monkeypatch.setenv("GRAF_WORKLOAD_KUBECONFIG", str(cluster.driver))
    monkeypatch.setenv("GRAF_WORKLOAD_KUBECTL", str(cluster.programs / "kubectl"))
    async with running(WorkloadDriver(), state_dir=tmp_path / "state") as client:
        yield Site(cluster, namespace, client)
    cluster.kubelet.holds_ends.discard(namespace)
    cluster.empty(namespace)

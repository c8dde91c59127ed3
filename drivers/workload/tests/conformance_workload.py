"""The driver, as a process, keeps the whole contract against a real cluster.

Minutes long, so not a part of the default run: `make conformance-workload`.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest
from graf_driver_sanity import Config, run
from graf_driver_sanity.config import Budget, Invalid, Side
from workload_cluster import Cluster
from workload_site import deployment


def side(cluster: Cluster, site: str, parameters: dict[str, Any]) -> Side:
    program = "from graf_driver_workload.main import main; raise SystemExit(main())"
    environment = {
        "GRAF_WORKLOAD_KUBECONFIG": str(cluster.driver),
        "GRAF_WORKLOAD_KUBECTL": str(cluster.programs / "kubectl"),
    }
    return Side(site, command=(sys.executable, "-c", program), environment=environment, parameters=parameters)


def config(cluster: Cluster, mode: str, parameters: dict[str, Any]) -> Config:
    sites = {}
    for name in ("east", "west"):
        namespace = f"{mode}-{name}"
        cluster.create_namespace(namespace)
        cluster.kubectl("-n", namespace, "apply", "--server-side", "-f", "-", stdin=deployment("app", 0))
        sites[name] = side(cluster, name, {"namespace": namespace, "mode": mode, **parameters})
    return Config(
        site=sites["east"],
        peer=sites["west"],
        name=f"workload, {mode}",
        invalid=(
            Invalid("namespace", remove=("namespace",)),
            Invalid("mode", change={"mode": "lukewarm"}),
            Invalid("minReadyPercent", change={"minReadyPercent": 0}),
        ),
        budget=Budget(transition_s=60),
    )


@pytest.mark.timeout(1800)
async def test_a_warm_workload_keeps_the_contract(cluster: Cluster) -> None:
    target = {"kind": "Deployment", "name": "app", "replicas": 1}
    report = await run(config(cluster, "warm", {"targets": [target]}))
    assert report.failures == []
    assert len(report.passed) >= 120
    # `epoch-...` of a second component: one workload has one component, and the driver refuses the other one.
    foreseen = ("the driver does not declare", "there is no hook", "the driver takes one component only")
    others = [skip for skip in report.skipped if not skip.reason.startswith(foreseen)]
    # A workload has no clients of its own to ask, no secrets and no peer to reach: nothing is configured for those.
    assert [skip for skip in others if "configure " not in skip.reason] == []

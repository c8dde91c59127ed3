"""The driver, as a process, keeps the whole contract against a real cluster, hot, warm and cold.

Minutes long, so not a part of the default run: `make workload-sanity`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from graf_driver_sanity import Config, Report, run
from graf_driver_sanity.config import Budget, Invalid, Side
from workload_cluster import Cluster
from workload_site import deployment

TARGETS = {"targets": [{"kind": "Deployment", "name": "app", "replicas": 1}]}
SETTINGS = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {site: none}\n"


def side(cluster: Cluster, site: str, parameters: dict[str, Any]) -> Side:
    program = "from graf_driver_workload.main import main; raise SystemExit(main())"
    environment = {
        "GRAF_WORKLOAD_KUBECONFIG": str(cluster.driver),
        "GRAF_WORKLOAD_KUBECTL": str(cluster.programs / "kubectl"),
    }
    return Side(site, command=(sys.executable, "-c", program), environment=environment, parameters=parameters)


def config(cluster: Cluster, name: str, parameters: dict[str, Any]) -> Config:
    sites = {}
    for site in ("east", "west"):
        namespace = f"{name}-{site}"
        cluster.create_namespace(namespace)
        if "targets" in parameters:
            cluster.kubectl("-n", namespace, "apply", "--server-side", "-f", "-", stdin=deployment("app", 0))
        sites[site] = side(cluster, site, {"namespace": namespace, **parameters})

    def shut_down(site: str, _: str) -> str:
        """Somebody scales the workload to nothing, behind the driver's back."""
        return cluster.kubectl("-n", f"{name}-{site}", "scale", "deployment/app", "--replicas=0")

    return Config(
        site=sites["east"],
        peer=sites["west"],
        unreachable_peer={"namespace": "nowhere", **parameters},
        name=f"workload-{name}",
        invalid=(
            Invalid("namespace", remove=("namespace",)),
            Invalid("mode", change={"mode": "lukewarm"}),
            Invalid("minReadyPercent", change={"minReadyPercent": 0}),
        ),
        hooks={"break": shut_down},
        budget=Budget(transition_s=60),
    )


def told(report: Report) -> None:
    """Writes the report, with the seconds of each check, where GRAF_SANITY_OUT says."""
    out = Path(os.environ.get("GRAF_SANITY_OUT", "out/sanity"))
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{report.driver}.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("hot", {"mode": "hot", "markerConfigMap": "role", **TARGETS}),
        ("warm", {"mode": "warm", **TARGETS}),
        (
            "cold",
            {
                "mode": "cold",
                "manifests": f"{SETTINGS}---\n{deployment('app', 1)}",
                "overrides": [
                    {"patch": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {site: ours}\n"}
                ],
            },
        ),
    ],
)
async def test_a_workload_of_each_mode_keeps_the_contract(
    cluster: Cluster, name: str, parameters: dict[str, Any]
) -> None:
    report = await run(config(cluster, name, parameters))
    told(report)
    assert report.failures == []
    assert len(report.passed) >= 120
    # `epoch-...` of a second component: one workload has one component, and the driver refuses the other one.
    foreseen = ("the driver does not declare", "there is no hook", "the driver takes one component only")
    others = [skip for skip in report.skipped if not skip.reason.startswith(foreseen)]
    # A workload has no clients of its own to ask and no secrets: nothing is configured for those.
    assert [skip for skip in others if "configure " not in skip.reason] == []

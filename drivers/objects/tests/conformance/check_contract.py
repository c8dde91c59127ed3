"""The driver as a process of its own, at two sites with real API servers, keeps the whole contract.

The clients write into one ConfigMap, a key for each value, by merge patches as a person or an operator would.
Minutes long, so no part of the default suite: `make objects-sanity`.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from graf_driver_objects.testing import NAMES, Pair, Site, free_ports
from graf_driver_sanity import Config, Report, run
from graf_driver_sanity.config import Invalid, Side

SECRET = "imsi-key-of-this-test"
AWAY_S = 10.0

# The driver keeps objects the same; who may write them is RBAC's and the operator's, see the reference page. So what a
# client meets who writes at a site that is not active is not the driver's to say.
NO_GATE = "the driver stops no writer: objects of a site that is not active are written by whoever may"
SKIP = dict.fromkeys(
    (
        "role-standby-refuses-write",
        "role-fenced-refuses-write",
        "role-invalidated-refuses-write",
        "role-quiesced-refuses-write",
        "position-no-write-after-quiesce",
    ),
    NO_GATE,
)
RIGHTLY_SKIPPED = (
    f"configuration: {NO_GATE}",
    "the driver does not declare GATE",
    "the driver does not declare SYNCHRONOUS",
    "the driver declares POSITION",  # the check is of drivers without it
    "the driver declares RESYNC",
)


def hooks(sites: dict[str, Site], namespace: str) -> dict[str, Callable[[str, str], str | None]]:
    """Clients of the objects: they know the API server and nothing of the driver."""

    def write(site: str, value: str) -> None:
        patch = json.dumps({"data": {value: "written"}})
        sites[site].kubectl("patch", "configmap", "values", "-n", namespace, "--type=merge", "-p", patch)

    def read(site: str, _: str) -> str:
        return " ".join(sites[site].data("values", namespace) or {})

    def wipe(site: str, _: str) -> None:
        """Everything chosen is gone."""
        sites[site].kubectl("delete", "configmap,secret", "-l", "app=upf", "-n", namespace)

    def lose(site: str, _: str) -> None:
        sites[site].away(AWAY_S)

    def archived(_: str, archive: str) -> str:
        files = [path for folder in archive.split(", ") for path in Path(folder).glob("*.yaml")]
        return " ".join(value for path in files for value in re.findall(r"sanity-\d+-\d+-\d+", path.read_text()))

    return {"write": write, "read": read, "wipe": wipe, "break": lose, "archived": archived}


def told(report: Report) -> None:
    """Writes the report, with the seconds of each check, where GRAF_SANITY_OUT says."""
    out = Path(os.environ.get("GRAF_SANITY_OUT", "out/sanity"))
    out.mkdir(parents=True, exist_ok=True)
    (out / "objects.json").write_text(json.dumps(report.as_json(), indent=2) + "\n")


@pytest.mark.timeout(1200)
async def test_the_driver_keeps_the_contract(
    sites: dict[str, Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(sites, tmp_path, monkeypatch.setenv)
    encoded = base64.b64encode(SECRET.encode()).decode()
    metadata = {"name": "sim", "namespace": pair.namespace, "labels": {"app": "upf"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"key": encoded}}
    # What the clients write into is at both sites from the start; the rest one gets from the other.
    sites["east"].put(pair.config("n3", mtu="1450"), pair.config("values", first="written"), secret)
    sites["west"].put(pair.config("values", first="written"))
    command = (sys.executable, "-m", "graf_driver_objects.main")
    east, west = (Side(name, command=command, parameters=pair.parameters[name]) for name in NAMES)
    unreachable = {**pair.parameters["west"], "endpoint": f"127.0.0.1:{free_ports(1)[0]}"}
    invalid = (
        Invalid("endpoint", change={"endpoint": "nowhere"}),
        Invalid("objects", change={"objects": []}),
        Invalid("colour", change={"colour": "red"}),
        Invalid("conflicts", change={"conflicts": "ignore"}),
        Invalid("tlsDirectory", change={"tlsDirectory": "relative"}),
    )
    others = {**pair.parameters["east"]["objects"][0], "labelSelector": "app=other"}
    second = {**pair.parameters["east"], "objects": [others], "endpoint": f"127.0.0.1:{free_ports(1)[0]}"}
    report = await run(
        Config(
            site=east,
            peer=west,
            name="objects",
            unreachable_peer=unreachable,
            second=second,
            invalid=invalid,
            secrets=(SECRET, encoded),
            hooks=hooks(sites, pair.namespace),
            skip=SKIP,
        )
    )
    told(report)
    assert [(failure.id, failure.seen) for failure in report.failures] == []
    assert len(report.passed) >= 210
    reasons = {skip.reason for skip in report.skipped}
    assert [reason for reason in reasons if not reason.startswith(RIGHTLY_SKIPPED)] == []

"""What a controller makes of an assignment: which data a write waits for, and whether the set decides."""

from __future__ import annotations

import pytest

from graf.controller.groups import assignment_of
from graf.crd.assignment import GroupAssignmentSpec
from graf.crd.driverclass import DriverClass

DATABASE, FILES, FUNCTION = ("db", "mysql", "data"), ("files", "pv", "data"), ("amf", "workload", "workload")
STUBBORN = ("log", "synchronous", "data")  # no driver can be asked how far its copy is, or to bring it back
CAPABILITIES = {
    "mysql": ["POSITION", "RESYNC", "SYNCHRONOUS"],
    "pv": ["POSITION", "RESYNC"],
    "workload": [],
    "synchronous": ["SYNCHRONOUS"],
}
CLASSES = {
    name: DriverClass.model_validate(
        {
            "apiVersion": "graf.dev/v1alpha1",
            "kind": "DriverClass",
            "metadata": {"name": name, "namespace": "graf-system"},
            "spec": {
                "driver": f"{name}.graf.dev",
                "endpoint": {"kind": "UnixSocket"},
                "requiredCapabilities": capabilities,
                "template": {"image": "driver", "command": ["driver"]},
            },
        }
    )
    for name, capabilities in CAPABILITIES.items()
}


@pytest.mark.parametrize(
    ("rpo", "declared", "expected"),
    [
        ("lossless", (DATABASE, FUNCTION), {"lossless": True, "waits": True, "synchronous": ["db"], "copied": []}),
        ("lossless", (DATABASE, FILES), {"lossless": True, "waits": True, "synchronous": ["db"], "copied": ["files"]}),
        # Nothing can prove to have every write of a copy: the set stays with the holder, nothing fails over by itself.
        ("lossless", (FILES,), {"lossless": True, "waits": True, "synchronous": [], "copied": ["files"]}),
        ("async", (FILES,), {"lossless": True, "waits": False, "synchronous": [], "copied": ["files"]}),
        ("async", (STUBBORN,), {"lossless": True, "waits": True, "synchronous": ["log"], "copied": []}),
        ("async", (DATABASE, FILES), {"lossless": True, "waits": False, "synchronous": [], "copied": ["db", "files"]}),
        ("lossless", (FUNCTION,), {"lossless": False, "waits": False, "synchronous": [], "copied": []}),
        ("async", (FUNCTION,), {"lossless": False, "waits": False, "synchronous": [], "copied": []}),
    ],
)
def test_the_rpo_and_the_drivers_decide_what_a_write_waits_for(
    rpo: str, declared: tuple[tuple[str, str, str], ...], expected: dict[str, object]
) -> None:
    spec = GroupAssignmentSpec.model_validate(
        {
            "group": "vnf",
            "site": "east",
            "role": "Active",
            "initialSite": "east",
            "voters": {
                "version": 1,
                "members": [
                    {"name": name, "kind": "Witness" if name == "witness" else "Site", "endpoint": "127.0.0.1:1"}
                    for name in ("east", "west", "witness")
                ],
            },
            "timing": {"heartbeatMs": 100, "ttlMs": 700},
            "lossless": rpo == "lossless",
            "components": [{"name": n, "driverClass": c, "stage": s} for n, c, s in declared],
        }
    )
    config = assignment_of(spec, CLASSES).config
    assert {
        "lossless": config.lossless,
        "waits": config.waits,
        "synchronous": [c.name for c in config.components if c.synchronous],
        "copied": [c.name for c in config.components if c.copied],
    } == expected

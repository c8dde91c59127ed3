"""The driver as a process of its own, at two sites with real API servers, keeps the whole contract."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from graf_driver_objects.testing import NAMES, Pair, Site, free_ports
from graf_driver_sanity import Config, run
from graf_driver_sanity.config import Invalid, Side


@pytest.mark.timeout(600)
async def test_the_driver_keeps_the_contract(
    sites: dict[str, Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(sites, tmp_path, monkeypatch.setenv)
    for name in NAMES:
        sites[name].put(pair.config("n3", mtu="1450"))
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
    report = await run(Config(site=east, peer=west, name="objects", unreachable_peer=unreachable, invalid=invalid))
    assert [(failure.id, failure.seen) for failure in report.failures] == []
    assert len(report.passed) >= 60

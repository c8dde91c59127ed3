"""The untouched fake, as a process, keeps the whole contract."""

from __future__ import annotations

from pathlib import Path

import pytest
from graf_driver_sanity import load, run


@pytest.mark.timeout(600)
async def test_the_fake_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for site in ("east", "west"):
        (tmp_path / site).mkdir()
    monkeypatch.setenv("FAKE_DATA", str(tmp_path))
    report = await run(load(Path(__file__).with_name("sanity.yaml")))
    assert report.failures == []
    assert report.checks >= 120
    expected = {"the driver declares GATE", "the driver declares POSITION", "the driver declares RESYNC"}
    reasons = {skip.reason for skip in report.skipped} - expected
    assert reasons == {"there is no hook: configure hooks.break"}

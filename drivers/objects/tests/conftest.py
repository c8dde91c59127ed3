"""Two real API servers for the run, an own namespace for each test, and a driver at each of the two sites."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from graf_driver_objects.testing import NAMES, Pair, Site, site


@pytest.fixture(scope="session")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    from graf.lab.binaries import located

    programs, work = located(), tmp_path_factory.mktemp("sites")
    with site("east", programs, work / "east") as east, site("west", programs, work / "west") as west:
        yield {"east": east, "west": west}


@pytest.fixture
async def pair(sites: dict[str, Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    both = Pair(sites, tmp_path, monkeypatch.setenv)
    try:
        for name in NAMES:
            await both.start(name)
        yield both
    finally:
        await both.close()

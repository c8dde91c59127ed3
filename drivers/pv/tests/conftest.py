"""Two sites on loopback, each with its driver as a process of its own, mutual TLS between them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from graf_driver_pv.testing import SiteUnderTest, two_sites

Pair = tuple[SiteUnderTest, SiteUnderTest]


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[Pair]:
    async with two_sites(tmp_path) as pair:
        yield pair

"""Two sites on loopback: the driver as a process at each, with mutual TLS; or mode volsync at a real API server."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from graf_driver_pv import volsync
from graf_driver_pv.testing import SiteUnderTest, two_sites
from graf_driver_pv.testing_volsync import Api, api_server
from graf_driver_pv.testing_volsync_controller import StandIn
from graf_driver_pv.testing_volsync_site import Site

from graf.lab.binaries import located

Pair = tuple[SiteUnderTest, SiteUnderTest]


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[Pair]:
    async with two_sites(tmp_path) as pair:
        yield pair


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with api_server(tmp_path_factory.mktemp("api"), located()) as found:
        yield found


@pytest.fixture(scope="package")
def installed(server: Api) -> Api:
    server.install()
    return server


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is no API server that does not answer."""
    monkeypatch.setattr(volsync, "_WRITE_S", 30.0)
    monkeypatch.setattr(volsync, "_LOOK_S", 30.0)


@pytest.fixture
def pair(installed: Api, tmp_path: Path, patient: None) -> tuple[Site, Site]:
    east, west = Site(installed, tmp_path), Site(installed, tmp_path)
    east.world = west.world = StandIn(installed, east.name, west.name)
    return east, west

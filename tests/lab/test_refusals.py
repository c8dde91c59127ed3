from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graf.lab import checks, deploy, gitserver, images, process
from graf.lab.commands import app
from graf.lab.errors import LabError
from graf.lab.lab import Lab
from graf.lab.topology import MANAGEMENT, SITES, Topology
from graf.lab.users import bird_config


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAF_LAB_DIR", str(tmp_path / "labs"))
    monkeypatch.setenv("GRAF_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def test_without_root_the_lab_says_so_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for command in (["up"], ["down"], ["status"]):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert "needs root" in result.output
        assert "sudo" in result.output
        assert "Traceback" not in result.output


def test_missing_programs_are_named_with_the_command_that_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name, path=None: None if name == "bird" else f"/usr/bin/{name}")
    with pytest.raises(LabError) as refusal:
        checks.machine()
    assert "bird" in refusal.value.what
    assert "apt-get install bird2" in refusal.value.remedy


def test_a_lab_that_is_not_up_is_said_with_the_command_that_brings_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(LabError) as refusal:
        Lab.load("gone")
    assert refusal.value.remedy == "graf lab up --name gone"


def test_a_path_that_no_location_owns_is_refused(tmp_path: Path) -> None:
    topology = Topology("lab", 0)
    own = process.disk_path(topology, "east", "/var/lib/graf/mysql")
    assert own == tmp_path / "labs/lab/east/disk/var/lib/graf/mysql"
    with pytest.raises(LabError, match="own disk"):
        process.disk_path(topology, "east", "/var/lib/grafana")


def test_every_disk_of_a_location_is_put_over_the_path_of_a_production_node() -> None:
    script = process.holder_script(Topology("lab", 0), "east")
    for path in process.DISKS:
        assert f"mount --bind {process.disk_path(Topology('lab', 0), 'east', path)} {path}" in script
    assert script.index("make-rprivate") < script.index("mount --bind")


def test_a_lab_with_another_index_gets_the_example_with_its_own_addresses() -> None:
    text = gitserver.localise("endpoint: 198.18.0.20:7443 service 198.19.255.1", Topology("two", 4))
    assert text == "endpoint: 198.18.4.20:7443 service 198.19.255.1"


def test_the_edge_router_compares_the_sites_as_one_neighbour_system() -> None:
    text = bird_config(Topology("lab", 0))
    assert text.count("as 65010;") == len(SITES)
    assert "error wait time 1, 5;" in text


def test_controllers_dial_the_manager_of_their_own_lab() -> None:
    topology = Topology("two", 4)
    assert deploy.controller_config(topology, "east")["manager"] == {"endpoint": "198.18.4.10:30745"}
    assert deploy.manager_config(topology)["git"]["url"] == "git://198.18.4.10/gitops.git"


def test_the_managers_certificate_never_reaches_a_site(tmp_path: Path) -> None:
    topology = Topology("lab", 0)
    topology.pki_dir.mkdir(parents=True)
    for name in ("ca", "east", "west", "witness", "manager", "operator"):
        (topology.pki_dir / f"{name}.crt").write_text(f"certificate of {name}")
        (topology.pki_dir / f"{name}.key").write_text(f"key of {name}")
    for location, others in ((MANAGEMENT, ("east", "west", "operator")), ("east", ("west", "manager", "witness"))):
        overlay = deploy.render(topology, location, [])
        everything = "".join(p.read_text() for p in overlay.rglob("*") if p.is_file())
        for other in others:
            assert f"key of {other}" not in everything


def test_an_image_tag_follows_the_content_and_not_the_time(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one")
    before = images.digest_of([tmp_path])
    os.utime(tmp_path / "a.py", (1, 1))
    assert images.digest_of([tmp_path]) == before
    (tmp_path / "a.py").write_text("two")
    assert images.digest_of([tmp_path]) != before


def test_without_an_image_builder_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LabError) as refusal:
        images.engine()
    assert "apt-get install buildah" in refusal.value.remedy

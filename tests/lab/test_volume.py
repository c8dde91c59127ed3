"""A lab with a volume: what it adds to the example is what its driver takes, and losing it is all at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from graf_driver_pv.parameters import parse

from graf.crd.group import RedundancyGroup
from graf.lab import deploy, gitserver, images, made_with, pki, volume
from graf.lab.errors import LabError
from graf.lab.made_with import Extra
from graf.lab.topology import SITES, Topology


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topology:
    monkeypatch.setenv("GRAF_LAB_DIR", str(tmp_path))
    made = Topology("vol", 2)
    made.state_dir.mkdir(parents=True)
    return made


def test_the_groups_component_is_what_the_driver_and_its_class_take(topology: Topology, tmp_path: Path) -> None:
    shutil.copytree(gitserver.EXAMPLE, tmp_path / "tree")
    volume.add_to_example(tmp_path / "tree", topology)
    group = RedundancyGroup.model_validate(yaml.safe_load((tmp_path / "tree" / "groups" / "vcu-db.yaml").read_text()))
    (files,) = [c for c in group.spec.components if c.name == volume.COMPONENT]
    assert [c.name for c in group.spec.components if c.stage == "data"] == ["db", "files"]
    known = yaml.safe_load((gitserver.EXAMPLE / "driverclasses" / "pv.yaml").read_text())["spec"]["parametersSchema"]
    for site in SITES:
        parameters = {**files.parameters, **files.site_parameters[site]}
        taken, problems = parse(parameters)
        assert taken is not None, problems
        assert taken.rpo_s == volume.RPO_SECONDS
        assert set(parameters) <= set(known["properties"])
        assert taken.host == topology.location(site).address


def test_only_a_lab_that_was_made_with_a_volume_has_one(topology: Topology) -> None:
    assert not made_with.has(topology, Extra.VOLUME)
    assert images.PV not in images.SPECS
    made_with.remember(topology, Extra.VOLUME)
    assert made_with.has(topology, Extra.VOLUME)
    made_with.require(topology, Extra.VOLUME)
    assert not made_with.has(topology, Extra.SCOPE), "one says nothing of the other"
    with pytest.raises(LabError, match="was made without --scope") as refused:
        made_with.require(topology, Extra.SCOPE)
    assert "graf lab up --name scope --scope" in str(refused.value)


def test_each_site_gets_its_own_certificate_of_the_labs_authority_once(topology: Topology) -> None:
    made_with.remember(topology, Extra.VOLUME)
    deploy.ensure_identities(topology)
    authority = x509.load_pem_x509_certificate((topology.pki_dir / "ca.crt").read_bytes())
    before = {}
    for site in SITES:
        files = volume.secret_files(topology, site)
        assert all(path.is_file() for path in files.values())
        before[site] = files["tls.crt"].read_bytes()
        certificate = x509.load_pem_x509_certificate(before[site])
        certificate.verify_directly_issued_by(authority)
        names = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
        assert isinstance(names, x509.SubjectAlternativeName)
        assert names.get_values_for_type(x509.DNSName) == [volume.dns_name(site)]
    deploy.ensure_identities(topology)
    assert before == {site: volume.secret_files(topology, site)["tls.crt"].read_bytes() for site in SITES}
    assert set(pki.IDENTITIES).isdisjoint({volume.identity(site) for site in SITES})


def test_a_lost_volume_is_empty_at_once_and_forgotten_later(topology: Topology) -> None:
    folder = volume.folder(topology, "east")
    (folder / "live" / "tree").mkdir(parents=True)
    (folder / "record.json").write_text("{}")
    with (folder / "live" / "tree" / "file").open("w") as opened:
        volume.lose(topology, "east")
        opened.write("nobody finds this")
    assert list(folder.iterdir()) == []
    volume.forget_lost(topology, "east")
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_site_without_a_volume_says_how_to_get_one(topology: Topology) -> None:
    with pytest.raises(LabError) as caught:
        volume.lose(topology, "east")
    assert "graf lab up --volume" in str(caught.value)

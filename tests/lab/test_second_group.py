"""A lab that is made with a second group: what it puts into Git must be what the manager and the drivers take."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from graf_driver_mysql.parameters import parse

from graf.crd.driver_rules import claim_problems
from graf.crd.driverclass import DriverClass
from graf.crd.gitops import load
from graf.crd.group import RedundancyGroup
from graf.crd.site import Site
from graf.lab import second_group
from graf.lab.gitserver import EXAMPLE
from graf.lab.topology import SITES


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLE, tmp_path / "tree")
    second_group.add_to_example(tmp_path / "tree")
    return tmp_path / "tree"


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def groups(tree: Path) -> list[RedundancyGroup]:
    return [RedundancyGroup.model_validate(read(tree / "groups" / f"{name}.yaml")) for name in ("vcu-db", "ims-db")]


def test_the_repository_with_two_groups_is_taken_as_a_whole(tree: Path) -> None:
    files = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert list(load(files).problems) == []


def test_the_groups_are_at_home_at_different_sites_and_share_nothing_of_a_server(tree: Path, tmp_path: Path) -> None:
    for name in ("replication-password", "application-password"):
        (tmp_path / name).write_text("secret")
    first, second = groups(tree)
    assert (first.spec.preferred_site, second.spec.preferred_site) == ("east", "west")
    for site in SITES:
        taken = []
        for group in (first, second):
            database = group.spec.components[0]
            raw = {**database.parameters, **database.site_parameters[site], "credentialsDir": str(tmp_path)}
            taken.append(parse(raw))
        one, other = taken
        for name in ("port", "copy_port", "data_dir", "socket_dir", "server_id", "gtid_domain_id"):
            assert getattr(one, name) != getattr(other, name), name
    routes = [group.spec.components[1].parameters for group in (first, second)]
    assert routes[0]["serviceAddress"] != routes[1]["serviceAddress"]
    assert [route["ports"] for route in routes] == [[3306], [second_group.PORT]]


def test_the_two_classes_of_one_driver_do_not_claim_the_same_place(tree: Path) -> None:
    read_classes = [
        DriverClass.model_validate(read(path)) for path in sorted((tree / "driverclasses").glob("mysql*.yaml"))
    ]
    classes = {item.name: item for item in read_classes}
    assert set(classes) == {"mysql", "mysql-ims"}
    sites = {name: Site.model_validate(read(tree / "sites" / f"{name}.yaml")) for name in SITES}
    assert claim_problems(classes, sites) == {}
    disks = [
        {volume["hostPath"]["path"] for volume in item.spec.template["spec"]["volumes"] if "hostPath" in volume}
        for item in read_classes
    ]
    assert not disks[0] & disks[1]
    second = classes["mysql-ims"]
    same = second.model_copy(update={"spec": second.spec.model_copy(update={"instance": ""})})
    assert set(claim_problems({**classes, "mysql-ims": same}, sites)) == {"mysql-ims"}, (
        "the instance is what tells them apart"
    )

"""Models, generated CRDs, compiled assignments and commit trailers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from graf.api.recorded import Recorded
from graf.crd import gitops
from graf.crd.compile import compile_group, driver_classes_for
from graf.crd.generate import main, stale_files
from graf.crd.group import RedundancyGroup
from graf.crd.kinds import ALL_KINDS
from graf.crd.policy import Detection, RedundancyPolicy
from graf.crd.schema import NotStructuralError, check_structural, crd
from graf.crd.trailers import DecisionTrailers, build_message, parse_message

ROOT = Path(__file__).resolve().parents[2]


def rules(kind: str) -> str:
    model = next(item for item in ALL_KINDS if item.kind_name == kind)
    return yaml.safe_dump(crd(model))


def test_generated_files_are_fresh() -> None:
    assert stale_files(ROOT) == []


def test_the_check_says_which_file_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "crds" / "sites.yaml").write_text("old")
    (tmp_path / "crds" / "orphans.yaml").write_text("no model")
    assert main(["--check", str(tmp_path)]) == 1
    assert "crds/sites.yaml" in (text := capsys.readouterr().err)
    assert "crds/orphans.yaml" in text


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: str(kind.kind_name))
def test_every_field_of_a_kind_is_described_and_every_optional_one_of_a_spec_defaulted(kind: Any) -> None:
    schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def walk(node: dict[str, Any], path: str) -> list[str]:
        missing: list[str] = []
        for name, child in node.get("properties", {}).items():
            if not child.get("description"):
                missing.append(f"{path}.{name}")
            missing += walk(child.get("items", child), f"{path}.{name}")
        return missing

    assert walk(schema["properties"]["spec"], "spec") == []
    assert walk(schema["properties"]["status"], "status") == []


def test_rules_of_the_design_are_given_to_the_api_server() -> None:
    assert "* 4 <=" in rules("RedundancyPolicy")
    assert "self.voters.version >= oldSelf.voters.version" in rules("RedundancyGroup")
    assert "another list of voters needs a higher version" in rules("RedundancyGroup")
    assert "exactly one site must be preferred" in rules("RedundancyGroup")
    assert "% 2 == 1" in rules("RedundancyGroup")
    assert "self == oldSelf" in rules("RedundancyOperation")


def test_a_group_is_printed_with_the_columns_of_the_design() -> None:
    version = crd(RedundancyGroup)["spec"]["versions"][0]
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    assert columns == ["ACTIVE", "EPOCH", "READY", "LAG", "RTO", "AGE"]
    assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"anyOf": []}}},
        {"type": "object", "properties": {"a": {}}},
        {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}},
        {"type": "array"},
        {"type": "object", "properties": {"a": {"$ref": "#/x"}}},
    ],
)
def test_what_is_not_structural_is_found(schema: dict[str, Any]) -> None:
    with pytest.raises(NotStructuralError):
        check_structural(schema, "test")


@pytest.mark.parametrize(
    ("profile", "expected"), [("metro", (100, 700)), ("regional", (300, 2000)), ("wan", (1000, 6000))]
)
def test_profiles_have_the_timing_of_the_design(profile: Any, expected: tuple[int, int]) -> None:
    timing = Detection(profile=profile).timing
    assert (timing.heartbeat_ms, timing.ttl_ms) == expected


def test_an_override_of_a_profile_counts_alone() -> None:
    timing = Detection(profile="metro", ttl_ms=1200).timing
    assert (timing.heartbeat_ms, timing.ttl_ms) == (100, 1200)


def load(tree: dict[str, bytes]) -> tuple[RedundancyGroup, RedundancyPolicy, gitops.Repository]:
    repository = gitops.load(tree)
    group = repository.resources()["RedundancyGroup", "vcu-db"]
    policy = repository.resources()["RedundancyPolicy", "lossless-automatic"]
    assert isinstance(group, RedundancyGroup)
    assert isinstance(policy, RedundancyPolicy)
    return group, policy, repository


def test_an_assignment_holds_all_that_a_site_needs(tree: dict[str, bytes]) -> None:
    group, policy, _ = load(tree)
    spec = compile_group(group, policy, Recorded("west", 7, {"east": "Invalidated", "west": "Active"}), {}, {})[
        "east"
    ].spec
    assert (spec.role, spec.epoch, spec.active_site, spec.initial_site) == ("Invalidated", 7, "west", "east")
    assert (spec.administrative_role, spec.lossless, spec.failover_mode) == ("preferred", True, "Automatic")
    assert [member.name for member in spec.voters.members] == ["east", "west", "witness"]
    database, route = spec.components
    assert database.parameters["serverId"] == 20
    assert database.parameters["port"] == 3306
    assert database.peers[0].site == "west"
    assert database.peers[0].parameters["serverId"] == 30
    assert (route.stage, route.depends_on) == ("traffic", ["db"])


def test_only_the_recorded_active_site_is_assigned_active(tree: dict[str, bytes]) -> None:
    group, policy, _ = load(tree)
    compiled = compile_group(group, policy, Recorded("west", 2, {"east": "Active", "west": "Standby"}), {}, {})
    assert {site: item.spec.role for site, item in compiled.items()} == {"east": "Standby", "west": "Active"}


def test_a_site_gets_the_driver_classes_that_its_groups_use(tree: dict[str, bytes]) -> None:
    group, policy, repository = load(tree)
    from graf.crd.driverclass import DriverClass

    classes = gitops.of_kind(repository.resources(), DriverClass)
    compiled = compile_group(group, policy, Recorded("east", 1, {}), classes, {})
    assert [item.name for item in driver_classes_for([compiled["east"]], classes)] == ["mysql", "network"]
    assert driver_classes_for([], classes) == []


def test_trailers_of_a_decision_are_read_back() -> None:
    trailers = DecisionTrailers("vcu-db", 4, "Failover", "LeaseEnded: silent", "1-west-a")
    assert parse_message(build_message("Failover of vcu-db", "Some text.", trailers)) == trailers


def test_text_of_a_site_cannot_forge_a_trailer() -> None:
    trailers = DecisionTrailers("vcu-db", 4, "x\nGraf-Epoch: 99", "r\n\nGraf-Epoch: 98", "id")
    message = build_message("subject\nGraf-Epoch: 97", "Graf-Epoch: 96\n\nGraf-Group: other", trailers)
    parsed = parse_message(message)
    assert parsed is not None
    assert (parsed.group, parsed.epoch) == ("vcu-db", 4)


def test_a_commit_of_a_person_is_not_taken_for_a_decision() -> None:
    assert parse_message("Change the policy\n\nSigned-off-by: A Person <a@example.org>\n") is None

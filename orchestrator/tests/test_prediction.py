"""The predicted outage of a failover: lease, activation, and what users need until they follow."""

from __future__ import annotations

from typing import Any

import pytest
from graf_orchestrator.prediction import Prediction, predicted_rto

from graf.crd.group import RedundancyGroup
from graf.crd.policy import RedundancyPolicy

POLICY = RedundancyPolicy.model_validate(
    {
        "apiVersion": "graf.dev/v1alpha1",
        "kind": "RedundancyPolicy",
        "metadata": {"name": "p"},
        "spec": {"detection": {"profile": "metro", "driftPpm": 10000}},
    }
)
GROUP = RedundancyGroup.model_validate(
    {
        "apiVersion": "graf.dev/v1alpha1",
        "kind": "RedundancyGroup",
        "metadata": {"name": "vcu-db"},
        "spec": {
            "policyRef": {"name": "p"},
            "voters": {
                "members": [
                    {"name": "east", "kind": "Site", "endpoint": "east:7000"},
                    {"name": "west", "kind": "Site", "endpoint": "west:7000"},
                    {"name": "witness", "kind": "Witness", "endpoint": "witness:7000"},
                ]
            },
            "sites": [
                {"name": "east", "administrativeRole": "preferred"},
                {"name": "west", "administrativeRole": "spare"},
            ],
            "components": [
                {"name": "db", "driverClass": "mysql", "stage": "data"},
                {"name": "volume", "driverClass": "pv", "stage": "data"},
                {"name": "app", "driverClass": "workload", "stage": "workload"},
                {"name": "route", "driverClass": "network", "stage": "traffic"},
                {"name": "name", "driverClass": "network", "stage": "traffic"},
            ],
        },
    }
)
LEASE = 707
MEASURED = [
    {
        "type": "Failover",
        "epoch": 3,
        "phasesMs": {"detect": 700.0, "campaign": 5.0, "activate": 400.0, "traffic": 20.0},
    },
    {"type": "Switchover", "epoch": 4, "phasesMs": {"activate": 9000.0}},
]


def site(site_name: str, /, **told: tuple[int, int]) -> dict[str, Any]:
    """A standby whose components tell (activation, reach)."""
    components = [
        {"name": who, "predictedActivationMs": activation, "predictedReachMs": reach}
        for who, (activation, reach) in told.items()
    ]
    return {"name": site_name, "components": components}


def predicted(*standbys: dict[str, Any], history: Any = ()) -> Prediction:
    return predicted_rto(GROUP, POLICY, history, standbys)


def test_without_a_word_of_a_driver_it_is_the_lease_and_the_last_failover() -> None:
    assert predicted() == Prediction(LEASE + 300, "lease 707 ms + 300 ms, not measured yet")
    assert predicted(site("west"), history=MEASURED).ms == LEASE + 5 + 400 + 20


def test_what_users_need_until_they_follow_is_added_once_for_the_slowest_way() -> None:
    found = predicted(site("west", route=(0, 30), name=(0, 5000)))
    assert found.ms == LEASE + 300 + 5000
    assert found.basis.endswith("+ 5000 ms until users follow, by name at west")


def test_a_standby_with_much_to_apply_takes_longer_than_the_last_failover_did() -> None:
    found = predicted(site("west", db=(12_000, 0)), history=MEASURED)
    assert found.ms == LEASE + 5 + 12_000 + 20
    assert "12000 ms are predicted by db at west" in found.basis


def test_a_prediction_below_what_was_measured_shortens_nothing() -> None:
    assert predicted(site("west", db=(50, 0)), history=MEASURED) == predicted(site("west"), history=MEASURED)


def test_a_stage_is_as_slow_as_its_slowest_component_and_the_stages_come_in_turn() -> None:
    assert predicted(site("west", db=(4000, 0), volume=(3000, 0), app=(2000, 0))).ms == LEASE + 6000


@pytest.mark.parametrize("told", [(-1, 0), (0, -1)])
def test_a_driver_that_cannot_tell_its_part_makes_it_a_lower_bound(told: tuple[int, int]) -> None:
    found = predicted(site("west", db=told, name=(0, 5000)))
    assert (found.ms, found.at_least, found.text) == (LEASE + 5300, True, f">{LEASE + 5300} ms")
    assert "db at west cannot tell its part now" in found.basis
    assert predicted(site("west", name=(0, 5000))).text == f"~{LEASE + 5300} ms"


def test_of_several_sites_that_could_take_over_the_worst_is_told() -> None:
    assert predicted(site("west", name=(0, 1000)), site("north", name=(0, 60_000))).ms == LEASE + 60_300
    assert predicted(site("west", db=(-1, 0)), site("north", name=(0, 60_000))).at_least

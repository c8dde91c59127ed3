"""From a GroupAssignment, as the manager sends it, to what the core and the drivers need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graf.api.timing import MILLISECOND_NS, Timing
from graf.api.values import Stage, VoterList
from graf.controller.components import limit_s
from graf.core.view import ComponentConfig, GroupConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from graf.crd.assignment import AssignedComponent, GroupAssignmentSpec
    from graf.crd.driverclass import DriverClass


@dataclass(frozen=True, slots=True)
class ComponentWiring:
    """How to reach and parametrise one component; not part of any decision."""

    name: str
    driver_class: str
    parameters: Mapping[str, Any]
    peers: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One group at this site."""

    config: GroupConfig
    endpoints: Mapping[str, str]
    wiring: Mapping[str, ComponentWiring]


def assignment_of(spec: GroupAssignmentSpec, classes: Mapping[str, DriverClass]) -> Assignment:
    """Translates one assignment.

    Raises:
        ValueError: a DriverClass is missing, or the timing breaks `heartbeat * 4 <= ttl`.
    """
    components = []
    for component in spec.components:
        driver_class = classes.get(component.driver_class)
        if driver_class is None:
            raise ValueError(
                f"component {component.name} of group {spec.group} wants DriverClass {component.driver_class}, "
                f"which this site has not been given; commit it under driverclasses/"
            )
        capabilities = driver_class.spec.required_capabilities
        can_be_copied = component.stage == "data" and {"POSITION", "RESYNC"} <= set(capabilities)
        # Where the policy lets writes be lost, nothing waits for a standby, whatever the driver could do.
        synchronous = "SYNCHRONOUS" in capabilities and (spec.lossless or not can_be_copied)
        components.append(
            ComponentConfig(
                name=component.name,
                stage=Stage(component.stage),
                depends_on=tuple(component.depends_on),
                synchronous=synchronous,
                gate="GATE" in capabilities,
                copied=can_be_copied and not synchronous,
                limited=limit_s(component.parameters) is not None,
            )
        )
    members = spec.voters.members
    holds_data = any(component.holds_data for component in components)
    config = GroupConfig(
        group=spec.group,
        site=spec.site,
        sites=tuple(member.name for member in members if member.kind == "Site"),
        voters=VoterList(spec.voters.version, spec.voters.names, frozenset(spec.voters.readmit)),
        timing=Timing(
            spec.timing.heartbeat_ms * MILLISECOND_NS, spec.timing.ttl_ms * MILLISECOND_NS, spec.timing.drift_ppm
        ),
        lossless=holds_data,
        waits=holds_data and (spec.lossless or any(component.synchronous for component in components)),
        automatic=spec.failover_mode == "Automatic",
        initial_site=spec.initial_site,
        components=tuple(components),
    )
    return Assignment(
        config=config,
        endpoints={member.name: member.endpoint for member in members if member.name != spec.site},
        wiring={component.name: _wiring(component) for component in spec.components},
    )


def _wiring(component: AssignedComponent) -> ComponentWiring:
    return ComponentWiring(
        name=component.name,
        driver_class=component.driver_class,
        parameters=component.parameters,
        peers={peer.site: peer.parameters for peer in component.peers},
    )

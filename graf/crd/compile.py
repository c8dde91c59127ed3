"""From a group, its policy and what was decided last to one GroupAssignment for each site. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.api.recorded import role_of
from graf.api.timing import REST_S
from graf.crd.assignment import (
    AssignedComponent,
    ComponentPeer,
    GroupAssignment,
    GroupAssignmentSpec,
    Timing,
)
from graf.crd.base import NAMESPACE, ObjectMeta, Problem
from graf.crd.driver_rules import class_at
from graf.crd.parameters import parameter_problems

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from graf.api.recorded import Recorded
    from graf.crd.driverclass import DriverClass
    from graf.crd.group import GroupComponent, RedundancyGroup
    from graf.crd.policy import RedundancyPolicy
    from graf.crd.site import Site


def assignment_spec(
    group: RedundancyGroup,
    policy: RedundancyPolicy,
    recorded: Recorded,
    site: str,
    driver_classes: Mapping[str, DriverClass],
    sites: Mapping[str, Site],
) -> GroupAssignmentSpec:
    """The group as `site` has to see it. The group and its policy are valid (see `reference_problems`)."""
    spec = group.spec
    timing = policy.spec.detection.timing
    return GroupAssignmentSpec(
        group=group.name,
        site=site,
        role=role_of(site, recorded),
        epoch=recorded.epoch,
        active_site=recorded.active_site,
        initial_site=spec.preferred_site,
        administrative_role=next(item.administrative_role for item in spec.sites if item.name == site),
        voters=spec.voters,
        timing=Timing(
            heartbeat_ms=timing.heartbeat_ms, ttl_ms=timing.ttl_ms, drift_ppm=policy.spec.detection.drift_ppm
        ),
        lossless=policy.spec.failover.rpo == "lossless",
        failover_mode=policy.spec.failover.mode,
        components=[
            AssignedComponent(
                name=component.name,
                driver_class=_class_name(component.driver_class, driver_classes, sites.get(site)),
                stage=component.stage,
                depends_on=list(component.depends_on),
                parameters=component.at(site),
                peers=[
                    ComponentPeer(site=other, parameters=component.at(other))
                    for other in spec.site_names
                    if other != site
                ],
            )
            for component in spec.components
        ],
    )


def _class_name(name: str, driver_classes: Mapping[str, DriverClass], site: Site | None) -> str:
    found = class_at(name, driver_classes, site)
    return name if found is None else found.name


def compile_group(
    group: RedundancyGroup,
    policy: RedundancyPolicy,
    recorded: Recorded,
    driver_classes: Mapping[str, DriverClass],
    sites: Mapping[str, Site],
) -> dict[str, GroupAssignment]:
    """Site -> its GroupAssignment, as it is streamed and as it is committed under `clusters/<site>/`.

    `driver_classes` and `sites` tell which class serves where (see `class_at`); pass the usable ones.
    """
    return {
        site: GroupAssignment(
            metadata=ObjectMeta(name=group.name, namespace=group.metadata.namespace or NAMESPACE),
            spec=assignment_spec(group, policy, recorded, site, driver_classes, sites),
        )
        for site in group.spec.site_names
    }


def driver_classes_for(
    assignments: Iterable[GroupAssignment], driver_classes: Mapping[str, DriverClass]
) -> list[DriverClass]:
    """Driver classes that a site needs for its assignments, each once, by name."""
    names = {component.driver_class for item in assignments for component in item.spec.components}
    return [driver_classes[name] for name in sorted(names) if name in driver_classes]


def reference_problems(
    group: RedundancyGroup,
    policies: Mapping[str, RedundancyPolicy],
    driver_classes: Mapping[str, DriverClass],
    sites: Mapping[str, Site],
) -> list[Problem]:
    """What a group says about other objects that does not hold; with one it is not compiled."""
    problems: list[Problem] = []
    policy = policies.get(group.spec.policy_ref.name)
    if policy is None:
        problems.append(
            Problem(
                "spec.policyRef.name",
                f"there is no RedundancyPolicy {group.spec.policy_ref.name}",
                _choose("add it under policies/ or name", policies),
            )
        )
    elif policy.spec.failover.mode == "Automatic" and len(group.spec.voters.members) < 3:
        problems.append(
            Problem(
                "spec.voters.members",
                f"{len(group.spec.voters.members)} voters cannot fail over by themselves: "
                "after a loss no majority is left",
                "declare a third voter (a witness), or use a policy with failover.mode: Manual",
            )
        )
    for index, site in enumerate(group.spec.sites):
        if site.name not in sites:
            problems.append(
                Problem(
                    f"spec.sites[{index}].name",
                    f"there is no Site {site.name}",
                    _choose("add it under sites/ or name", sites),
                )
            )
    for index, component in enumerate(group.spec.components):
        problems += _component_problems(group, index, component, driver_classes, sites)
    return problems


def _component_problems(
    group: RedundancyGroup,
    index: int,
    component: GroupComponent,
    driver_classes: Mapping[str, DriverClass],
    sites: Mapping[str, Site],
) -> list[Problem]:
    field_path = f"spec.components[{index}]"
    problems = _rest_problems(group, index, component)
    driver_class = driver_classes.get(component.driver_class)
    if driver_class is None:
        return [
            *problems,
            Problem(
                f"{field_path}.driverClass",
                f"there is no DriverClass {component.driver_class}",
                _choose("add it under driverclasses/ or name", driver_classes),
            ),
        ]
    for name in group.spec.site_names:
        here = class_at(component.driver_class, driver_classes, sites.get(name))
        if here is None:
            problems.append(
                Problem(
                    f"{field_path}.driverClass",
                    f"the siteSelector of DriverClass {driver_class.name} leaves out the site {name}, and no other "
                    f"class of {driver_class.spec.driver} selects it",
                    "label the Site, widen the selector, or add a DriverClass of the same driver for that site",
                )
            )
        problems += parameter_problems(
            (here or driver_class).spec.parameters_schema,
            component.at(name),
            f"{field_path}.siteParameters.{name}",
        )
    return problems


def _rest_problems(group: RedundancyGroup, index: int, component: GroupComponent) -> list[Problem]:
    """A planned move waits at one site for the component to rest, and at the other for its proof.

    Not a rule of the object: a manager before it has accepted such groups, and their records must stay readable.
    """
    sites = group.spec.site_names
    waits = {site: component.at(site).get("quiesceSeconds", int(REST_S)) for site in sites}
    if all(value == waits[sites[0]] for value in waits.values()):
        return []
    return [
        Problem(
            f"spec.components[{index}].siteParameters",
            f"quiesceSeconds differs: {', '.join(f'{value} at {site}' for site, value in waits.items())}; "
            "a planned move would be taken back after the shorter time",
            f"declare it once, in components[{index}].parameters; where it is left out it is {int(REST_S)}",
        )
    ]


def _choose(what: str, known: Mapping[str, object]) -> str:
    return f"{what} one of {', '.join(sorted(known))}" if known else what.split(" or ", maxsplit=1)[0]

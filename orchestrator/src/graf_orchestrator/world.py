"""The objects of one reconcile, parsed and judged. Pure but for the cache of what was parsed already."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from graf.core.planning import FailbackPolicy
from graf.crd.compile import reference_problems
from graf.crd.driver_rules import claim_problems, driver_class_problems
from graf.crd.driverclass import DriverClass
from graf.crd.gitops import operation_problems
from graf.crd.group import RedundancyGroup
from graf.crd.operation import RedundancyOperation
from graf.crd.parameters import schema_problems
from graf.crd.parse import from_cluster
from graf.crd.policy import RedundancyPolicy
from graf.crd.site import Site
from graf.crd.unsupported import unsupported

if TYPE_CHECKING:
    from graf.crd.base import Problem, Resource
    from graf.crd.policy import RedundancyPolicySpec
    from graf_orchestrator.ports import Document
    from graf_orchestrator.state import State

KINDS: tuple[type[Resource], ...] = (
    Site,
    DriverClass,
    RedundancyPolicy,
    RedundancyGroup,
    RedundancyOperation,
)


@dataclass(slots=True)
class World:
    """Objects by kind and name; `problems` of those that must not be used as they are, by kind and name."""

    sites: dict[str, Site] = field(default_factory=dict)
    driver_classes: dict[str, DriverClass] = field(default_factory=dict)
    policies: dict[str, RedundancyPolicy] = field(default_factory=dict)
    groups: dict[str, RedundancyGroup] = field(default_factory=dict)
    operations: dict[str, RedundancyOperation] = field(default_factory=dict)
    documents: dict[tuple[str, str], Document] = field(default_factory=dict)
    problems: dict[tuple[str, str], list[Problem]] = field(default_factory=dict)

    @property
    def usable_classes(self) -> dict[str, DriverClass]:
        """Driver classes without a problem."""
        return {name: item for name, item in self.driver_classes.items() if ("DriverClass", name) not in self.problems}

    def policy_of(self, group: RedundancyGroup) -> RedundancyPolicy | None:
        """The group's policy."""
        return self.policies.get(group.spec.policy_ref.name)

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """The status of an object as last read."""
        return dict(self.documents.get((kind, name), {}).get("status") or {})


def failback_policy(spec: RedundancyPolicySpec) -> FailbackPolicy:
    """What a policy says about the failback."""
    failback = spec.failback
    return FailbackPolicy(failback.mode, failback.stabilisation_window_seconds, spec.failover.cooldown_seconds)


class WorldReader:
    """Builds a `World` from the state; what has not changed is not parsed again."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._parsed: dict[tuple[str, str], tuple[str, Resource | None, list[Problem]]] = {}

    def read(self) -> World:
        """The world now. Objects with problems are in it too when they could be parsed."""
        world = World()
        for model in KINDS:
            for name, document in self._state.objects(model.kind_name).items():
                key = (model.kind_name, name)
                world.documents[key] = document
                resource, problems = self._parse(key, document)
                if problems:
                    world.problems[key] = list(problems)
                match resource:
                    case Site():
                        world.sites[name] = resource
                    case DriverClass():
                        world.driver_classes[name] = resource
                    case RedundancyPolicy():
                        world.policies[name] = resource
                    case RedundancyGroup():
                        world.groups[name] = resource
                    case RedundancyOperation():
                        world.operations[name] = resource
        _judge_references(world)
        return world

    def _parse(self, key: tuple[str, str], document: Document) -> tuple[Resource | None, list[Problem]]:
        version = str(document["metadata"].get("resourceVersion", ""))
        known = self._parsed.get(key)
        if known is not None and version and known[0] == version:
            return known[1], known[2]
        resource, problems = from_cluster(document)
        if resource is not None:
            problems = problems + unsupported(resource)
            if isinstance(resource, DriverClass):
                problems += schema_problems(resource.spec.parameters_schema)
                problems += driver_class_problems(resource)
        self._parsed[key] = (version, resource, problems)
        return resource, problems


def _judge_references(world: World) -> None:
    for name, claims in claim_problems(world.usable_classes, world.sites).items():
        world.problems.setdefault(("DriverClass", name), []).extend(claims)
    usable_classes = world.usable_classes
    usable_policies = {
        name: item for name, item in world.policies.items() if ("RedundancyPolicy", name) not in world.problems
    }
    for name, group in world.groups.items():
        if found := reference_problems(group, usable_policies, usable_classes, world.sites):
            world.problems.setdefault(("RedundancyGroup", name), []).extend(found)
    for name, operation in world.operations.items():
        if found := operation_problems(operation, world.groups):
            world.problems.setdefault(("RedundancyOperation", name), []).extend(found)

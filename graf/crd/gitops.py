"""What a Git tree means: objects, records of decisions, and every reason to refuse the commit. Pure.

A commit is taken as a whole or refused as a whole: any problem in any file refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError

from graf.api.recorded import AssignedRole, Recorded
from graf.crd import voters
from graf.crd.assignment import GroupAssignment
from graf.crd.base import NAMESPACE, Model, Name, Problem, Resource, Timestamp
from graf.crd.compile import reference_problems
from graf.crd.driver_rules import claim_problems, driver_class_problems
from graf.crd.driverclass import DriverClass
from graf.crd.group import RedundancyGroup
from graf.crd.kinds import ALL_KINDS, BY_FOLDER
from graf.crd.operation import RedundancyOperation
from graf.crd.parameters import schema_problems
from graf.crd.parse import parse_object, parse_yaml, problem_of
from graf.crd.policy import RedundancyPolicy
from graf.crd.site import Site
from graf.crd.unsupported import unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


RECORDS_FOLDER = "records"
CLUSTERS_FOLDER = "clusters"
LAYOUT = ", ".join(f"{folder}/" for folder in (*BY_FOLDER, RECORDS_FOLDER))

Key = tuple[str, str]  # kind, name
ResourceT = TypeVar("ResourceT", bound=Resource)


class DecisionRecord(Model):
    """`records/<group>.yaml`: who is active by the last decision. Written by the manager only."""

    group: Name = Field(description="Name of the RedundancyGroup.")
    active_site: Name = Field(description="Active site after the decision.")
    epoch: int = Field(ge=1, description="Epoch after the decision.")
    type: str = Field(description="Bootstrap, Failover, Switchover, Failback.")
    operation: str = Field(default="", description="RedundancyOperation, if there was one.")
    record: str = Field(description="Id of the site's record.")
    decided_at: Timestamp | None = Field(default=None, description="Wall clock of the recording site.")
    roles: dict[str, AssignedRole] = Field(default_factory=dict, description="Role of each site since then.")
    written_by: Literal["graf-manager"] = "graf-manager"

    def recorded(self) -> Recorded:
        """What compiling a group needs of it."""
        return Recorded(self.active_site, self.epoch, dict(self.roles))


@dataclass(frozen=True, slots=True)
class Entry:
    """An object and where it stands."""

    file: str
    resource: Resource
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Repository:
    """The content of one commit. Usable only without problems.

    Attributes:
        entries: the objects that people write, by kind and name.
        assignments: content of `clusters/`, by site and group.
        records: content of `records/`, by group.
        problems: every reason to refuse the commit.
    """

    entries: dict[Key, Entry] = field(default_factory=dict)
    assignments: dict[tuple[str, str], GroupAssignment] = field(default_factory=dict)
    records: dict[str, DecisionRecord] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def in_order(self) -> list[Entry]:
        """What is applied, referred-to kinds first."""
        order = {kind.kind_name: index for index, kind in enumerate(ALL_KINDS)}
        return sorted(self.entries.values(), key=lambda e: (order[e.resource.kind_name], e.resource.name))

    def resources(self) -> dict[Key, Resource]:
        """The objects without their files."""
        return {key: entry.resource for key, entry in self.entries.items()}


def load(tree: Mapping[str, bytes]) -> Repository:
    """Reads a whole tree (path -> content) and checks everything that the tree alone can tell."""
    reader = _Reader()
    for path in sorted(tree):
        reader.read(path, tree[path])
    if not reader.unreadable:
        # With an object that could not be read, every reference to it would be reported as broken too.
        reader.problems += _reference_problems(reader.entries)
    return Repository(reader.entries, reader.assignments, reader.records, tuple(reader.problems))


class _Reader:
    """Collects what the files hold. `unreadable` is set once an object could not be understood."""

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self.assignments: dict[tuple[str, str], GroupAssignment] = {}
        self.records: dict[str, DecisionRecord] = {}
        self.problems: list[Problem] = []
        self.unreadable = False

    def read(self, path: str, content: bytes) -> None:
        parts = PurePosixPath(path).parts
        if not path.endswith((".yaml", ".yml", ".json")) or any(part.startswith(".") for part in parts):
            return
        folder = parts[0] if len(parts) > 1 else ""
        if folder != RECORDS_FOLDER and folder not in BY_FOLDER:
            self.problems.append(Problem("", "is outside of the layout", f"move it into one of {LAYOUT}", path))
            return
        documents, problem = parse_yaml(content)
        if problem is not None:
            self.unreadable = True
            self.problems.append(replace(problem, file=path))
            return
        for document in documents:
            if folder == RECORDS_FOLDER:
                found = self.record(parts, document)
            elif folder == CLUSTERS_FOLDER:
                found = self.assignment(parts, document)
            else:
                found = self.object(path, folder, document)
            self.problems += [replace(item, file=path) for item in found]

    def object(self, path: str, folder: str, document: Any) -> list[Problem]:
        resource, problems = parse_object(document)
        if resource is None:
            self.unreadable = True
            return problems
        if BY_FOLDER[folder] is not type(resource):
            return [_misplaced(resource)]
        problems = problems + unsupported(resource)
        if isinstance(resource, DriverClass):
            found = schema_problems(resource.spec.parameters_schema)
            self.unreadable = self.unreadable or bool(found)
            problems = problems + found + driver_class_problems(resource)
        if "status" in document:
            problems.append(Problem("status", "is written by the manager alone", "remove it"))
        key = (resource.kind_name, resource.name)
        if key in self.entries:
            other = self.entries[key].file
            cause = f"{resource.kind_name} {resource.name} is in {other} too"
            return [*problems, Problem("metadata.name", cause, "keep one of them")]
        if resource.namespaced:
            document = {**document, "metadata": {**document["metadata"], "namespace": NAMESPACE}}
        self.entries[key] = Entry(path, resource, document)
        return problems

    def assignment(self, parts: tuple[str, ...], document: Any) -> list[Problem]:
        resource, problems = parse_object(document)
        if resource is None:
            return problems
        if not isinstance(resource, GroupAssignment):
            return [_misplaced(resource)]
        expected = (CLUSTERS_FOLDER, resource.spec.site, f"{resource.spec.group}.yaml")
        if parts != expected:
            return [Problem("spec.site", "is not the site and group of the path", f"move it to {'/'.join(expected)}")]
        self.assignments[(resource.spec.site, resource.spec.group)] = resource
        return problems

    def record(self, parts: tuple[str, ...], document: Any) -> list[Problem]:
        try:
            record = DecisionRecord.model_validate(document)
        except ValidationError as error:
            return [problem_of(detail, DecisionRecord) for detail in error.errors(include_url=False)]
        if parts != (RECORDS_FOLDER, f"{record.group}.yaml"):
            return [Problem("group", "is not the group of the path", f"move it to records/{record.group}.yaml")]
        self.records[record.group] = record
        return []


def _misplaced(resource: Resource) -> Problem:
    return Problem("kind", f"a {resource.kind_name} does not belong here", f"move it to {resource.folder}/")


def of_kind(resources: Mapping[Key, Resource], kind: type[ResourceT]) -> dict[str, ResourceT]:
    """The objects of one kind, by name."""
    return {key[1]: resource for key, resource in resources.items() if isinstance(resource, kind)}


def _reference_problems(entries: Mapping[Key, Entry]) -> list[Problem]:
    resources = {key: entry.resource for key, entry in entries.items()}
    policies = of_kind(resources, RedundancyPolicy)
    driver_classes = of_kind(resources, DriverClass)
    sites = of_kind(resources, Site)
    groups = of_kind(resources, RedundancyGroup)
    claims = claim_problems(driver_classes, sites)
    problems: list[Problem] = []
    for entry in entries.values():
        found: list[Problem] = []
        if isinstance(entry.resource, DriverClass):
            found = claims.get(entry.resource.name, [])
        elif isinstance(entry.resource, RedundancyGroup):
            found = reference_problems(entry.resource, policies, driver_classes, sites)
        elif isinstance(entry.resource, RedundancyOperation):
            found = operation_problems(entry.resource, groups)
        problems += [replace(item, file=entry.file) for item in found]
    return problems


def operation_problems(operation: RedundancyOperation, groups: Mapping[str, RedundancyGroup]) -> list[Problem]:
    """What an operation says about its group that does not hold."""
    group = groups.get(operation.spec.group_ref.name)
    if group is None:
        known = ", ".join(sorted(groups)) or "none yet"
        return [
            Problem(
                "spec.groupRef.name",
                f"there is no RedundancyGroup {operation.spec.group_ref.name}",
                f"name a group that exists: {known}",
            )
        ]
    target = operation.spec.target
    if target is not None and target not in group.spec.site_names:
        return [
            Problem(
                "spec.target",
                f"{target} is not a site of {group.name}",
                f"use one of {', '.join(group.spec.site_names)}",
            )
        ]
    return []


def change_problems(new: Repository, old: Mapping[Key, Resource]) -> list[Problem]:
    """What a commit changes that must not change, against the objects that exist already."""
    problems: list[Problem] = []
    for key, entry in new.entries.items():
        found = immutable_problems(entry.resource, old.get(key))
        problems += [replace(item, file=entry.file) for item in found]
    return problems


def immutable_problems(new: Resource, old: Resource | None) -> list[Problem]:
    """What must not change from one version of an object to the next (the CRDs' transition rules)."""
    problems: list[Problem] = []
    if isinstance(new, RedundancyGroup) and isinstance(old, RedundancyGroup):
        problems += voters.change_problems(new.spec.voters, old.spec.voters)
        if set(new.spec.site_names) != set(old.spec.site_names):
            problems.append(
                Problem(
                    "spec.sites",
                    "changing the sites is not yet supported (their roles may change)",
                    f"keep {', '.join(old.spec.site_names)}",
                )
            )
    if isinstance(new, RedundancyOperation) and isinstance(old, RedundancyOperation) and new.spec != old.spec:
        problems.append(
            Problem("spec", "an operation is asked for once and cannot be changed", "add another file and name")
        )
    return problems


def revert_problems(new: Repository, old: Repository) -> list[Problem]:
    """What a commit takes back of what the manager had recorded in `clusters/` and `records/`.

    Only the lease moves a group, so that an older record in Git would only be a lie about where it is.
    """
    fix = "take this change back; to move the group add a RedundancyOperation of type Switchover or Failback"
    problems: list[Problem] = []
    for group, before in old.records.items():
        after = new.records.get(group)
        if after is not None and after.epoch < before.epoch:
            cause = (
                f"{after.epoch} is older than the recorded epoch {before.epoch}; "
                "reverting a decision is not yet supported"
            )
            problems.append(Problem("epoch", cause, fix, f"{RECORDS_FOLDER}/{group}.yaml"))
    for (site, group), assignment in old.assignments.items():
        later = new.assignments.get((site, group))
        if later is not None and later.spec.epoch < assignment.spec.epoch:
            cause = (
                f"{later.spec.epoch} is older than the recorded epoch {assignment.spec.epoch}; "
                "reverting a decision is not yet supported"
            )
            problems.append(Problem("spec.epoch", cause, fix, f"{CLUSTERS_FOLDER}/{site}/{group}.yaml"))
    return problems


def removed(new: Repository, old: Mapping[Key, Resource]) -> list[Key]:
    """Objects that exist and that the commit does not hold. They are reported, never deleted."""
    return sorted(set(old) - set(new.entries))


def decision_files(assignments: Iterable[GroupAssignment], record: DecisionRecord | None) -> dict[str, bytes]:
    """The files of a decision's commit: each site's assignment and the group's record."""
    files = {
        f"{CLUSTERS_FOLDER}/{item.spec.site}/{item.spec.group}.yaml": _dump(
            {
                "apiVersion": item.api_version,
                "kind": item.kind,
                "metadata": {"name": item.name, "namespace": item.metadata.namespace or NAMESPACE},
                "spec": item.spec.to_dict(),
            }
        )
        for item in assignments
    }
    if record is not None:
        files[f"{RECORDS_FOLDER}/{record.group}.yaml"] = _dump(record.to_dict())
    return files


def _dump(document: dict[str, Any]) -> bytes:
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
    return f"# Written by graf-manager with each decision. Do not edit.\n{text}".encode()

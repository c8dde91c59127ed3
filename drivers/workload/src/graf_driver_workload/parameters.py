"""The component's parameters: read once, checked completely, frozen. Pure."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, TypeVar

from graf_driver_sdk.types import FieldProblem

_KNOWN: Final = (
    "namespace", "mode", "targets", "selector", "selectorKinds", "standbyReplicas", "fencing", "minReadyPercent",
    "markerConfigMap", "manifests", "kustomization", "overrides", "forceConflicts",
)  # fmt: skip
_TARGET: Final = ("apiVersion", "kind", "name", "replicas", "podSelector")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_KIND: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_API_VERSION: Final = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?v[a-z0-9]+")
_LIMIT: Final = 100_000
Problems = list[FieldProblem]
_E = TypeVar("_E", bound=enum.Enum)


class Mode(enum.Enum):
    """What a standby has."""

    HOT = "hot"  # everything runs
    WARM = "warm"  # the objects are there, scaled in
    COLD = "cold"  # nothing is there


class Fencing(enum.Enum):
    """How a hot component is fenced."""

    SCALE_TO_ZERO = "ScaleToZero"
    GATE = "Gate"  # it goes on running: the gate in front of it keeps clients out


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """A kind of object."""

    api_version: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.api_version}"


DEPLOYMENT: Final = Kind("apps/v1", "Deployment")
STATEFUL_SET: Final = Kind("apps/v1", "StatefulSet")


@dataclass(frozen=True, slots=True)
class Target:
    """A workload by name; `replicas` and `pod_selector` are None when the object itself knows.

    `fallback` is for objects that the driver makes: how many replicas the manifest gives it.
    """

    kind: Kind
    name: str
    replicas: int | None = None
    pod_selector: str | None = None
    fallback: int | None = None


@dataclass(frozen=True, slots=True)
class Parameters:
    """One site's parameters of one component; documented in ``docs/reference/drivers/workload.md``."""

    namespace: str
    mode: Mode
    targets: tuple[Target, ...] = ()
    selector: str | None = None
    selector_kinds: tuple[Kind, ...] = (DEPLOYMENT, STATEFUL_SET)
    standby_replicas: int = 0
    fencing: Fencing = Fencing.SCALE_TO_ZERO
    min_ready_percent: int = 100
    marker: str | None = None
    manifests: str | None = None
    kustomization: str | None = None
    overrides: tuple[Mapping[str, Any], ...] = ()
    force_conflicts: bool = False

    @property
    def applies(self) -> bool:
        """Whether the driver makes the objects itself."""
        return self.manifests is not None or self.kustomization is not None


def parse(raw: Mapping[str, Any]) -> tuple[Parameters | None, Problems]:
    """Reads parameters as they come out of a protobuf Struct (every number a float).

    Returns:
        The parameters and no problem, or None and every problem that there is.
    """
    problems = _unknown(raw, _KNOWN, "")
    namespace = _text(raw, "namespace", _NAME, "a namespace, e.g. vcu", problems, required=True)
    mode = _choice(raw, "mode", Mode, None, problems)
    fencing = _choice(raw, "fencing", Fencing, Fencing.SCALE_TO_ZERO, problems)
    parameters = Parameters(
        namespace or "",
        mode or Mode.WARM,
        _targets(raw.get("targets", []), problems),
        _selector(raw.get("selector"), "selector", problems),
        _kinds(raw.get("selectorKinds"), problems),
        _number(raw, "standbyReplicas", 0, 0, _LIMIT, problems),
        fencing or Fencing.SCALE_TO_ZERO,
        _number(raw, "minReadyPercent", 100, 1, 100, problems),
        _text(raw, "markerConfigMap", _NAME, "a ConfigMap's name", problems),
        _manifests(raw, problems),
        _kustomization(raw, problems),
        _overrides(raw.get("overrides", []), problems),
        _flag(raw, "forceConflicts", problems),
    )
    if not problems:
        problems = list(_together(parameters, raw))
    return (None, problems) if problems else (parameters, [])


def _together(p: Parameters, raw: Mapping[str, Any]) -> Problems:
    found: Problems = []
    if p.manifests is not None and p.kustomization is not None:
        found.append(FieldProblem("kustomization", "manifests are given too", "one of the two"))
    if p.overrides and not p.applies:
        found.append(
            FieldProblem(
                "overrides",
                "there is nothing to patch: the objects are not the driver's",
                "give manifests or kustomization as well, or patch the objects where they come from",
            )
        )
    if p.applies and (p.targets or p.selector):
        found.append(
            FieldProblem(
                "targets" if p.targets else "selector",
                "the targets are those of the manifests",
                "leave it out, or use a component of its own for objects that the driver does not make",
            )
        )
    if p.mode is Mode.COLD and not p.applies:
        found.append(FieldProblem("mode", "cold needs something to apply", "give manifests or kustomization"))
    if not p.applies and not p.targets and p.selector is None:
        found.append(
            FieldProblem("targets", "nothing says which workloads", "targets, selector, manifests or kustomization")
        )
    if p.standby_replicas and p.mode is not Mode.WARM:
        found.append(FieldProblem("standbyReplicas", f"mode is {p.mode.value}", "only for mode: warm"))
    if "fencing" in raw and p.mode is not Mode.HOT:
        found.append(FieldProblem("fencing", f"mode is {p.mode.value}", "only for mode: hot"))
    if "selectorKinds" in raw and p.selector is None:
        found.append(FieldProblem("selectorKinds", "there is no selector", "give selector, or leave it out"))
    for index, target in enumerate(p.targets):
        if target.replicas is not None and target.replicas < p.standby_replicas:
            found.append(FieldProblem(f"targets[{index}].replicas", "is less than standbyReplicas", "at least as many"))
        if any((t.kind, t.name) == (target.kind, target.name) for t in p.targets[:index]):
            found.append(FieldProblem(f"targets[{index}]", f"{target.name} is named twice", "remove one of them"))
    return found


def _unknown(raw: Mapping[str, Any], known: Sequence[str], where: str) -> Problems:
    return [
        FieldProblem(where + str(name), "no such parameter", f"remove it; known are {', '.join(known)}")
        for name in sorted(set(raw) - set(known))
    ]


def _text(
    raw: Mapping[str, Any],
    name: str,
    pattern: re.Pattern[str],
    fix: str,
    problems: Problems,
    *,
    required: bool = False,
    where: str = "",
) -> str | None:
    value = raw.get(name)
    if value is None:
        if required:
            problems.append(FieldProblem(where + name, "is missing", fix))
        return None
    if not isinstance(value, str) or not pattern.fullmatch(value):
        problems.append(FieldProblem(where + name, f"{_shown(value)} cannot be used", fix))
        return None
    return value


def _choice(raw: Mapping[str, Any], name: str, kind: type[_E], default: _E | None, problems: Problems) -> _E | None:
    value = raw.get(name)
    if value is None and default is not None:
        return default
    for member in kind:
        if member.value == value:
            return member
    known = ", ".join(str(member.value) for member in kind)
    cause = "is missing" if value is None else f"{_shown(value)} is unknown"
    problems.append(FieldProblem(name, cause, f"one of {known}"))
    return None


def _number(
    raw: Mapping[str, Any], name: str, default: int, low: int, high: int, problems: Problems, where: str = ""
) -> int:
    value = raw.get(name, default)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not whole or not low <= value <= high:
        problems.append(FieldProblem(where + name, f"{_shown(value)} cannot be used", f"a number from {low} to {high}"))
        return default
    return int(value)


def _flag(raw: Mapping[str, Any], name: str, problems: Problems) -> bool:
    value = raw.get(name, False)
    if not isinstance(value, bool):
        problems.append(FieldProblem(name, f"{_shown(value)} is neither true nor false", "true or false"))
    return value is True


def _targets(value: Any, problems: Problems) -> tuple[Target, ...]:
    example = "a list, e.g. [{kind: Deployment, name: vcu-app}]"
    if not isinstance(value, Sequence) or isinstance(value, str):
        problems.append(FieldProblem("targets", f"{_shown(value)} is no list", example))
        return ()
    found = []
    for index, entry in enumerate(value):
        where = f"targets[{index}]."
        if not isinstance(entry, Mapping):
            problems.append(FieldProblem(where[:-1], f"{_shown(entry)} is no mapping", example))
            continue
        problems += _unknown(entry, _TARGET, where)
        kind = _kind(entry, where, problems)
        name = _text(entry, "name", _NAME, "the object's name", problems, required=True, where=where)
        replicas = _number(entry, "replicas", 1, 1, _LIMIT, problems, where) if "replicas" in entry else None
        pods = _selector(entry.get("podSelector"), where + "podSelector", problems)
        if kind is not None and name is not None:
            found.append(Target(kind, name, replicas, pods))
    return tuple(found)


def _kind(entry: Mapping[str, Any], where: str, problems: Problems) -> Kind | None:
    defaulted = {"apiVersion": "apps/v1", **entry}
    version = _text(defaulted, "apiVersion", _API_VERSION, "e.g. apps/v1, the default", problems, where=where)
    kind = _text(defaulted, "kind", _KIND, "e.g. Deployment", problems, required=True, where=where)
    return None if version is None or kind is None else Kind(version, kind)


def _kinds(value: Any, problems: Problems) -> tuple[Kind, ...]:
    if value is None:
        return DEPLOYMENT, STATEFUL_SET
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        problems.append(
            FieldProblem(
                "selectorKinds", f"{_shown(value)} is no list", "e.g. [{apiVersion: apps/v1, kind: Deployment}]"
            )
        )
        return ()
    found = []
    for index, entry in enumerate(value):
        where = f"selectorKinds[{index}]."
        if not isinstance(entry, Mapping):
            problems.append(FieldProblem(where[:-1], f"{_shown(entry)} is no mapping", "{apiVersion: ..., kind: ...}"))
            continue
        problems += _unknown(entry, ("apiVersion", "kind"), where)
        if (kind := _kind(entry, where, problems)) is not None:
            found.append(kind)
    return tuple(found)


def _selector(value: Any, name: str, problems: Problems) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        # An empty selector selects everything in the namespace: never what somebody means by a typing error.
        problems.append(FieldProblem(name, f"{_shown(value)} selects everything or nothing", "e.g. app=vcu"))
        return None
    return value


def _manifests(raw: Mapping[str, Any], problems: Problems) -> str | None:
    value = raw.get("manifests")
    if value is not None and (not isinstance(value, str) or not value.strip()):
        problems.append(
            FieldProblem("manifests", f"{_shown(value)} is no text", "YAML documents as one text (`manifests: |`)")
        )
        return None
    return value


def _kustomization(raw: Mapping[str, Any], problems: Problems) -> str | None:
    value = raw.get("kustomization")
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith("/") or ".." in PurePosixPath(value).parts:
        problems.append(
            FieldProblem("kustomization", f"{_shown(value)} is no absolute path", "a mounted folder, e.g. /manifests")
        )
        return None
    return value


def _overrides(value: Any, problems: Problems) -> tuple[Mapping[str, Any], ...]:
    example = "a list of kustomize patches, e.g. [{target: {kind: Deployment}, patch: ...}]"
    if not isinstance(value, Sequence) or isinstance(value, str):
        problems.append(FieldProblem("overrides", f"{_shown(value)} is no list", example))
        return ()
    found = []
    for index, entry in enumerate(value):
        where = f"overrides[{index}]"
        if not isinstance(entry, Mapping):
            problems.append(FieldProblem(where, f"{_shown(entry)} is no mapping", example))
            continue
        problems += _unknown(entry, ("patch", "target"), where + ".")
        if not isinstance(entry.get("patch"), str):
            problems.append(FieldProblem(f"{where}.patch", "is missing or no text", "the patch as text (`patch: |`)"))
        elif not isinstance(entry.get("target", {}), Mapping):
            problems.append(FieldProblem(f"{where}.target", "is no mapping", "e.g. {kind: Deployment, name: vcu-app}"))
        else:
            found.append(dict(entry))
    return tuple(found)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

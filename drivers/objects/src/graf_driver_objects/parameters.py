"""The component's parameters: read once, checked completely, frozen. Pure.

No name contains `secret`, `token`, `key` or `password`: the SDK would take its value for a secret and mask it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jsonpatch
from graf_driver_sdk.types import FieldProblem
from jsonpath_ng.parser import parse as parse_path

_KNOWN: Final = (
    "objects",
    "endpoint",
    "listen",
    "tlsDirectory",
    "identity",
    "kubeconfig",
    "conflicts",
    "deletions",
    "maxDeletions",
    "rpoSeconds",
    "transform",
)
_OBJECT: Final = ("apiVersion", "kind", "namespace", "labelSelector", "names")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_ENDPOINT: Final = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
_KEPT: Final = ("/apiVersion", "/kind", "/metadata/name", "/metadata/namespace", "/metadata")
MAX_SELECTIONS: Final = 200


@dataclass(frozen=True, slots=True)
class Selection:
    """What one list and one watch are about; `name` narrows it to one object (so that RBAC can name it)."""

    api_version: str
    kind: str
    namespace: str = ""
    label_selector: str = ""
    name: str = ""

    def __str__(self) -> str:
        where = f" in {self.namespace}" if self.namespace else ""
        which = f" {self.name}" if self.name else f" with {self.label_selector}" if self.label_selector else ""
        return f"{self.api_version} {self.kind}{which}{where}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A transformation of objects of one kind (any when empty), with one name (any when empty)."""

    kind: str = ""
    name: str = ""
    patch: tuple[Mapping[str, Any], ...] = ()
    path: str = ""
    find: str = ""
    replace: str = ""


@dataclass(frozen=True, slots=True)
class Transform:
    """What a site changes of the objects that it receives."""

    namespaces: Mapping[str, str] = field(default_factory=dict)
    strip: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameters:
    """One site's parameters.

    Attributes:
        selections: what is chosen here while this site is the active, and what is looked at when it is assessed.
        endpoint: host:port at which the other sites reach this site's driver.
        listen: host:port that this driver listens on.
        tls_directory: ca.crt, tls.crt, tls.key.
        identity: DNS name in this site's certificate; empty: SITE.objects.graf.dev.
        kubeconfig: None: the Pod's own service account.
        force: whether a conflict at the standby is overwritten (after archiving) instead of reported.
        deletions: whether tombstones delete.
        max_deletions: more deletions than this at once are held.
        rpo_s: a standby that may lack what was written within longer than this is not promotable; 0: no limit.
    """

    selections: tuple[Selection, ...] = ()
    endpoint: str = ""
    listen: str = ""
    tls_directory: Path = Path("/etc/graf/objects-tls")
    identity: str = ""
    kubeconfig: Path | None = None
    force: bool = False
    deletions: bool = True
    max_deletions: int = 50
    rpo_s: float = 0.0
    transform: Transform = field(default_factory=Transform)

    def identity_at(self, site: str) -> str:
        """The name that the site's certificate proves."""
        return self.identity or f"{site}.objects.graf.dev"


def parse(raw: Mapping[str, Any]) -> tuple[Parameters | None, list[FieldProblem]]:
    """Reads parameters as they come out of a protobuf Struct (every number a float).

    Returns:
        The parameters and no problem, or None and every problem that there is.
    """
    problems = [
        FieldProblem(name, "no such parameter", f"remove it; known are {', '.join(_KNOWN)}")
        for name in sorted(set(raw) - set(_KNOWN))
    ]
    endpoint = _endpoint(raw, "endpoint", problems, required=True)
    parameters = Parameters(
        _selections(raw.get("objects"), problems),
        endpoint,
        _endpoint(raw, "listen", problems) or endpoint,
        _path(raw, "tlsDirectory", problems) or Path("/etc/graf/objects-tls"),
        _text(raw, "identity", problems),
        _path(raw, "kubeconfig", problems),
        _choice(raw, "conflicts", ("report", "force"), problems) == "force",
        _boolean(raw, "deletions", True, problems),
        _count(raw, "maxDeletions", 50, problems),
        _seconds(raw, "rpoSeconds", problems),
        _transform(raw.get("transform", {}), problems),
    )
    return (None, problems) if problems else (parameters, [])


def _selections(value: Any, problems: list[FieldProblem]) -> tuple[Selection, ...]:
    if not isinstance(value, list) or not value:
        problems.append(FieldProblem("objects", "is missing or empty", "a list of {apiVersion, kind, namespace, ...}"))
        return ()
    found: list[Selection] = []
    for number, item in enumerate(value):
        found += _selection(f"objects[{number}]", item, problems)
    if len(found) > MAX_SELECTIONS:
        fix = "choose by labelSelector instead of names"
        problems.append(FieldProblem("objects", f"{len(found)} names and selectors, each of which is a watch", fix))
    return tuple(dict.fromkeys(found))


def _selection(where: str, item: Any, problems: list[FieldProblem]) -> list[Selection]:
    if not isinstance(item, Mapping):
        problems.append(FieldProblem(where, f"{item!r} is no mapping", "apiVersion, kind, namespace, ..."))
        return []
    before = len(problems)
    for name in sorted(set(item) - set(_OBJECT)):
        problems.append(FieldProblem(f"{where}.{name}", "no such field", f"remove it; known: {', '.join(_OBJECT)}"))
    texts = {name: item.get(name, "") for name in ("apiVersion", "kind", "namespace", "labelSelector")}
    for name, text in texts.items():
        required = name in ("apiVersion", "kind")
        if not isinstance(text, str) or (required and not text):
            problems.append(FieldProblem(f"{where}.{name}", f"{text!r} is no text", "e.g. v1, ConfigMap, upf, app=upf"))
    names = item.get("names", [])
    if not isinstance(names, list) or any(not isinstance(n, str) or not _NAME.fullmatch(n) for n in names):
        problems.append(FieldProblem(f"{where}.names", f"{names!r} are no names of objects", "a list of names"))
    elif names and texts["labelSelector"]:
        problems.append(FieldProblem(where, "has both names and labelSelector", "one of the two"))
    elif not names and not texts["labelSelector"]:
        fix = "names or labelSelector; to choose everything: labelSelector: '!objects.graf.dev/never'"
        problems.append(FieldProblem(where, "has neither names nor labelSelector: too much would be copied", fix))
    if len(problems) > before:
        return []
    basis = (texts["apiVersion"], texts["kind"], texts["namespace"])
    if names:
        return [Selection(*basis, name=name) for name in names]
    return [Selection(*basis, label_selector=texts["labelSelector"])]


def _transform(value: Any, problems: list[FieldProblem]) -> Transform:
    known = ("namespaces", "strip", "patches", "substitutions")
    if not isinstance(value, Mapping) or set(value) - set(known):
        problems.append(FieldProblem("transform", "has unknown fields or is no mapping", f"only {', '.join(known)}"))
        return Transform()
    namespaces, strip = value.get("namespaces", {}), value.get("strip", [])
    if not isinstance(namespaces, Mapping) or not all(
        isinstance(text, str) and _NAME.fullmatch(text) for pair in namespaces.items() for text in pair
    ):
        problems.append(FieldProblem("transform.namespaces", "is no mapping of namespaces", "e.g. upf-east: upf-west"))
        namespaces = {}
    elif len(set(namespaces.values())) != len(namespaces):
        problems.append(FieldProblem("transform.namespaces", "two namespaces become one", "a target of its own each"))
    if not isinstance(strip, list):
        problems.append(FieldProblem("transform.strip", "is no list", "JSONPaths, e.g. $.spec.replicas"))
        strip = []
    for number, path in enumerate(strip):
        _check_path(f"transform.strip[{number}]", path, problems)
    rules = [_patch(f"transform.patches[{n}]", item, problems) for n, item in _items(value, "patches", problems)]
    rules += [
        _substitution(f"transform.substitutions[{n}]", item, problems)
        for n, item in _items(value, "substitutions", problems)
    ]
    return Transform(dict(namespaces), tuple(map(str, strip)), tuple(rules))


def _items(value: Mapping[str, Any], name: str, problems: list[FieldProblem]) -> list[tuple[int, Mapping[str, Any]]]:
    items = value.get(name, [])
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        problems.append(FieldProblem(f"transform.{name}", "is no list of mappings", "see the driver's reference"))
        return []
    return list(enumerate(items))


def _patch(where: str, item: Mapping[str, Any], problems: list[FieldProblem]) -> Rule:
    operations: Any = item.get("patch")
    try:
        jsonpatch.JsonPatch(operations)
    except Exception as error:
        problems.append(FieldProblem(f"{where}.patch", f"is no JSON patch ({type(error).__name__})", "see RFC 6902"))
        return Rule()
    for operation in operations or []:
        paths = [operation["path"]] + ([operation["from"]] if operation["op"] == "move" else [])
        if operation["op"] != "test" and any(path in ("", *_KEPT) for path in paths):
            fix = "what an object is cannot be patched; namespaces are renamed by transform.namespaces"
            problems.append(FieldProblem(f"{where}.patch", f"changes {operation['path'] or 'the whole'}", fix))
    return Rule(str(item.get("kind", "")), str(item.get("name", "")), tuple(operations or ()))


def _substitution(where: str, item: Mapping[str, Any], problems: list[FieldProblem]) -> Rule:
    _check_path(f"{where}.path", item.get("path"), problems)
    find, replace = item.get("find"), item.get("replace")
    if not isinstance(find, str) or not find or not isinstance(replace, str):
        problems.append(FieldProblem(where, "find and replace are missing or no texts", "the text, and what for it"))
        return Rule()
    return Rule(
        str(item.get("kind", "")), str(item.get("name", "")), path=str(item.get("path")), find=find, replace=replace
    )


def _check_path(where: str, path: Any, problems: list[FieldProblem]) -> None:
    try:
        if not isinstance(path, str) or not path.startswith("$."):
            raise ValueError(path)
        parse_path(path)
    except Exception:
        problems.append(FieldProblem(where, f"{path!r} is no JSONPath", "e.g. $.data.* or $.spec.peers[*].address"))
        return
    if path.startswith(("$.metadata.name", "$.kind", "$.apiVersion")) or path in ("$.metadata", "$.*", "$..*"):
        problems.append(FieldProblem(where, f"{path} would change what the object is", "a path below spec or data"))


def _endpoint(raw: Mapping[str, Any], name: str, problems: list[FieldProblem], required: bool = False) -> str:
    value = raw.get(name)
    if value is None and not required:
        return ""
    found = _ENDPOINT.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[2]) < 65536:
        problems.append(FieldProblem(name, f"{value!r} is no host:port", "e.g. 198.18.1.10:7443"))
        return ""
    return str(value)


def _path(raw: Mapping[str, Any], name: str, problems: list[FieldProblem]) -> Path | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith("/"):
        problems.append(FieldProblem(name, f"{value!r} is no absolute path", "a path that begins with /"))
        return None
    return Path(value)


def _text(raw: Mapping[str, Any], name: str, problems: list[FieldProblem]) -> str:
    value = raw.get(name, "")
    if not isinstance(value, str) or (value and not _NAME.fullmatch(value)):
        problems.append(FieldProblem(name, f"{value!r} is no DNS name", "e.g. east.objects.graf.dev"))
        return ""
    return value


def _choice(raw: Mapping[str, Any], name: str, choices: tuple[str, ...], problems: list[FieldProblem]) -> str:
    value = raw.get(name, choices[0])
    if value not in choices:
        problems.append(FieldProblem(name, f"{value!r} is unknown", f"one of {', '.join(choices)}"))
        return choices[0]
    return str(value)


def _boolean(raw: Mapping[str, Any], name: str, default: bool, problems: list[FieldProblem]) -> bool:
    value = raw.get(name, default)
    if not isinstance(value, bool):
        problems.append(FieldProblem(name, f"{value!r} is no boolean", "true or false"))
        return default
    return value


def _seconds(raw: Mapping[str, Any], name: str, problems: list[FieldProblem]) -> float:
    value = raw.get(name)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not 2 <= value <= 604_800:
        problems.append(FieldProblem(name, f"{value!r} is no number of seconds", "a number from 2 to 604800"))
        return 0.0
    return float(value)


def _count(raw: Mapping[str, Any], name: str, default: int, problems: list[FieldProblem]) -> int:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1_000_000 or value % 1:
        problems.append(FieldProblem(name, f"{value!r} is no count", "a whole number from 0"))
        return default
    return int(value)

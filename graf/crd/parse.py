"""From YAML text to typed objects, or to problems with field, cause and fix. Pure.

Stricter than YAML: a key given twice is refused (a reader would see one value and GRAF take the other), and a
date stays the text that it is, as it does for kubectl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ValidationError

from graf.crd.base import API_VERSION, NAMESPACE, Problem
from graf.crd.kinds import BY_KIND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

    from graf.crd.base import Resource


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a repeated key and leaves dates alone."""

    yaml_implicit_resolvers = {  # noqa: RUF012  (shape given by PyYAML)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not a text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(content: bytes) -> tuple[list[Any], Problem | None]:
    """The documents of a file, or the problem with its line. Empty documents are left out."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return [], Problem("", f"byte {error.start} is not UTF-8", "save the file as UTF-8")
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return [], Problem(where, f"not valid YAML: {error.problem or error}", "correct the YAML at this line")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return [], Problem("", f"not valid YAML: {error}", "correct the YAML")
    return [document for document in documents if document is not None], None


def path_of(location: tuple[int | str, ...]) -> str:
    """`('spec', 'sites', 0, 'name')` as people write it: `spec.sites[0].name`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else part)
    return path


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The model that holds the field at the end of a location."""
    current: Any = model
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return None
        field = next((f for n, f in current.model_fields.items() if part in (n, f.alias)), None)
        if field is None:
            return None
        current = _innermost(field.annotation)
    return current if isinstance(current, type) and issubclass(current, BaseModel) else None


def _innermost(annotation: Any) -> Any:
    for argument in getattr(annotation, "__args__", ()):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument
    return annotation


def problem_of(error: ErrorDetails, model: type[BaseModel]) -> Problem:
    """One error of pydantic in GRAF's words."""
    location, context = error["loc"], error.get("ctx", {})
    field = path_of(location)
    if error["type"] == "graf_rule":
        inner = str(context["field"])
        return Problem(f"{field}.{inner}" if field else inner, str(context["cause"]), str(context["fix"]))
    if error["type"] == "extra_forbidden":
        holder = _model_at(model, location)
        known = sorted(f.alias or n for n, f in holder.model_fields.items()) if holder else []
        return Problem(field, "unknown field", f"remove it; known here: {', '.join(known) or 'nothing'}")
    if error["type"] == "missing":
        holder = _model_at(model, location)
        info = (
            next((f for n, f in holder.model_fields.items() if location[-1] in (n, f.alias)), None) if holder else None
        )
        return Problem(field, "is required", f"add it: {info.description if info and info.description else field}")
    if error["type"] == "literal_error":
        return Problem(field, f"{error['input']!r} is not allowed", f"use {context['expected']}")
    if error["type"] == "string_pattern_mismatch":
        return Problem(field, f"{error['input']!r} does not match {context['pattern']}", "write it in that form")
    shown = repr(error["input"])
    return Problem(
        field,
        f"{shown if len(shown) < 80 else shown[:77] + '...'}: {error['msg']}",
        "see docs/reference/api.md for what is allowed here",
    )


def parse_object(document: Any) -> tuple[Resource | None, list[Problem]]:
    """One object of this API, or what is wrong with it."""
    if not isinstance(document, dict):
        return None, [Problem("", "is not an object", "write apiVersion, kind, metadata and spec")]
    kind = document.get("kind")
    if document.get("apiVersion") != API_VERSION:
        return None, [Problem("apiVersion", f"{document.get('apiVersion')!r} is unknown here", f"use {API_VERSION}")]
    model = BY_KIND.get(kind) if isinstance(kind, str) else None
    if model is None:
        return None, [Problem("kind", f"{kind!r} is unknown", f"use one of {', '.join(sorted(BY_KIND))}")]
    try:
        resource = model.model_validate(document)
    except ValidationError as error:
        return None, [problem_of(detail, model) for detail in error.errors(include_url=False)]
    return resource, namespace_problems(resource)


def namespace_problems(resource: Resource) -> list[Problem]:
    """GRAF's objects live in one namespace; cluster-scoped ones in none."""
    namespace = resource.metadata.namespace
    if resource.namespaced and namespace not in (None, NAMESPACE):
        return [Problem("metadata.namespace", f"{namespace} is not read by GRAF", f"use {NAMESPACE} or leave it out")]
    if not resource.namespaced and namespace is not None:
        return [Problem("metadata.namespace", f"a {resource.kind_name} is cluster-scoped", "leave it out")]
    return []


def from_cluster(document: Mapping[str, Any]) -> tuple[Resource | None, list[Problem]]:
    """An object as the API server returns it. Its status is not read: only the manager writes it."""
    return parse_object({key: value for key, value in document.items() if key != "status"})

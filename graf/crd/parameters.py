"""Checks a component's parameters against its DriverClass' schema: a subset of OpenAPI v3. Pure.

The driver checks again what only it can know (`Component.Validate`); this check is what lets a commit be refused
before anything of it is applied. A keyword outside of the subset is itself a problem: a check that would be
skipped silently is no check.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from graf.crd.base import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
}
NOTES = frozenset({"description", "default", "title", "format", "example"})
CHECKS = frozenset(
    {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
    }
)


def schema_problems(schema: Mapping[str, Any], field: str = "spec.parametersSchema") -> list[Problem]:
    """What is wrong with a schema itself: keywords outside of the subset, an unknown type, a bad pattern."""
    return list(_schema(schema, field))


def _schema(schema: Any, field: str) -> Iterator[Problem]:
    if not isinstance(schema, dict):
        yield Problem(field, "a schema must be an object", "write type, properties, required ...")
        return
    for word in sorted(set(schema) - NOTES - CHECKS):
        yield Problem(
            f"{field}.{word}", f"the keyword {word} is not supported", "use only " + ", ".join(sorted(CHECKS))
        )
    if schema and schema.get("type") not in TYPES:
        yield Problem(f"{field}.type", f"{schema.get('type')!r} is not a type", "use one of " + ", ".join(TYPES))
    try:
        re.compile(schema.get("pattern", ""))
    except (re.error, TypeError):
        yield Problem(f"{field}.pattern", "is not a regular expression", "write a valid pattern")
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        yield Problem(f"{field}.properties", "must be an object", "write one schema for each name")
        return
    for name, child in properties.items():
        yield from _schema(child, f"{field}.properties.{name}")
    if "items" in schema:
        yield from _schema(schema["items"], f"{field}.items")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from _schema(schema["additionalProperties"], f"{field}.additionalProperties")


def parameter_problems(schema: Mapping[str, Any], value: Any, field: str) -> list[Problem]:
    """What is wrong with a value by a schema that has no problems itself."""
    return list(_value(schema, value, field)) if schema else []


def _value(schema: Mapping[str, Any], value: Any, field: str) -> Iterator[Problem]:
    wanted = schema["type"]
    wrong_bool = isinstance(value, bool) and wanted in ("integer", "number")
    if wrong_bool or not isinstance(value, TYPES[wanted]):
        yield Problem(field, f"{value!r} is not of type {wanted}", f"write {_article(wanted)}")
        return
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(str(item) for item in schema["enum"])
        yield Problem(field, f"{value!r} is not allowed", f"use one of {allowed}")
    if isinstance(value, dict):
        yield from _object(schema, value, field)
    elif isinstance(value, list):
        yield from _range(schema, len(value), field, "minItems", "maxItems", "items")
        for index, item in enumerate(value):
            yield from _value(schema.get("items", {"type": "object"}), item, f"{field}[{index}]")
    elif isinstance(value, str):
        yield from _range(schema, len(value), field, "minLength", "maxLength", "characters")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield Problem(field, f"{value!r} does not match {schema['pattern']}", "write it in that form")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _range(schema, value, field, "minimum", "maximum", "")


def _object(schema: Mapping[str, Any], value: Mapping[str, Any], field: str) -> Iterator[Problem]:
    properties = schema.get("properties", {})
    extra = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            hint = properties.get(name, {}).get("description", "")
            yield Problem(f"{field}.{name}", "is required", f"add it{': ' + hint if hint else ''}")
    for name, item in value.items():
        if name in properties:
            yield from _value(properties[name], item, f"{field}.{name}") if properties[name] else ()
        elif extra is False:
            yield Problem(
                f"{field}.{name}", "is not a parameter of this driver", "use one of " + ", ".join(sorted(properties))
            )
        elif isinstance(extra, dict) and extra:
            yield from _value(extra, item, f"{field}.{name}")


def _range(schema: Mapping[str, Any], number: float, field: str, low: str, high: str, unit: str) -> Iterator[Problem]:
    what = f"{number} {unit}".strip()
    if low in schema and number < schema[low]:
        yield Problem(field, f"{what} is less than {schema[low]}", f"use at least {schema[low]}")
    if high in schema and number > schema[high]:
        yield Problem(field, f"{what} is more than {schema[high]}", f"use at most {schema[high]}")


def _article(type_name: str) -> str:
    return f"{'an' if type_name[0] in 'aeio' else 'a'} {type_name}"

"""From a pydantic model to the structural OpenAPI schema of a CRD. Pure.

A structural schema (Kubernetes, "Specifying a structural schema") has a type at every node, no `$ref`, no
`anyOf` that adds structure, and never both `properties` and `additionalProperties`. Unknown fields are pruned by
the API server (kubectl refuses them before); in Git they are refused by the models themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graf.crd.base import API_VERSION, GROUP, VERSION, Column, Model, Resource

if TYPE_CHECKING:
    from collections.abc import Mapping

JsonObject = dict[str, Any]

KEPT_KEYS = (
    "description",
    "type",
    "format",
    "enum",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)
FREE_OBJECT: JsonObject = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


class NotStructuralError(Exception):
    """A model that no structural schema can express; a mistake of this package, not of an operator."""


def _models(model: type[Model]) -> dict[str, type[Model]]:
    """Every model that the given one is made of, by the name that pydantic gives its definition."""
    found: dict[str, type[Model]] = {}
    waiting: list[Any] = [model]
    while waiting:
        annotation = waiting.pop()
        waiting.extend(getattr(annotation, "__args__", ()))
        if isinstance(annotation, type) and issubclass(annotation, Model) and annotation.__name__ not in found:
            found[annotation.__name__] = annotation
            waiting.extend(field.annotation for field in annotation.model_fields.values())
    return found


class _Structural:
    """One conversion. `defaults` is off for a status: only its writer says what is in it."""

    def __init__(self, model: type[Model], *, defaults: bool) -> None:
        source = model.model_json_schema(by_alias=True, mode="validation")
        self.definitions: Mapping[str, JsonObject] = source.get("$defs", {})
        self.root = source
        self.models = _models(model)
        self.defaults = defaults

    def convert(self) -> JsonObject:
        return self.node(self.root, self.root["title"], "")

    def node(self, source: Mapping[str, Any], model_name: str, path: str) -> JsonObject:
        """One node; `source` may be a reference or an optional."""
        outer = {key: value for key, value in source.items() if key not in ("$ref", "anyOf", "allOf")}
        if "anyOf" in source:
            variants = [variant for variant in source["anyOf"] if variant.get("type") != "null"]
            if len(variants) != 1:
                raise NotStructuralError(f"{model_name}{path}: a choice of types has no structural schema")
            return self.node({**variants[0], **outer}, model_name, path)
        if "$ref" in source:
            name = source["$ref"].rsplit("/", 1)[-1]
            return self.node({**self.definitions[name], **outer}, name, "")
        return self.plain(source, model_name, path)

    def plain(self, source: Mapping[str, Any], model_name: str, path: str) -> JsonObject:
        """A node without references: an object, a map, a list or a scalar."""
        if "const" in source:
            source = {**source, "enum": [source["const"]]}
        if "type" not in source:
            raise NotStructuralError(f"{model_name}{path}: no type")
        target: JsonObject = {key: source[key] for key in KEPT_KEYS if key in source}
        if target["type"] == "integer":
            target["format"] = "int64"
        if target["type"] == "number":
            target["format"] = "double"
        if target["type"] == "array":
            target["items"] = self.node(source["items"], model_name, f"{path}[]")
            # A description of the items' type repeated at each list says nothing about the list.
            target["items"].pop("description", None)
        if target["type"] == "object":
            self.fill_object(target, source, model_name, path)
        return target

    def fill_object(self, target: JsonObject, source: Mapping[str, Any], model_name: str, path: str) -> None:
        if "properties" not in source:
            values = source.get("additionalProperties", True)
            if values is True:
                target.update(FREE_OBJECT)
            else:
                target["additionalProperties"] = self.node(values, model_name, f"{path}{{}}")
            return
        required = source.get("required", [])
        target["properties"] = {
            name: self.with_default(self.node(child, model_name, f"{path}.{name}"), child, name in required)
            for name, child in source["properties"].items()
        }
        if required:
            target["required"] = list(required)
        model = self.models.get(model_name)
        if model is not None and model.cel:
            target["x-kubernetes-validations"] = [rule.as_schema() for rule in model.cel]

    def with_default(self, target: JsonObject, source: Mapping[str, Any], required: bool) -> JsonObject:
        """Adds the field's default, so that a stored object shows what is in force."""
        if not self.defaults or required:
            return target
        if source.get("default") is not None:
            target["default"] = source["default"]
        elif "anyOf" in source:
            pass  # absent means "not set", which is a value of its own
        elif target["type"] == "array":
            target["default"] = []
        elif target["type"] == "object" and "required" not in target:
            target["default"] = _whole_default(target)
        return target


def _whole_default(schema: JsonObject) -> JsonObject:
    """Default of an object with the defaults of its fields in it.

    The API server evaluates the rules of a default before it fills the fields in, so that `{}` breaks them.
    """
    return {name: child["default"] for name, child in schema.get("properties", {}).items() if "default" in child}


def structural(model: type[Model], *, defaults: bool = True) -> JsonObject:
    """The structural schema of a model.

    Raises:
        NotStructuralError: the model uses something that no structural schema can express.
    """
    schema = _Structural(model, defaults=defaults).convert()
    check_structural(schema, model.__name__)
    return schema


def check_structural(schema: Mapping[str, Any], path: str) -> None:
    """Raises NotStructuralError where the API server would refuse the schema as not structural."""
    for word in ("$ref", "anyOf", "oneOf", "allOf", "not", "title", "const", "exclusiveMinimum", "prefixItems"):
        if word in schema:
            raise NotStructuralError(f"{path}: {word} is not allowed")
    if "type" not in schema:
        raise NotStructuralError(f"{path}: no type")
    if "properties" in schema and "additionalProperties" in schema:
        raise NotStructuralError(f"{path}: properties beside additionalProperties")
    if schema["type"] == "array" and "items" not in schema:
        raise NotStructuralError(f"{path}: a list without items")
    for key in schema.get("x-kubernetes-list-map-keys", ()):
        if key not in schema["items"].get("required", ()):
            raise NotStructuralError(f"{path}: the map key {key} is not required")
    for name in schema.get("required", ()):
        if name not in schema["properties"]:
            raise NotStructuralError(f"{path}: required {name} is not a property")
    for name, child in schema.get("properties", {}).items():
        check_structural(child, f"{path}.{name}")
    if isinstance(schema.get("additionalProperties"), dict):
        check_structural(schema["additionalProperties"], f"{path}{{}}")
    if "items" in schema:
        check_structural(schema["items"], f"{path}[]")


def _column(column: Column) -> JsonObject:
    out: JsonObject = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    if column.description:
        out["description"] = column.description
    if column.priority:
        out["priority"] = column.priority
    return out


def _part(kind: type[Resource], field: str) -> JsonObject:
    info = kind.model_fields[field]
    candidates = [info.annotation, *getattr(info.annotation, "__args__", ())]
    model = next(c for c in candidates if isinstance(c, type) and issubclass(c, Model))
    schema = structural(model, defaults=field == "spec")
    schema["description"] = info.description
    if field == "spec" and not info.is_required():
        schema["default"] = _whole_default(schema)
    return schema


def crd(kind: type[Resource]) -> JsonObject:
    """The CustomResourceDefinition of a kind."""
    required = ["spec"] if kind.model_fields["spec"].is_required() else []
    schema: JsonObject = {
        "description": (kind.__doc__ or "").strip(),
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": _part(kind, "spec"),
            "status": _part(kind, "status"),
        },
        **({"required": required} if required else {}),
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{kind.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "graf"},
        },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": kind.kind_name,
                "listKind": f"{kind.kind_name}List",
                "plural": kind.plural,
                "singular": kind.kind_name.lower(),
                "shortNames": list(kind.short_names),
                "categories": ["graf"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [_column(column) for column in kind.columns],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


__all__ = ["API_VERSION", "NotStructuralError", "check_structural", "crd", "structural"]

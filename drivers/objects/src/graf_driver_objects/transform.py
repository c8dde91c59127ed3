"""What a site changes of the objects that it receives. Pure; the receiving site's own parameters decide."""

from __future__ import annotations

import base64
import binascii
import functools
from typing import Any

import jsonpatch
import jsonpointer
from jsonpath_ng.parser import parse

from graf_driver_objects.model import Generation, Manifest, Ref, normalise
from graf_driver_objects.parameters import Rule, Transform


class TransformError(ValueError):
    """A transformation does not fit an object; the message has no content of the object."""


def local_ref(ref: Ref, transform: Transform) -> Ref:
    """What the object is called here."""
    return Ref(ref.api_version, ref.kind, transform.namespaces.get(ref.namespace, ref.namespace), ref.name)


def localise(generation: Generation, transform: Transform) -> tuple[dict[Ref, Manifest], set[Ref], dict[Ref, str]]:
    """A generation in this site's terms.

    Returns:
        The wanted objects, the deleted ones, and, for each object that a transformation does not fit, why: such an
        object is neither applied nor deleted.
    """
    wanted: dict[Ref, Manifest] = {}
    failed: dict[Ref, str] = {}
    for ref, manifest in generation.objects.items():
        here = local_ref(ref, transform)
        try:
            wanted[here] = apply(manifest, transform)
        except TransformError as error:
            failed[here] = str(error)
    deleted = {local_ref(ref, transform) for ref in generation.tombstones}
    return wanted, deleted - set(wanted) - set(failed), failed


def apply(manifest: Manifest, transform: Transform) -> Manifest:
    """One object in this site's terms; the given one is not changed.

    Raises:
        TransformError: a patch or a path does not fit it.
    """
    try:
        return _applied(normalise(manifest), transform)
    except TransformError:
        raise
    except (
        Exception
    ) as error:  # of the libraries, or of what a rule has made of it: one object's matter, and no other's
        raise TransformError(
            f"a transformation does not fit it ({type(error).__name__}); correct the parameter transform"
        ) from None


def _applied(result: Manifest, transform: Transform) -> Manifest:
    ref = Ref.of(result)
    if ref.namespace in transform.namespaces:
        result["metadata"]["namespace"] = transform.namespaces[ref.namespace]
    for path in transform.strip:
        _parsed(path).filter(lambda _: True, result)
    for rule in transform.rules:
        if rule.kind in ("", ref.kind) and rule.name in ("", ref.name):
            result = _patched(result, rule) if rule.patch else _substituted(result, rule)
    if Ref.of(result) != local_ref(ref, transform):
        raise TransformError("a transformation changes what the object is; correct the parameter transform")
    for name in ("labels", "annotations"):
        if not isinstance(result["metadata"].get(name, {}), dict):
            raise TransformError(f"a transformation makes its {name} no mapping; correct the parameter transform")
    return result


def _patched(manifest: Manifest, rule: Rule) -> Manifest:
    try:
        patched: Manifest = jsonpatch.JsonPatch([dict(operation) for operation in rule.patch]).apply(manifest)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException) as error:
        raise TransformError(
            f"the patch in the parameter transform.patches for kind {rule.kind or 'any'} does not fit it "
            f"({type(error).__name__}); correct its paths"
        ) from None
    return patched


def _substituted(manifest: Manifest, rule: Rule) -> Manifest:
    """A Secret's `data` is base64: the text is replaced inside of what it stands for."""
    encoded = manifest["apiVersion"] == "v1" and manifest["kind"] == "Secret" and rule.path.startswith("$.data")

    def replaced(value: Any, _data: Any, _field: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not encoded:
            return value.replace(rule.find, rule.replace)
        try:
            plain = base64.b64decode(value, validate=True)
        except binascii.Error:
            return value
        return base64.b64encode(plain.replace(rule.find.encode(), rule.replace.encode())).decode()

    result: Manifest = _parsed(rule.path).update(manifest, replaced)
    return result


@functools.lru_cache(maxsize=256)
def _parsed(path: str) -> Any:
    return parse(path)

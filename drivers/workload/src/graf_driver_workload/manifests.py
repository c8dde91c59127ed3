"""Manifests: what kustomize makes of the component's source and this site's overrides, checked before it is used."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import yaml
from graf_driver_sdk.errors import DriverError, PreconditionError
from graf_driver_sdk.types import ComponentKey

from graf_driver_workload import names
from graf_driver_workload.api import KubeApi, Object
from graf_driver_workload.parameters import Kind, Parameters

KUBECTL_VARIABLE: Final = "GRAF_WORKLOAD_KUBECTL"
_PATIENCE_S: Final = 20
_MATCHED: Final = names.PREFIX + "matched-by-override-"
# They run pods and have no scale, so they cannot be held at zero; or they are never the driver's to remove.
_REFUSED: Final = {
    "Pod": "it has no scale",
    "DaemonSet": "it has no scale",
    "Job": "it has no scale",
    "CronJob": "it has no scale",
    "ReplicaSet": "a Deployment makes it",
    "Secret": "a component's parameters are no place for secrets: use the objects driver, or an operator for secrets",
}


class ManifestError(PreconditionError):
    """The manifests cannot be used; nothing was changed."""

    reason = "manifests"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object as it is to be; `replicas` is None where the kind has no scale."""

    kind: Kind
    name: str
    body: Mapping[str, Any]
    replicas: int | None


@dataclass(frozen=True, slots=True)
class Manifests:
    """All of them, in kustomize's order, and a digest of them."""

    items: tuple[Manifest, ...]
    digest: str


def manifests(api: KubeApi, key: ComponentKey, parameters: Parameters) -> Manifests:
    """Renders and checks.

    Raises:
        ManifestError: kustomize refuses, or an object is not the driver's to make.
        DriverError: kubectl is missing or hangs.
    """
    rendered = render(parameters)
    try:
        documents = [document for document in yaml.safe_load_all(rendered) if document]
    except yaml.YAMLError as error:
        raise ManifestError(f"the output of kustomize is no YAML: {error}") from error
    items = tuple(_manifest(api, key, parameters.namespace, document) for document in documents)
    if all(item.replicas is None for item in items):
        raise ManifestError("the manifests hold nothing that has a scale, so there is nothing to run; add a workload")
    return Manifests(items, hashlib.sha256(rendered.encode()).hexdigest()[:16])


def check_overrides(parameters: Parameters) -> None:
    """Kustomize says nothing of a target that no object has: the site would go on without its patch. For Validate.

    No role depends on it: what matches nothing today was perhaps made for a manifest of tomorrow.

    Raises:
        ManifestError: which override, and its target.
    """
    overrides = parameters.overrides
    marked = [patch for number, one in enumerate(overrides) for patch in (*_mark(number, one), one)]
    try:
        together = render(replace(parameters, overrides=tuple(marked)))
    except ManifestError:  # a patch that tests for what a mark has changed: each mark is looked at by itself
        together = ""
    for number, one in enumerate(overrides):
        mark = _mark(number, one)
        if not mark or _name(number) in together:
            continue
        # A later patch may have taken the mark away, or the whole object: then it shows without the later ones.
        if _name(number) not in render(replace(parameters, overrides=(*overrides[:number], *mark))):
            words = ", ".join(f"{key} {value}" for key, value in one["target"].items())
            raise ManifestError(f"overrides[{number}] patches nothing: no object has {words}; correct its target")


def _name(number: int) -> str:
    return f"{_MATCHED}{number}:"


def _mark(number: int, override: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """A patch that marks what the override chooses, to be put just before it; none for one that has no target."""
    if not override.get("target"):
        return ()
    metadata = {"name": "any", "annotations": {_name(number).removesuffix(":"): "yes"}}
    patch = json.dumps({"apiVersion": "v1", "kind": "Any", "metadata": metadata})
    return ({"target": override["target"], "patch": patch},)


def render(parameters: Parameters) -> str:
    """What kustomize makes of the source and the overrides, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="graf-workload-") as directory:
        work = Path(directory).resolve()
        if parameters.manifests is not None:
            (work / "manifests.yaml").write_text(parameters.manifests)
            source = "manifests.yaml"
        else:
            source = _folder(work, str(parameters.kustomization))
        (work / "kustomization.yaml").write_text(
            json.dumps(
                {
                    "apiVersion": "kustomize.config.k8s.io/v1beta1",
                    "kind": "Kustomization",
                    "namespace": parameters.namespace,
                    "resources": [source],
                    "patches": [dict(override) for override in parameters.overrides],
                }
            )
        )
        return _kustomize(work)


def _folder(work: Path, source: str) -> str:
    folder = Path(source)
    if not folder.is_dir():
        raise ManifestError(f"the kustomization {source} is no folder in the driver's container; mount it there")
    return os.path.relpath(folder.resolve(), work)


def _kustomize(work: Path) -> str:
    program = os.environ.get(KUBECTL_VARIABLE) or "kubectl"
    try:
        done = subprocess.run(
            [program, "kustomize", str(work)],
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(work)},
        )
    except FileNotFoundError as error:
        raise DriverError(
            f"{program} is missing, and kustomize is a part of it; install it or set {KUBECTL_VARIABLE}",
            reason="no-kubectl",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DriverError(f"{program} kustomize did not end: {type(error).__name__}", reason="no-kubectl") from error
    if done.returncode != 0:
        said = done.stderr.replace(str(work), "").strip().removeprefix("error: ")
        raise ManifestError(f"kustomize refuses the manifests or an override: {said[:600]}; correct it")
    return done.stdout


def _manifest(api: KubeApi, key: ComponentKey, namespace: str, document: Any) -> Manifest:
    try:
        kind, name = Kind(str(document["apiVersion"]), str(document["kind"])), str(document["metadata"]["name"])
    except (KeyError, TypeError) as error:
        raise ManifestError("a document has no apiVersion, kind or metadata.name; add it") from error
    title = f"{kind.kind}/{name}"
    if (why := _REFUSED.get(kind.kind)) is not None:
        raise ManifestError(f"{title} cannot be used here: {why}")
    resource = api.resource(kind)
    if not resource.namespaced:
        raise ManifestError(f"{title} is not of a namespace, and so not the driver's to make; install it by itself")
    metadata, spec = document["metadata"], {} if document.get("spec") is None else document["spec"]
    if metadata.get("namespace", namespace) != namespace:
        raise ManifestError(f"{title} is for namespace {metadata['namespace']}, not {namespace}; correct one of them")
    if not isinstance(metadata.get("labels") or {}, dict) or (resource.has_scale and not isinstance(spec, dict)):
        raise ManifestError(f"the labels or the spec of {title} are no mapping; correct the manifests or an override")
    labels = {
        **(metadata.get("labels") or {}),
        names.COMPONENT: names.component_label(key),
        names.APPLIED: "true",
    }
    body: Object = {**document, "metadata": {**metadata, "namespace": namespace, "labels": labels}}
    return Manifest(kind, name, body, _replicas(title, spec) if resource.has_scale else None)


def _replicas(title: str, spec: Mapping[str, Any]) -> int:
    value = spec.get("replicas")
    if value is None:  # left out, or without a value: the API server's default
        return 1
    if isinstance(value, str) and value.isascii() and value.isdigit():  # in quotes, as templates make it
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1 != 0:
        raise ManifestError(f"replicas of {title} is {value!r}; give a whole number, from 0")
    return int(value)


def titles(items: Sequence[Manifest]) -> str:
    """For people."""
    return ", ".join(f"{item.kind.kind}/{item.name}" for item in items)

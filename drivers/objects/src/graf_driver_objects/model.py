"""Objects, generations and positions as values. Pure.

A *generation* is everything that was chosen at the active at one moment, complete, under a number that only rises and
the epoch of the active that made it. It also carries *tombstones*: what was seen to be deleted. Whatever is neither in
the generation nor under a tombstone is left alone at the standby: absence is no evidence.
"""

from __future__ import annotations

import copy
import functools
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

Manifest = dict[str, Any]

LABEL: Final = "objects.graf.dev/component"
ORIGIN: Final = "objects.graf.dev/origin"
# What the API server, the site's controllers or kubectl put there: it means nothing at another site.
_METADATA: Final = (
    "managedFields",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "ownerReferences",
    "finalizers",
)
_ANNOTATIONS: Final = (
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    ORIGIN,
)
# Kinds whose content nobody but people and pipelines writes: they are compared as a whole.
_EXACT: Final = ("ConfigMap", "Secret")
_POSITION: Final = re.compile(r"(\d{1,18})\.(\d{1,18})\.([0-9a-f]{32})")
MAX_GENERATION_BYTES: Final = 256 * 1024 * 1024


class GenerationError(ValueError):
    """What was received is not a whole generation."""


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Which object; `namespace` is empty for what has none."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {where}" if self.api_version == "v1" else f"{self.kind}.{self.api_version} {where}"

    @property
    def text(self) -> str:
        """As a name in the ledger."""
        return "|".join((self.api_version, self.kind, self.namespace, self.name))

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Ref:
        """Of a manifest."""
        metadata = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])

    @classmethod
    def parse(cls, text: str) -> Ref:
        """The inverse of `text`."""
        return cls(*text.split("|", 3))


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A generation: epoch of its maker, number, and digest of what it holds."""

    epoch: int = 0
    number: int = 0
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.epoch}.{self.number}.{self.digest}" if self.number else ""

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """None when `text` is no position."""
        found = _POSITION.fullmatch(text)
        return None if found is None else cls(int(found[1]), int(found[2]), found[3])

    def covers(self, other: Position) -> bool:
        """Whether everything up to `other` is in this generation. The same number with another digest is not."""
        if self.number == other.number:
            return self.digest == other.digest
        return (self.epoch, self.number) > (other.epoch, other.number) and self.number > other.number


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything chosen at the active, and what was deleted there."""

    site: str
    epoch: int
    number: int
    objects: Mapping[Ref, Manifest]
    tombstones: frozenset[Ref] = frozenset()

    @property
    def position(self) -> Position:
        """Its name."""
        return Position(self.epoch, self.number, digest_of(self.objects, self.tombstones))

    def encode(self) -> bytes:
        """As sent and as kept in the journal; the same generation gives the same bytes."""
        value = {
            "version": 1,
            "site": self.site,
            "position": str(self.position),
            "objects": [self.objects[ref] for ref in sorted(self.objects)],
            "tombstones": [ref.text for ref in sorted(self.tombstones)],
        }
        return gzip.compress(canonical(value), compresslevel=3, mtime=0)

    @classmethod
    def decode(cls, body: bytes) -> Generation:
        """Reads and proves a whole generation.

        Raises:
            GenerationError: a part is missing, or the digest is not that of the content.
        """
        try:
            inflate = zlib.decompressobj(wbits=31)
            text = inflate.decompress(body, MAX_GENERATION_BYTES)
            if not inflate.eof:
                raise GenerationError("it is cut off, or larger than 256 MiB")
            value = json.loads(text)
            if value["version"] != 1:
                raise GenerationError(f"its format {value['version']!r} is not known to this driver; upgrade this one")
            position = Position.parse(value["position"])
            objects = {Ref.of(manifest): manifest for manifest in value["objects"]}
            tombstones = frozenset(Ref.parse(text) for text in value["tombstones"])
            site = str(value["site"])
        except GenerationError:
            raise
        except (zlib.error, ValueError, KeyError, TypeError) as error:  # never the text: it can hold a Secret
            raise GenerationError(f"it cannot be read ({type(error).__name__})") from None
        if position is None:
            raise GenerationError("it has no position")
        generation = cls(site, position.epoch, position.number, objects, tombstones)
        if generation.position != position:
            raise GenerationError("its digest is not that of its content")
        return generation


def canonical(value: Any) -> bytes:
    """One text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: Any) -> str:
    """Of any JSON value, 32 hexadecimal digits."""
    return hashlib.sha256(canonical(value)).hexdigest()[:32]


def digest_of(objects: Mapping[Ref, Manifest], tombstones: Iterable[Ref]) -> str:
    """Of a generation's content."""
    return digest([[objects[ref] for ref in sorted(objects)], [ref.text for ref in sorted(tombstones)]])


def normalise(manifest: Mapping[str, Any]) -> Manifest:
    """What of an object means the same at every site: nothing that a server or a controller of one site put there."""
    result: Manifest = copy.deepcopy({name: value for name, value in manifest.items() if name != "status"})
    metadata = result.setdefault("metadata", {})
    for name in _METADATA:
        metadata.pop(name, None)
    for field, ours in (("labels", (LABEL,)), ("annotations", _ANNOTATIONS)):
        kept = {name: value for name, value in (metadata.pop(field, None) or {}).items() if name not in ours}
        if kept:
            metadata[field] = kept
    if result.get("kind") == "Service" and result.get("apiVersion") == "v1":
        _strip_service(result.get("spec") or {})
    return result


def _strip_service(spec: Manifest) -> None:
    if spec.get("clusterIP") != "None":  # headless is a wish, an address is this cluster's
        spec.pop("clusterIP", None)
        spec.pop("clusterIPs", None)
    spec.pop("healthCheckNodePort", None)
    for port in spec.get("ports") or []:
        port.pop("nodePort", None)


def is_exact(manifest: Mapping[str, Any]) -> bool:
    """Whether the kind is compared as a whole; others get defaults and additions of their site's controllers."""
    return manifest["apiVersion"] == "v1" and manifest["kind"] in _EXACT


def held_by(live: Mapping[str, Any]) -> str:
    """What an object waits for that is being deleted; "" when nobody has deleted it."""
    if "deletionTimestamp" not in live["metadata"]:
        return ""
    return ", ".join(live["metadata"].get("finalizers") or ()) or "its end"


def is_fixed(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the API server lets nobody change the one into the other: it has to be deleted and made anew."""
    if not is_exact(wanted):
        return False
    if live.get("type") != wanted.get("type"):
        return True
    return bool(live.get("immutable")) and any(
        (live.get(part) or None) != (wanted.get(part) or None) for part in ("data", "binaryData", "immutable")
    )


def is_hollow(live: Mapping[str, Any]) -> bool:
    """Whether it is an empty shell that waits to be filled: nothing of anybody's is lost when it is."""
    return is_exact(live) and not live.get("data") and not live.get("binaryData") and not live.get("immutable")


def matches(live: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the live object says what the wanted one says."""
    here, there = normalise(live), normalise(wanted)
    if is_exact(wanted):
        return {**here, "metadata": None} == {**there, "metadata": None} and _within(
            there["metadata"], here["metadata"]
        )
    return _within(there, here)


def differences(live: Any, wanted: Any, exact: bool, path: str = "") -> list[str]:
    """Paths (never values) that differ; with `exact`, also what only the live one has."""
    if isinstance(live, Mapping) and isinstance(wanted, Mapping):
        names = set(wanted) | (set(live) if exact and path != ".metadata" else set())
        below = (
            differences(live.get(n), wanted.get(n), exact and path != ".metadata", f"{path}.{n}") for n in sorted(names)
        )
        return [found for part in below for found in part]
    return [] if _within(wanted, live) else [path or "."]


def _within(wanted: Any, live: Any) -> bool:
    if isinstance(wanted, Mapping) and isinstance(live, Mapping):
        return all(name in live and _within(value, live[name]) for name, value in wanted.items())
    if isinstance(wanted, list) and isinstance(live, list):
        return len(wanted) == len(live) and all(map(_within, wanted, live))
    return bool(wanted == live)


def footprint(live: Mapping[str, Any], manager: str) -> str:
    """What tells later whether anybody touched the object: our fields for kinds with defaults, else the content.

    A field that somebody else changes leaves the set of fields that our manager owns (server-side apply).
    """
    if not is_exact(live):
        for entry in live.get("metadata", {}).get("managedFields") or []:
            if entry.get("manager") == manager and entry.get("operation") == "Apply":
                return "f:" + digest(entry.get("fieldsV1"))
    return content_of(live)


def content_of(live: Mapping[str, Any]) -> str:
    """The footprint of the content alone."""
    return "c:" + digest(normalise(live))


def untouched(live: Mapping[str, Any], base: str | None, manager: str) -> bool:
    """Whether the object is as it was when `base` was taken."""
    return base is not None and base in (content_of(live), footprint(live, manager))


@functools.lru_cache(maxsize=64)
def manager_of(group: str, component: str) -> str:
    """The field manager: at most 128 characters are allowed, two names of 63 and a prefix may be more."""
    name = f"graf-objects/{group}.{component}"
    return name if len(name) <= 128 else f"graf-objects/{digest([group, component])}"


def label_of(group: str, component: str) -> str:
    """Value of the label on what we applied; a label has at most 63 characters."""
    value = f"{group}.{component}"
    return value if len(value) <= 63 else digest([group, component])

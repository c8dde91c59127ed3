"""What differs between two manifests: a site that has the one before needs no more to know the new one. Pure."""

from __future__ import annotations

import json

from graf_driver_pv.manifest import Entry, Manifest, check_entries, to_json
from graf_driver_pv.position import Position


class OtherManifestError(ValueError):
    """What came of it is another manifest than the active site's: the whole one must be asked for."""


def checksum_of(content: bytes) -> str:
    """The checksum at the end of an encoded manifest."""
    return content.rstrip(b"\n").rpartition(b"\n")[2].decode()


def encode(base: Manifest, manifest: Manifest, checksum: str) -> bytes:
    """How `manifest` comes of `base`; `checksum` is the one at the end of its file."""
    old = base.entries
    told = manifest.header() | {
        "base": str(base.position),
        "changed": {path: entry for path, entry in manifest.entries.items() if old.get(path) != entry},
        "gone": [path for path in old if path not in manifest.entries],
        "checksum": checksum,
    }
    return to_json(told).encode()


def apply(content: bytes, base: Manifest) -> tuple[Manifest, bytes]:
    """The new manifest, and its file.

    Raises:
        OtherManifestError: it does not come of `base`, or is not what the active site has.
        ValueError: it makes no sense.
    """
    try:
        raw = json.loads(content)
        if raw["base"] != str(base.position):
            raise OtherManifestError(f"it comes of {raw['base']}, not of {base.position}")
        entries = dict(base.entries)
        changed = {path: Entry(*fields) for path, fields in raw["changed"].items()}
        for path in raw["gone"]:
            entries.pop(path, None)
        entries.update(changed)
        mode, uid, gid = raw["root"]
        manifest = Manifest(
            Position.parse(raw["position"]),
            {int(epoch): int(number) for epoch, number in raw["lineage"]},
            str(raw["consistency"]),
            int(raw["begunWallMs"]),
            entries,
            (int(mode), int(uid), int(gid)),
        )
        whole = manifest.encode(base)
        if checksum_of(whole) != raw["checksum"]:
            raise OtherManifestError(f"{manifest.position} is another one here than at the active site")
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"what changed in the manifest cannot be understood: {error!r}") from error
    before = [base.entries[path] for path in (*raw["gone"], *changed) if path in base.entries]
    # Below what was a folder there may be paths that did not change.
    check_entries(entries, entries if any(entry.kind == "d" for entry in before) else changed)
    return manifest, whole

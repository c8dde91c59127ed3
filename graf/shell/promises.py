"""A voter's promises on disk: one file per group."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.core.voter import Promise
from graf.shell.disk import sync_directory, write_durably

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 2
# Format 1 knew one voter list, which could not change.
READABLE = (1, FORMAT)


class PromiseStoreError(Exception):
    """A stored promise cannot be read; the voter must not vote until a person has looked."""


class PromiseStore:
    """Keeps promises; what `save` has returned for is on the disk."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        sync_directory(directory.parent)

    def load(self) -> dict[str, Promise]:
        """All stored promises by group.

        Raises:
            PromiseStoreError: a file is damaged. It is never taken for an absent one: a voter that forgets a
                promise could help two sites to be Active.
        """
        promises = {}
        for path in sorted(self._directory.glob("*.json")):
            try:
                promise = _decode(json.loads(path.read_bytes()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise PromiseStoreError(
                    f"{path} cannot be read as a promise ({error}); this voter will not vote. Restore the file, or "
                    f"remove it: the voter then abstains until it is admitted again as a new voter"
                ) from error
            promises[promise.group] = promise
        return promises

    def save(self, promise: Promise) -> None:
        """Writes and waits for the disk."""
        write_durably(self._directory / f"{promise.group}.json", json.dumps(_encode(promise)).encode())


def _encode(promise: Promise) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "group": promise.group,
        "epoch": promise.epoch,
        "site": promise.site,
        "ttl_ns": promise.ttl_ns,
        "voters": _encode_voters(promise.voters.current),
        "proposed_voters": _encode_voters(promise.voters.proposed) if promise.voters.proposed is not None else None,
        "proposed_in": promise.proposed_in,
        "set": {
            "epoch": promise.stored_set.version.epoch,
            "counter": promise.stored_set.version.counter,
            "members": sorted(promise.stored_set.members),
        },
        "released": promise.released,
        "successor": promise.successor,
        "never_won": promise.never_won,
        "unserved": promise.unserved,
        "entitled": sorted(promise.entitled),
    }


def _encode_voters(voters: VoterList) -> dict[str, Any]:
    return {
        "version": voters.version,
        "members": list(voters.members),
        "readmitted": sorted(voters.readmitted),
    }


def _decode(data: dict[str, Any]) -> Promise:
    if data["format"] not in READABLE:
        raise ValueError(f"format {data['format']} is not one of {', '.join(map(str, READABLE))}")
    stored = data["set"]
    proposed = data["proposed_voters"] if data["format"] > 1 else None
    return Promise(
        group=str(data["group"]),
        epoch=int(data["epoch"]),
        site=str(data["site"]),
        ttl_ns=int(data["ttl_ns"]),
        voters=Electorate(_decode_voters(data["voters"]), _decode_voters(proposed) if proposed is not None else None),
        stored_set=SyncSet(SetVersion(int(stored["epoch"]), int(stored["counter"])), frozenset(stored["members"])),
        released=bool(data["released"]),
        successor=str(data["successor"]),
        proposed_in=int(data["proposed_in"]) if data["format"] > 1 else 0,
        never_won=bool(data.get("never_won", False)),
        unserved=bool(data.get("unserved", False)),
        entitled=frozenset(data.get("entitled", ())),
    )


def _decode_voters(data: dict[str, Any]) -> VoterList:
    return VoterList(int(data["version"]), tuple(data["members"]), frozenset(data.get("readmitted", ())))

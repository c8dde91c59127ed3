"""What a component must remember at a site over a restart, on disk before anybody acts on it.

Files below `STATE/objects/GROUP_COMPONENT/`, all 0600 (the journal and the archive can hold Secrets):

- `ledger.json`: position, footprints of what was last common with the other site, tombstones;
- `journal.gz`: a generation that was received whole and is not yet applied;
- `archive/`: YAML of what was overwritten or deleted here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from graf_driver_sdk.epoch import DEFAULT_STATE_DIR, STATE_DIR_VARIABLE
from graf_driver_sdk.errors import PreconditionError

from graf_driver_objects.model import Generation, GenerationError, Position, Ref, digest

DIRECTORY_VARIABLE: Final = "GRAF_OBJECTS_STATE_DIR"
MAX_TOMBSTONES: Final = 20_000
# Of 255 bytes, with room for a digest and for what a name has beside it while it is written.
_LONGEST_FILE: Final = 200


class LedgerError(PreconditionError):
    """The ledger cannot be read or written: nothing is shipped or applied."""

    reason = "ledger"


@dataclass(frozen=True, slots=True)
class Ledger:
    """The durable facts.

    Attributes:
        position: newest generation made (active) or applied whole (standby).
        floor: the highest epoch of a generation or of a role seen here; a generation below it is refused.
        base: object -> footprint when it was last the same at both sites.
        tombstones: deleted, and not chosen again since; oldest first.
        left: objects of this site alone that a rebuild archived and left in place -> footprint.
        waiting: objects of the applied generation that a conflict kept from being applied.
    """

    position: Position = field(default_factory=Position)
    floor: int = 0
    base: Mapping[Ref, str] = field(default_factory=dict)
    tombstones: tuple[Ref, ...] = ()
    left: Mapping[Ref, str] = field(default_factory=dict)
    waiting: tuple[Ref, ...] = ()


def directory_of(group: str, component: str) -> Path:
    """The component's folder; names have no underscore, so two components never share one."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    root = Path(named) if named else Path(os.environ.get(STATE_DIR_VARIABLE) or DEFAULT_STATE_DIR, "objects")
    return root / f"{group}_{component}"


class Store:
    """The folder of one component. Thread-safe; `ledger` is always what the disk holds."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.RLock()
        self._ledger: Ledger | None = None

    @property
    def ledger(self) -> Ledger:
        """The durable facts; empty when there never were any.

        Raises:
            LedgerError: the file is there and cannot be trusted.
        """
        with self._lock:
            if self._ledger is None:
                self._ledger = self._read()
            return self._ledger

    def change(self, **changes: Any) -> Ledger:
        """Replaces fields, durably.

        Raises:
            LedgerError: the disk refuses; the old facts hold.
        """
        with self._lock:
            changed = dataclasses.replace(self.ledger, **changes)
            if changed != self._ledger:
                body = json.dumps(_encode(changed), sort_keys=True)
                self._write(self.directory / "ledger.json", f"{body}\n{zlib.crc32(body.encode()):08x}\n".encode())
                self._ledger = changed
            return changed

    def keep(self, generation: Generation) -> None:
        """Keeps a whole generation until it is applied."""
        with self._lock:
            self._write(self.directory / "journal.gz", generation.encode())

    def kept(self) -> Generation | None:
        """The generation that waits to be applied, if there is a whole one."""
        try:
            return Generation.decode((self.directory / "journal.gz").read_bytes())
        except FileNotFoundError:
            return None
        except GenerationError:
            return None  # torn by the disk: it was never told to be here, and the active has it
        except OSError as error:
            raise LedgerError(f"{self.directory}/journal.gz cannot be read: {error.strerror or error}") from error

    def release(self) -> None:
        """The kept generation is applied."""
        with self._lock:
            (self.directory / "journal.gz").unlink(missing_ok=True)

    def archive(self, manifests: Iterable[Mapping[str, Any]], why: str) -> str:
        """Writes objects as YAML before they are overwritten or deleted; the folder's path, empty for no objects."""
        listed = list(manifests)
        if not listed:
            return ""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        folder = self.directory / "archive" / f"{stamp}-{time.time_ns() % 1_000_000_000:09d}-{why}"
        for manifest in listed:
            content = yaml.safe_dump(dict(manifest), sort_keys=False).encode()
            self._write(folder / f"{_file_name(Ref.of(manifest))}.yaml", content)
        return str(folder)

    def _read(self) -> Ledger:
        path = self.directory / "ledger.json"
        try:
            body, checksum = path.read_text().splitlines()
            if checksum != f"{zlib.crc32(body.encode()):08x}":
                raise ValueError("the checksum does not fit")
            return _decode(json.loads(body))
        except FileNotFoundError:
            return Ledger()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LedgerError(
                f"{path} cannot be trusted ({error}), so nothing is shipped or applied here. Move it away: the site "
                f"then counts as one that never followed, and its objects are assessed before they are overwritten"
            ) from error

    def _write(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.new")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise LedgerError(
                f"{path} cannot be written: {error.strerror or error}; make room, or make the folder writable"
            ) from error


def _file_name(ref: Ref) -> str:
    """Names the object; with names near their longest it would be longer than a file's name may be."""
    parts = (ref.namespace, ref.kind, ref.name, ref.api_version.replace("/", "-"))
    name = "_".join(part for part in parts if part)
    return name if len(name) <= _LONGEST_FILE else f"{name[:_LONGEST_FILE]}_{digest(ref.text)}"


def _encode(ledger: Ledger) -> dict[str, Any]:
    return {
        "version": 1,
        "position": [ledger.position.epoch, ledger.position.number, ledger.position.digest],
        "floor": ledger.floor,
        "base": {ref.text: footprint for ref, footprint in ledger.base.items()},
        "tombstones": [ref.text for ref in ledger.tombstones],
        "left": {ref.text: footprint for ref, footprint in ledger.left.items()},
        "waiting": [ref.text for ref in ledger.waiting],
    }


def _decode(value: Mapping[str, Any]) -> Ledger:
    if value["version"] != 1:
        raise ValueError(f"version {value['version']!r} is not known to this driver")
    return Ledger(
        Position(*value["position"]),
        int(value["floor"]),
        {Ref.parse(text): footprint for text, footprint in value["base"].items()},
        tuple(Ref.parse(text) for text in value["tombstones"]),
        {Ref.parse(text): footprint for text, footprint in value["left"].items()},
        tuple(Ref.parse(text) for text in value["waiting"]),
    )

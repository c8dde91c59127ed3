"""EpochGuard: the highest epoch ever seen of each component, on disk before anybody acts on it.

It is the last line against a deposed controller: whoever comes with a lower epoch is refused, also after a restart.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from pathlib import Path
from typing import Final

from graf_driver_sdk.errors import EpochStateError, StaleEpochError
from graf_driver_sdk.kept import keep_room, replace_kept

STATE_DIR_VARIABLE: Final = "GRAF_DRIVER_STATE_DIR"
DEFAULT_STATE_DIR: Final = "/var/lib/graf/driver-state"


class EpochGuard:
    """Remembers the highest epoch of each (group, component) in a directory; safe to call from several threads.

    Invariants: what `highest` returns is on disk (file and directory synced) and never falls, within a process and
    across restarts; `admit` returns only when the disk holds an epoch at least as high as the one admitted. A file that
    cannot be read is never taken for "no epoch yet".
    """

    def __init__(self, directory: Path | str | None = None) -> None:
        """Uses `directory`, else GRAF_DRIVER_STATE_DIR, else /var/lib/graf/driver-state; made when first written."""
        self.directory = Path(directory or os.environ.get(STATE_DIR_VARIABLE) or DEFAULT_STATE_DIR)
        self._highest: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def path(self, group: str, component: str) -> Path:
        """The component's file. Names have no underscore, so two components never share one."""
        return self.directory / f"{group}_{component}.epoch"

    def highest(self, group: str, component: str) -> int:
        """The highest epoch ever admitted, 0 when none was. May read the disk at the first call for a component.

        Raises:
            EpochStateError: the file is there and cannot be trusted.
        """
        known = self._highest.get((group, component))
        if known is not None:
            return known
        with self._lock:
            return self._load(group, component)

    def known(self, group: str, component: str) -> int | None:
        """The highest epoch if it is in memory already; never touches the disk."""
        return self._highest.get((group, component))

    def admit(self, group: str, component: str, epoch: int) -> None:
        """Lets a call with this epoch pass, after making it durable when it is new. Blocks for the disk.

        Raises:
            StaleEpochError: a higher epoch was admitted before.
            EpochStateError: the epoch cannot be read from, or written to, the disk. Nothing may be done.
        """
        with self._lock:
            highest = self._load(group, component)
            self._compare(group, component, epoch, highest)
            if epoch > highest:
                try:
                    self._store(group, component, epoch)
                except OSError as error:
                    raise EpochStateError(
                        f"epoch {epoch} of {group}/{component} cannot be made durable in {self.directory}: "
                        f"{error.strerror or error}. Nothing was done; make the directory writable, then call again"
                    ) from error
                self._highest[group, component] = epoch

    def repair(self, group: str, component: str, epoch: int) -> None:
        """For people: replaces a file that cannot be trusted by an epoch that is known from elsewhere."""
        with self._lock:
            self._store(group, component, epoch)
            self._highest[group, component] = epoch

    def _compare(self, group: str, component: str, epoch: int, highest: int) -> None:
        if epoch < highest:
            raise StaleEpochError(
                f"epoch {epoch} of {group}/{component} is refused: this driver has seen epoch {highest}, so another "
                f"site has been chosen since. Nothing was done; read the group's status and decide anew",
                asked=epoch,
                highest=highest,
            )

    def _load(self, group: str, component: str) -> int:
        known = self._highest.get((group, component))
        if known is None:
            known = self._highest[group, component] = self._read(group, component)
        return known

    def _read(self, group: str, component: str) -> int:
        path = self.path(group, component)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise self._untrusted(path, group, component, error.strerror or str(error)) from error
        try:
            epoch = _decode(content, group, component)
        except (ValueError, KeyError, TypeError) as error:
            raise self._untrusted(path, group, component, str(error)) from error
        keep_room(path)
        return epoch

    @staticmethod
    def _untrusted(path: Path, group: str, component: str, cause: str) -> EpochStateError:
        return EpochStateError(
            f"the epoch of {group}/{component} in {path} cannot be trusted ({cause}), so no role may be changed here. "
            f"Look up the group's epoch with `graf status`, then run on this site: "
            f"python -m graf_driver_sdk.repair_epoch {path.parent} {group} {component} EPOCH, and restart the driver"
        )

    def _store(self, group: str, component: str, epoch: int) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_kept(self.path(group, component), _encode(group, component, epoch), self._sync)

    def _sync(self, descriptor: int) -> None:
        os.fsync(descriptor)


def _encode(group: str, component: str, epoch: int) -> bytes:
    body = json.dumps({"version": 1, "group": group, "component": component, "epoch": epoch}, sort_keys=True)
    return f"{body}\n{zlib.crc32(body.encode()):08x}\n".encode()


def _decode(content: bytes, group: str, component: str) -> int:
    lines = content.decode("ascii").splitlines()
    if len(lines) != 2:
        raise ValueError(f"{len(lines)} lines instead of 2")
    body, checksum = lines
    if checksum != f"{zlib.crc32(body.encode()):08x}":
        raise ValueError("the checksum does not fit")
    values = json.loads(body)
    if values["version"] != 1:
        raise ValueError(f"version {values['version']!r} is not known to this driver")
    if (values["group"], values["component"]) != (group, component):
        raise ValueError(f"it belongs to {values['group']}/{values['component']}")
    epoch = values["epoch"]
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise ValueError(f"{epoch!r} is no epoch")
    return epoch

"""Runs restic against one repository. Secrets are in files that restic reads, or in its environment: never in argv."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from graf_driver_sdk.blocking import run_blocking

from graf_driver_pv import copying
from graf_driver_pv.catalog import Lock
from graf_driver_pv.client import ClientError
from graf_driver_pv.copying import PullError
from graf_driver_pv.durable import replace_file
from graf_driver_pv.parameters import ALLOWED_PREFIXES, Repository

_SHORT_S: Final = 120.0  # for what sends or gets little
_REST_USER, _REST_PASSWORD = "RESTIC_REST_USERNAME", "RESTIC_REST_PASSWORD"
_LONGEST_TOLD = 300
_MARK: Final = "mark"
_MISSING: Final = re.compile("(?:does|do) not exist|no such file|not found|NoSuchKey", re.IGNORECASE)
_SPECIAL = "\\*?["


class RepositoryError(ClientError):
    """restic did not do what it was asked."""


class NoRepositoryError(RepositoryError):
    """Nobody has made one there yet, or what holds it is not mounted."""


class LockedError(RepositoryError):
    """Another process uses the repository."""


class IncompleteError(RepositoryError):
    """A snapshot was made that lacks something.

    Attributes:
        snapshot: its name.
    """

    def __init__(self, message: str, snapshot: str) -> None:
        super().__init__(message)
        self.snapshot = snapshot


class Restic:
    """One repository, as one site sees it.

    Args:
        repository: the site's own parameters.
        location: where the repository is; of the site that writes it.
        folder: for restic's cache and what must be remembered here.
        bandwidth_kib: limit in each direction, KiB/s; 0 for none.
    """

    def __init__(self, repository: Repository, location: str, folder: Path, bandwidth_kib: int = 0) -> None:
        self.repository = repository
        self.location = location
        self.folder = folder
        self._bandwidth_kib = bandwidth_kib

    # -- reading: takes no lock, so that a site that follows writes nothing ------------------------------------------

    async def snapshots(self, tags: str) -> list[dict[str, Any]]:
        """Snapshots with all of the tags (with commas between), as restic tells them."""
        said = await self._ask("snapshots", "--no-lock", "--json", "--tag", tags)
        found = _json(said)
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    async def dump(self, snapshot: str, path: str) -> bytes:
        """One file of a snapshot."""
        return await self._ask("dump", "--no-lock", snapshot, path)

    async def restore(self, snapshot: str, target: Path, paths: Iterable[str], locks: Iterable[int]) -> None:
        """Restores paths of a snapshot (all, when there are none) below a folder.

        Raises:
            PullError: not all of it came.
        """
        include = [word for path in paths for word in ("--include", escape(path))]
        try:
            await self._run(["restore", "--no-lock", snapshot, "--target", str(target), *include], locks=locks)
        except ClientError as error:
            raise PullError(str(error)) from error

    # -- writing: the active site only -----------------------------------------------------------------------------

    async def create(self) -> None:
        """Makes the repository."""
        await self._ask("init")

    async def backup(self, folder: Path, names: Sequence[str], tags: Sequence[str], host: str, parent: str) -> str:
        """Makes a snapshot of names in a folder.

        Args:
            folder: where they are.
            names: files and folders.
            tags: of the snapshot.
            host: told in it.
            parent: snapshot whose files, where they have the same inode, size and time here, are the same; "" when
                everything is to be read.

        Returns:
            The snapshot.

        Raises:
            IncompleteError: something could not be read.
        """
        known = ["--parent", parent, "--ignore-ctime"] if parent else ["--force"]
        command = ["backup", "--json", "--quiet", "--host", host, *known, *_tags(tags), "--", *names]
        return _snapshot_of(await self._run(command, folder=folder, may_lack=True))

    async def mark(self, tags: Sequence[str], host: str) -> str:
        """Makes a snapshot for its tags alone; restic makes none of nothing, so it has a file of a few bytes."""
        await run_blocking(self._write_mark)
        try:
            async with asyncio.timeout(_SHORT_S):
                return await self.backup(self.folder, [_MARK], tags, host, "")
        except TimeoutError as error:
            raise RepositoryError(f"restic backup: no answer within {_SHORT_S:g} s") from error

    def _write_mark(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.folder / _MARK
        if not path.exists():
            path.write_text("see the tags\n")

    async def forget(self, snapshots: Sequence[str]) -> None:
        """Takes snapshots away; what they held stays until `prune`.

        Raises:
            LockedError: another process uses the repository.
        """
        for begin in range(0, len(snapshots), 100):
            await self._ask("forget", "--quiet", *snapshots[begin : begin + 100])

    async def prune(self) -> None:
        """Deletes what no snapshot holds any more; nothing can be written meanwhile.

        Raises:
            LockedError: another process uses the repository.
        """
        await self._run(["prune", "--quiet"])

    async def locks(self) -> list[Lock]:
        """Every lock that is there."""
        found = []
        for name in (await self._ask("list", "locks", "--no-lock", "--quiet")).decode().split():
            with suppress(RepositoryError, KeyError, TypeError, ValueError):  # it is gone again
                raw = _json(await self._ask("cat", "lock", name, "--no-lock", "--quiet"))
                age_s = time.time() - datetime.fromisoformat(raw["time"]).timestamp()
                found.append(Lock(str(raw["hostname"]), int(raw["pid"]), bool(raw["exclusive"]), age_s))
        return found

    async def unlock(self, everything: bool) -> None:
        """Takes locks away: those that restic calls stale (its process here has ended, or none renewed it for 30
        minutes), or every one.
        """
        await self._ask("unlock", "--quiet", *(["--remove-all"] if everything else []))

    def former_hosts(self, here: str) -> set[str]:
        """Names that this volume's host had; notes down the present one before it can be in a lock. Blocking."""
        path = self.folder / "hosts"
        try:
            known = set(path.read_text().split())
        except FileNotFoundError:
            known = set()
        if here not in known:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(path, "\n".join(sorted(known | {here})).encode())
        return known

    # -- running ---------------------------------------------------------------------------------------------------

    async def _ask(self, *arguments: str) -> bytes:
        try:
            async with asyncio.timeout(_SHORT_S):
                return await self._run(arguments)
        except TimeoutError as error:
            raise RepositoryError(f"restic {arguments[0]}: no answer within {_SHORT_S:g} s") from error

    async def _run(
        self,
        arguments: Sequence[str],
        *,
        locks: Iterable[int] = (),
        folder: Path | None = None,
        may_lack: bool = False,
    ) -> bytes:
        command = ["restic", "--cache-dir", str(self.folder / "cache")]
        if self.repository.ca_file is not None:
            command += ["--cacert", str(self.repository.ca_file)]
        if self.repository.client_cert_file is not None:
            command += ["--tls-client-cert", str(self.repository.client_cert_file)]
        if self._bandwidth_kib:
            command += ["--limit-upload", str(self._bandwidth_kib), "--limit-download", str(self._bandwidth_kib)]
        secrets = await run_blocking(read_environment, self.repository.environment)
        environment = _environment(secrets, self.repository, self.location)
        # restic takes its lock away upon SIGINT; who has none need not be waited for.
        ask_to_end = signal.SIGKILL if "--no-lock" in arguments else signal.SIGINT
        code, said, told = await copying.run(
            [*command, *arguments], environment, locks=locks, folder=folder, ask_to_end=ask_to_end
        )
        if code == 0:
            return said
        text = _told(told, secrets.values())
        what = f"restic {arguments[0]} of {self.location}"
        if code == 3 and may_lack:
            raise IncompleteError(f"{what} could not read everything: {text[-_LONGEST_TOLD:]}", _snapshot_of(said))
        if "already locked" in text:
            raise LockedError(f"{what}: {text[-_LONGEST_TOLD:]}")
        # It asks whether there is one whenever it cannot read the first file, also when nobody answers.
        if "Is there a repository at" in text and _MISSING.search(text):
            raise NoRepositoryError(
                f"there is no repository at {self.location}: see that what holds it is mounted; make it once with "
                f"`restic init`, or give `repository.create: true`"
            )
        raise RepositoryError(f"{what} ended with {code}: {text[-_LONGEST_TOLD:]}")


def read_environment(folder: Path | None) -> dict[str, str]:
    """Variables out of a mounted Secret: each file is one. Blocking.

    Raises:
        RepositoryError: it cannot be read.
    """
    if folder is None:
        return {}
    found = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.name.startswith(ALLOWED_PREFIXES) and path.is_file():
                found[path.name] = path.read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise RepositoryError(f"{folder} cannot be read: {type(error).__name__}; mount the Secret there") from error
    return found


def _environment(secrets: Mapping[str, str], repository: Repository, location: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RESTIC_")}
    secrets = dict(secrets)
    user, password = secrets.pop(_REST_USER, ""), secrets.pop(_REST_PASSWORD, "")
    if location.startswith("rest:") and user:
        # Older restics know these only as a part of the address.
        scheme, _, rest = location.removeprefix("rest:").partition("://")
        location = f"rest:{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"
    own = {"RESTIC_REPOSITORY": location, "RESTIC_PASSWORD_FILE": str(repository.password_file), "TZ": "UTC"}
    return kept | secrets | own


def _told(told: bytes, secrets: Iterable[str]) -> str:
    """What restic said, without secrets."""
    text = " ".join(told.decode(errors="replace").split())
    for secret in secrets:
        for form in (secret, quote(secret, safe="")):
            if form:
                text = text.replace(form, "***")
    return text


def _json(said: bytes) -> Any:
    try:
        return json.loads(said)
    except ValueError as error:
        raise RepositoryError("restic's answer makes no sense") from error


def _snapshot_of(said: bytes) -> str:
    """The snapshot that a backup has made."""
    for line in reversed(said.splitlines()):
        with suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and answer.get("message_type") == "summary":
                return str(answer["snapshot_id"])
    raise RepositoryError("restic did not tell which snapshot it made")


def _tags(tags: Iterable[str]) -> list[str]:
    return [word for tag in tags for word in ("--tag", tag)]


def escape(path: str) -> str:
    """A path as a pattern that is only that path."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in path)

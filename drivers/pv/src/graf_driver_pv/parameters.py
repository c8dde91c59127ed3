"""The component's parameters: read once, checked completely, frozen. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from graf_driver_sdk.types import FieldProblem

_KNOWN: Final = (
    "directory", "endpoint", "listen", "tls", "mode", "intervalSeconds", "rpoSeconds", "quiesceSeconds", "keep",
    "bandwidthKiBps", "hooks", "repository",
)  # fmt: skip
_TLS: Final = ("caFile", "certFile", "keyFile", "name")
_HOOKS: Final = ("freeze", "thaw", "timeoutSeconds")
_REPOSITORY: Final = (
    "location", "passwordFile", "environment", "caFile", "clientCertFile", "create", "keep", "pollSeconds",
    "confirmSeconds", "pruneHours",
)  # fmt: skip
_BACKENDS: Final = ("rest:", "s3:", "sftp:", "rclone:", "azure:", "gs:", "b2:", "swift:")
_LATER: Final = ("volsync",)
ALLOWED_PREFIXES: Final = (
    "AWS_", "AZURE_", "B2_", "GOOGLE_", "OS_", "RCLONE_", "RESTIC_REST_", "SSH_AUTH_SOCK", "ST_",
)  # fmt: skip
"""Variables that a repository's backends read; no other is taken out of `repository.environment`."""


class Mode(StrEnum):
    """When a generation is made."""

    CONTINUOUS = "Continuous"  # when files changed, told by the kernel
    SCHEDULED = "Scheduled"  # every interval, found by comparing the whole tree


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of this site's identity, and the name in its certificate."""

    ca_file: Path
    cert_file: Path
    key_file: Path
    name: str


@dataclass(frozen=True, slots=True)
class Hooks:
    """Commands around the making of a generation; empty for none."""

    freeze: tuple[str, ...] = ()
    thaw: tuple[str, ...] = ()
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Repository:
    """A restic repository that generations go through, instead of from site to site.

    Attributes:
        location: as restic names it; where this site writes while it is active.
        password_file: its first line is the repository's password.
        environment: a folder whose files are variables for restic: the backend's credentials.
        ca_file: authority of the repository's server; None: those of the system.
        client_cert_file: this site's certificate and key for it, in one file.
        create: the active site makes the repository when there is none.
        keep: generations that are kept in it.
        poll_s: how often a site that follows looks.
        confirm_s: how often the active says that nothing is missing, while nothing changes.
        prune_h: how often what no snapshot holds is deleted; 0 for never.
    """

    location: str
    password_file: Path
    environment: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    create: bool = False
    keep: int = 10
    poll_s: float = 5.0
    confirm_s: float = 30.0
    prune_h: float = 24.0


@dataclass(frozen=True, slots=True)
class Parameters:
    """One site's parameters.

    Attributes:
        directory: the volume: `current` in it is what applications open.
        host: where the other sites reach this one when it is active, with `port`.
        listen_host: on which address it listens.
        interval_s: shortest time between generations (Continuous), or the period (Scheduled).
        rpo_s: what may be lost; a standby that may lack more does not call itself promotable.
        keep: complete generations that are kept.
        bandwidth_kib: limit of a copy, KiB/s; 0 for none.
        repository: where generations go through; None: from site to site. With it there is neither endpoint nor TLS
            identity (both are empty): the sites do not talk to each other.
    """

    directory: Path
    host: str
    port: int
    listen_host: str
    tls: Tls
    mode: Mode = Mode.CONTINUOUS
    interval_s: float = 1.0
    rpo_s: float = 60.0
    keep: int = 2
    bandwidth_kib: int = 0
    hooks: Hooks = Hooks()
    repository: Repository | None = None


class _Reader:
    """Collects problems while values are read."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.problems: list[FieldProblem] = []

    def problem(self, field: str, cause: str, fix: str) -> None:
        self.problems.append(FieldProblem(field, cause, fix))

    def unknown(self, prefix: str, raw: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for name in sorted(set(raw) - set(known)):
            if not prefix and name in _LATER:
                self.problem(
                    name, "only with mode volsync", "mode: volsync and nothing of another way, or leave it out"
                )
            else:
                self.problem(f"{prefix}{name}", "no such parameter", f"remove it; known are {', '.join(known)}")

    def path(self, field: str, value: Any) -> Path:
        if not isinstance(value, str) or not value.startswith("/") or "\n" in value or Path(value) == Path("/"):
            self.problem(field, f"{value!r} is no absolute path", "a path that begins with /")
            return Path("/")
        return Path(value)

    def text(self, field: str, value: Any) -> str:
        if not isinstance(value, str) or not value or any(c.isspace() for c in value):
            self.problem(field, f"{value!r} is no name", "a name without spaces")
            return ""
        return value

    def optional(self, prefix: str, raw: Mapping[str, Any], name: str) -> Path | None:
        return self.path(f"{prefix}{name}", raw[name]) if name in raw else None

    def number(
        self, field: str, low: float, high: float, default: float, raw: Mapping[str, Any] | None = None
    ) -> float:
        value = (self.raw if raw is None else raw).get(field.rsplit(".", 1)[-1], default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            self.problem(field, f"{value!r} is no number", f"a number from {low:g} to {high:g}")
            return float(default)
        if not low <= value <= high:
            self.problem(field, f"{value:g} is out of range", f"a number from {low:g} to {high:g}")
            return float(default)
        return float(value)

    def whole(self, field: str, low: int, high: int, default: int, raw: Mapping[str, Any] | None = None) -> int:
        value = self.number(field, low, high, default, raw)
        if not value.is_integer():
            self.problem(field, f"{value:g} is no whole number", f"a whole number from {low} to {high}")
        return int(value)

    def mapping(self, field: str) -> Mapping[str, Any]:
        value = self.raw.get(field, {})
        if not isinstance(value, Mapping):
            self.problem(field, f"{value!r} is no mapping", "see docs/reference/drivers/pv.md")
            return {}
        return value

    def command(self, field: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or any(not isinstance(word, str) for word in value):
            self.problem(field, f"{value!r} is no command", 'a list of words, e.g. ["/usr/bin/app-ctl", "freeze"]')
            return ()
        return tuple(value)


def parse(raw: Mapping[str, Any]) -> tuple[Parameters | None, list[FieldProblem]]:
    """Reads parameters as they come out of a protobuf Struct (every number a float).

    Returns:
        The parameters and no problem, or None and every problem that there is.
    """
    read = _Reader(raw)
    read.unknown("", raw, _KNOWN)
    directory = read.path("directory", raw.get("directory"))
    repository = _repository(read) if "repository" in raw else None
    host, port, identity = _direct(read) if repository is None else _no_direct(read)
    hooks = read.mapping("hooks")
    read.unknown("hooks.", hooks, _HOOKS)
    commands = Hooks(
        read.command("hooks.freeze", hooks.get("freeze", [])),
        read.command("hooks.thaw", hooks.get("thaw", [])),
        read.number("hooks.timeoutSeconds", 0.1, 600, 10, hooks),
    )
    mode = raw.get("mode", Mode.CONTINUOUS.value)
    if mode not in list(Mode):
        read.problem("mode", f"{mode!r} is no mode", f"one of {', '.join(Mode)}")
        mode = Mode.CONTINUOUS.value
    scheduled = mode == Mode.SCHEDULED
    # Of a repository restic is started for each generation, at both sites.
    interval_s, rpo_s = (300.0, 900.0) if scheduled else (1.0, 60.0) if repository is None else (10.0, 300.0)
    read.number("quiesceSeconds", 2, 60, 2)  # for the controllers
    parameters = Parameters(
        directory=directory,
        host=host,
        port=port,
        listen_host=read.text("listen", raw.get("listen", "0.0.0.0")),  # noqa: S104 - mutual TLS guards it
        tls=identity,
        mode=Mode(mode),
        interval_s=read.number("intervalSeconds", 0.1, 86_400, interval_s),
        rpo_s=read.number("rpoSeconds", 1, 604_800, rpo_s),
        keep=read.whole("keep", 1, 100, 2),
        bandwidth_kib=read.whole("bandwidthKiBps", 0, 2**31 - 1, 0),
        hooks=commands,
        repository=repository,
    )
    if parameters.mode is Mode.SCHEDULED and parameters.rpo_s <= parameters.interval_s:
        read.problem(
            "rpoSeconds",
            f"{parameters.rpo_s:g} s cannot be kept with a generation every {parameters.interval_s:g} s",
            "more than intervalSeconds",
        )
    if repository is not None and parameters.rpo_s <= repository.confirm_s + repository.poll_s:
        read.problem(
            "rpoSeconds",
            f"{parameters.rpo_s:g} s cannot be kept when the active confirms every {repository.confirm_s:g} s and the "
            f"others look every {repository.poll_s:g} s",
            "more than repository.confirmSeconds and repository.pollSeconds together",
        )
    return (None, read.problems) if read.problems else (parameters, [])


def _direct(read: _Reader) -> tuple[str, int, Tls]:
    """How the sites reach each other."""
    host, port = _endpoint(read, read.raw.get("endpoint"))
    tls = read.mapping("tls")
    read.unknown("tls.", tls, _TLS)
    identity = Tls(
        read.path("tls.caFile", tls.get("caFile")),
        read.path("tls.certFile", tls.get("certFile")),
        read.path("tls.keyFile", tls.get("keyFile")),
        read.text("tls.name", tls.get("name")),
    )
    return host, port, identity


def _no_direct(read: _Reader) -> tuple[str, int, Tls]:
    for name in ("endpoint", "listen", "tls"):
        if name in read.raw:
            read.problem(name, "of no use with `repository`: the sites do not talk to each other", "leave it out")
    return "", 0, Tls(Path("/"), Path("/"), Path("/"), "")


def _repository(read: _Reader) -> Repository:
    raw, at = read.mapping("repository"), "repository."
    read.unknown(at, raw, _REPOSITORY)
    location = read.text(f"{at}location", raw.get("location"))
    if location and not location.startswith(("/", *_BACKENDS)):
        read.problem(f"{at}location", f"{location!r} is no repository", f"a path, or {', '.join(_BACKENDS)} and more")
    _, _, address = location.partition("://")
    if "@" in address.partition("/")[0]:
        # The location is told in messages.
        read.problem(
            f"{at}location", "credentials do not belong into it", "put them into files of `repository.environment`"
        )
    create = raw.get("create", False)
    if not isinstance(create, bool):
        read.problem(f"{at}create", f"{create!r} is neither true nor false", "true or false")
    return Repository(
        location=location,
        password_file=read.path(f"{at}passwordFile", raw.get("passwordFile")),
        environment=read.optional(at, raw, "environment"),
        ca_file=read.optional(at, raw, "caFile"),
        client_cert_file=read.optional(at, raw, "clientCertFile"),
        create=create is True,
        keep=read.whole(f"{at}keep", 1, 1000, 10, raw),
        poll_s=read.number(f"{at}pollSeconds", 0.1, 86_400, 5.0, raw),
        confirm_s=read.number(f"{at}confirmSeconds", 0.1, 86_400, 30.0, raw),
        prune_h=read.number(f"{at}pruneHours", 0, 8760, 24.0, raw),
    )


def _endpoint(read: _Reader, value: Any) -> tuple[str, int]:
    host, _, port = str(value or "").rpartition(":")
    if not isinstance(value, str) or not host or not port.isdecimal() or not 0 < int(port) < 65536 or " " in value:
        read.problem("endpoint", f"{value!r} is no address", "where the other sites reach this one, HOST:PORT")
        return "", 0
    return host.strip("[]"), int(port)

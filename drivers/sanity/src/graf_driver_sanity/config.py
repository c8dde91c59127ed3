"""What a driver's author writes down: how to start the driver, what to give it, what must never show."""

from __future__ import annotations

import difflib
import importlib
import math
import os
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from dataclasses import field as made_by
from pathlib import Path
from typing import Any, Final

import yaml
from google.protobuf import struct_pb2
from graf_driver_sdk.listen import MAX_PATH_BYTES
from graf_driver_sdk.redact import SECRET_NAME, secrets_of
from graf_driver_sdk.tls import TlsFiles, TlsFilesError

from graf_driver_sanity.launch import Launcher
from graf_driver_sanity.registry import all_checks

# A Python hook: (site, value) -> what it found; raises when the component refused.
Hook = Callable[[str, str], Awaitable[str | None] | str | None] | tuple[str, ...]
HOOKS: Final = ("write", "read", "wipe", "break", "archived")
# A shorter text is found by accident.
_RECOGNISABLE: Final = 8
# A name that says where a secret is (a file, a Secret of Kubernetes): its value is none, and an error may well tell it.
_NAMES_ONE: Final = re.compile(
    r"(password|secret|token|key)s?[-_]?(file|path|directory|dir|name|ref)$|(password|token|key)s?[-_]?secret$",
    re.IGNORECASE,
)
_LONGEST_LEASE_S: Final = 55.0
_TOP: Final = ("name", "group", "component", "site", "peer", "peers", "invalid", "secrets", "hooks", "budget", "skip",
               "unreachable_peer", "second")  # fmt: skip
_SIDE: Final = ("name", "endpoint", "tls", "command", "environment", "parameters", "directory")
_TLS: Final = ("directory", "serverName")
_INVALID: Final = ("field", "change", "remove")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


class ConfigError(Exception):
    """The configuration cannot be used; the message says where, why, and what to write instead."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Mutual TLS of a driver at host:port.

    Attributes:
        directory: has `ca.crt`, `tls.crt` and `tls.key` of the kit, as a client that the driver takes.
        server_name: that the driver's certificate must have, e.g. `mysql.driver.graf.dev`.
    """

    directory: Path
    server_name: str


@dataclass(frozen=True, slots=True)
class Side:
    """One site: its name, its driver, its parameters.

    Attributes:
        endpoint: where the driver listens; "" lets the kit choose a unix socket and tell it in GRAF_DRIVER_SOCKET.
        command: starts the driver; () when it runs already, which leaves out all checks that kill it.
        environment: added to the kit's own.
        directory: the driver's working directory.
        launcher: Python only: starts and kills the driver instead of `command`.
        tls: how to reach an endpoint host:port that is served with TLS.
    """

    name: str
    endpoint: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = made_by(default_factory=dict)
    parameters: Mapping[str, Any] = made_by(default_factory=dict)
    directory: Path | None = None
    launcher: Launcher | None = None
    tls: Tls | None = None

    @property
    def startable(self) -> bool:
        """Whether the kit can start, kill and restart this driver."""
        return bool(self.command) or self.launcher is not None


@dataclass(frozen=True, slots=True)
class Invalid:
    """Parameters that cannot be used: a change of the good ones, and the field that the driver must name."""

    field: str
    change: Mapping[str, Any] = made_by(default_factory=dict)
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds that this driver may take; slow real components need more.

    Attributes:
        start_s: until a started driver answers GetInfo.
        transition_s: until a role is completed, over all calls.
        call_s: deadline of one call.
        status_s: deadline of GetStatus and of the first status of a watch.
        lease_s: length of the leases that the kit gives, at most 55.
        short_lease_s: length of a lease that a check lets end; longer than a promotion takes.
    """

    start_s: float = 20.0
    transition_s: float = 30.0
    call_s: float = 10.0
    status_s: float = 5.0
    lease_s: float = 50.0
    short_lease_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a run needs; see docs/how-to/check-a-driver.md."""

    site: Side
    name: str = "driver"
    group: str = "sanity"
    component: str = "thing"
    peer: Side | None = None
    peers: tuple[Side, ...] = ()
    invalid: tuple[Invalid, ...] = ()
    secrets: tuple[str, ...] = ()
    hooks: Mapping[str, Hook] = made_by(default_factory=dict)
    budget: Budget = Budget()
    skip: Mapping[str, str] = made_by(default_factory=dict)
    unreachable_peer: Mapping[str, Any] | None = None
    second: Mapping[str, Any] | None = None  # parameters of another component at the site, which shares nothing

    @property
    def all_secrets(self) -> tuple[str, ...]:
        """Those that are configured, and those that the contract calls secret by the parameter's name."""
        sides = (self.site, self.peer) if self.peer is not None else (self.site,)
        held = [_without_names_of_secrets(side.parameters) for side in sides]
        named = {text for parameters in held for text in secrets_of(parameters) if len(text) >= _RECOGNISABLE}
        return tuple(dict.fromkeys((*self.secrets, *sorted(named))))


def _without_names_of_secrets(value: Any) -> Any:
    """Parameters without those that only say where a secret is; what is below a secret stays as it is."""
    if isinstance(value, Mapping):
        return {
            name: below if SECRET_NAME.search(str(name)) else _without_names_of_secrets(below)
            for name, below in value.items()
            if not _NAMES_ONE.search(str(name))
        }
    return [_without_names_of_secrets(below) for below in value] if isinstance(value, list | tuple) else value


def load(path: Path, endpoint: str = "", tls: Tls | None = None) -> Config:
    """Reads a YAML or Python file (`config: Config`, or `config() -> Config`).

    Args:
        path: the file; `${NAME}` in a YAML file is replaced from the environment, `${DIR}` by the file's folder.
        endpoint: of a running driver, instead of what the file says of the site's driver.
        tls: how that endpoint is reached.

    Raises:
        ConfigError: see its message.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give the path of a configuration") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text in UTF-8 ({error.reason}); give the path of a configuration") from error
    if path.suffix == ".py":
        config = _load_python(path, text)
        return config if not endpoint else replace(config, site=_running(config.site, endpoint, tls))
    values = {**os.environ, "DIR": str(path.resolve().parent), "PYTHON": sys.executable}
    missing = sorted({name for name in re.findall(r"\$\{(\w+)\}", text) if name not in values})
    if missing:
        raise ConfigError(f"{path} uses {', '.join(missing)} from the environment, which has none; export it")
    text = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    return parse(raw or {}, str(path), endpoint, tls)


def parse(raw: Any, where: str, endpoint: str = "", tls: Tls | None = None) -> Config:
    """Builds a configuration of plain values.

    Raises:
        ConfigError: see its message.
    """
    _known(raw, _TOP, where)
    if "site" not in raw:
        raise ConfigError(f"{where}: `site` is missing; name the site under test, its driver and its parameters")
    site = _side(raw["site"], f"{where}: site")
    if endpoint:
        site = _running(site, endpoint, tls)
    elif not site.endpoint and not site.startable:
        raise ConfigError(f"{where}: site has neither `endpoint` nor `command`; give one, or --endpoint")
    peer = _side(raw["peer"], f"{where}: peer") if raw.get("peer") else None
    if peer is not None and not peer.endpoint and not peer.startable:
        raise ConfigError(f"{where}: peer has neither `endpoint` nor `command`; give one, or list it under `peers`")
    peers = tuple(_side(one, f"{where}: peers[{at}]") for at, one in enumerate(_list(raw, "peers", where)))
    names = [site.name, *([peer.name] if peer else []), *(one.name for one in peers)]
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}: two sites have one name ({', '.join(names)}); give each its own")
    return Config(
        site=site,
        name=_text(raw, "name", where, "driver"),
        group=_label(_text(raw, "group", where, "sanity"), f"{where}: group"),
        component=_label(_text(raw, "component", where, "thing"), f"{where}: component"),
        peer=peer,
        peers=peers,
        invalid=tuple(_invalid(one, f"{where}: invalid[{at}]") for at, one in enumerate(_list(raw, "invalid", where))),
        secrets=tuple(str(secret) for secret in _list(raw, "secrets", where)),
        hooks=_hooks(_mapping(raw, "hooks", where), f"{where}: hooks"),
        budget=_budget(_mapping(raw, "budget", where), f"{where}: budget"),
        skip=_skip(_mapping(raw, "skip", where), f"{where}: skip"),
        unreachable_peer=_mapping(raw, "unreachable_peer", where) if "unreachable_peer" in raw else None,
        second=_mapping(raw, "second", where) if "second" in raw else None,
    )


def side(name: str, endpoint: str, tls: Tls | None = None) -> Side:
    """A driver that runs already, without parameters.

    Raises:
        ConfigError: the endpoint cannot be one, or the files for TLS cannot be read.
    """
    return _running(Side(name), endpoint, tls)


def _running(site: Side, endpoint: str, tls: Tls | None) -> Side:
    if tls is not None:
        _check_tls(tls, "--tls-dir")
    return Side(site.name, _endpoint(endpoint, "--endpoint"), parameters=site.parameters, tls=tls)


def _endpoint(text: str, where: str) -> str:
    wanted = "give unix:/path/to.sock, /path/to.sock or host:port"
    if text.startswith("/"):
        text = f"unix:{text}"
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise ConfigError(f"{where}: {path} is longer than {MAX_PATH_BYTES} bytes, the kernel's limit for a socket")
        if path.strip("/"):
            return text
        raise ConfigError(f"{where}: {text!r} names no socket; {wanted}")
    host, _, port = text.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(f"{where}: {text!r} is no endpoint of a driver; {wanted}")
    return text


def _check_tls(tls: Tls, where: str) -> None:
    try:
        TlsFiles.load(tls.directory)
    except TlsFilesError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not tls.server_name:
        name = "the name in the driver's certificate, e.g. mysql.driver.graf.dev"
        raise ConfigError(f"{where}: no name of the server is given; give {name}")


def _side(raw: Any, where: str) -> Side:
    _known(raw, _SIDE, where)
    if "name" not in raw:
        raise ConfigError(f"{where}: `name` is missing; give the site's name, e.g. east")
    if isinstance(raw.get("command"), str):
        raise ConfigError(f"{where}: `command` is a text; give a list, e.g. [graf-driver-fake]")
    command = _list(raw, "command", where)
    if not all(isinstance(word, str | int | float) and not isinstance(word, bool) for word in command):
        raise ConfigError(f"{where}: command is {command}, not a list of texts; quote words that YAML reads otherwise")
    directory = _text(raw, "directory", where, "")
    if directory and not Path(directory).is_dir():
        raise ConfigError(f"{where}: directory: there is no folder {directory}")
    endpoint, tls = _text(raw, "endpoint", where, ""), None
    if "tls" in raw:
        told = _mapping(raw, "tls", where)
        _known(told, _TLS, f"{where}: tls")
        folder, server = (_text(told, name, f"{where}: tls", "") for name in _TLS)
        tls = Tls(Path(folder), server)
        _check_tls(tls, f"{where}: tls")
        if not endpoint or endpoint.startswith(("unix:", "/")):
            raise ConfigError(f"{where}: tls is of an endpoint host:port; give one, or leave tls out")
    parameters = _mapping(raw, "parameters", where)
    try:
        struct_pb2.Struct().update(dict(parameters))
    except (ValueError, TypeError) as error:
        message = f"{where}: parameters cannot be sent: {error}; use texts, numbers, true, false, lists and mappings"
        raise ConfigError(f"{message} (quote what YAML reads as a date)") from error
    return Side(
        _label(_text(raw, "name", where, ""), f"{where}: name"),
        _endpoint(endpoint, f"{where}: endpoint") if endpoint else "",
        tuple(str(word) for word in command),
        {str(name): str(value) for name, value in _mapping(raw, "environment", where).items()},
        dict(parameters),
        Path(directory) if directory else None,
        tls=tls,
    )


def _invalid(raw: Any, where: str) -> Invalid:
    _known(raw, _INVALID, where)
    if "field" not in raw or not (raw.get("change") or raw.get("remove")):
        raise ConfigError(
            f"{where}: give `field`, the parameter that the driver must name, and what makes it bad, `change` or "
            f"`remove`"
        )
    return Invalid(str(raw["field"]), _mapping(raw, "change", where), tuple(map(str, _list(raw, "remove", where))))


def _hooks(raw: Mapping[str, Any], where: str) -> dict[str, Hook]:
    _known(raw, HOOKS, where)
    return {name: _hook(value, f"{where}.{name}") for name, value in raw.items()}


def _hook(value: Any, where: str) -> Hook:
    if isinstance(value, list) and value:
        return tuple(str(word) for word in value)
    module, _, name = str(value).partition(":")
    try:
        hook: Hook = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}: {value!r} is neither a list (command) nor module:function ({error})") from error
    return hook


def _budget(raw: Mapping[str, Any], where: str) -> Budget:
    _known(raw, tuple(one.name for one in fields(Budget)), where)
    for name, value in raw.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ConfigError(f"{where}: {name} is {value!r}; give a number of seconds above 0")
    budget = Budget(**{name: float(value) for name, value in raw.items()})
    if budget.lease_s > _LONGEST_LEASE_S:
        raise ConfigError(f"{where}: lease_s is {budget.lease_s:g}; no lease is longer than {_LONGEST_LEASE_S:g} s")
    return budget


def _skip(raw: Mapping[str, Any], where: str) -> dict[str, str]:
    known = {one.id for one in all_checks()}
    for name, reason in raw.items():
        if name not in known:
            raise ConfigError(f"{where}: {unknown_check(str(name))}")
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigError(f"{where}: {name} has no reason; say why this cannot be kept")
    return {str(name): str(reason) for name, reason in raw.items()}


def unknown_check(name: str) -> str:
    """What to say of an id that no check has."""
    known = {one.id for one in all_checks()}
    near = difflib.get_close_matches(name, [*known, *(one.partition("-")[0] for one in known)], n=1)
    hint = f"did you mean {near[0]}?" if near else "see graf-driver-sanity --list"
    return f"there is no check {name}; {hint}"


def _load_python(path: Path, text: str) -> Config:
    names: dict[str, Any] = {"__file__": str(path), "__name__": "graf_driver_sanity_config"}
    try:
        exec(compile(text, str(path), "exec"), names)  # noqa: S102 - the author's own file, as pytest's conftest
        config = names.get("config")
        config = config() if callable(config) else config
    except Exception as error:
        frames = reversed(traceback.extract_tb(error.__traceback__))
        line = next((frame.lineno for frame in frames if frame.filename == str(path)), 0)
        line = error.lineno if isinstance(error, SyntaxError) else line
        raise ConfigError(f"{path} raised {type(error).__name__} at line {line}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path} defines no `config`, a graf_driver_sanity.Config or a function that returns one")
    if config.skip:
        _skip(config.skip, f"{path}: skip")
    return config


def _known(raw: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} is {raw!r}, not a mapping; known are {', '.join(names)}")
    unknown = sorted(set(map(str, raw)) - set(names))
    if unknown:
        raise ConfigError(f"{where}: {', '.join(unknown)} is not known; known are {', '.join(names)}")


def _mapping(raw: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {name} is {value!r}; give a mapping, one `name: value` a line")
    return {str(key): below for key, below in value.items()}


def _list(raw: Mapping[str, Any], name: str, where: str) -> Sequence[Any]:
    value = raw.get(name) or []
    if not isinstance(value, list):
        raise ConfigError(f"{where}: {name} is not a list; give one, e.g. `{name}: [...]`")  # it may be a secret
    return value


def _text(raw: Mapping[str, Any], name: str, where: str, otherwise: str) -> str:
    value = raw.get(name, otherwise)
    if isinstance(value, Mapping | list | bool) or value is None:
        raise ConfigError(f"{where}: {name} is {value!r}; give a text")
    return str(value)


def _label(text: str, where: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ConfigError(f"{where}: {text!r} is no name; give lower-case letters, digits and dashes, at most 63")
    return text

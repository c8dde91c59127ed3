"""What a driver's author writes down: how to start the driver, what to give it, what must never show."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as made_by
from pathlib import Path
from typing import Any, Final

import yaml
from graf_driver_sdk.redact import secrets_of

from graf_driver_sanity.launch import Launcher

# A Python hook: (site, value) -> what it found; raises when the component refused.
Hook = Callable[[str, str], Awaitable[str | None] | str | None] | tuple[str, ...]
HOOKS: Final = ("write", "read", "wipe", "break", "archived")
# A shorter text is found by accident.
_RECOGNISABLE: Final = 8
_TOP: Final = ("name", "group", "component", "site", "peer", "peers", "invalid", "secrets", "hooks", "budget", "skip",
               "unreachable_peer")  # fmt: skip
_SIDE: Final = ("name", "endpoint", "command", "environment", "parameters", "directory", "launcher")


class ConfigError(Exception):
    """The configuration cannot be used; the message says where, why, and what to write instead."""


@dataclass(frozen=True, slots=True)
class Side:
    """One site: its name, its driver, its parameters.

    Attributes:
        endpoint: where the driver listens; "" lets the kit choose a unix socket and tell it in GRAF_DRIVER_SOCKET.
        command: starts the driver; () when it runs already, which leaves out all checks that kill it.
        environment: added to the kit's own.
        directory: the driver's working directory.
        launcher: Python only: starts and kills the driver instead of `command`.
    """

    name: str
    endpoint: str = ""
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = made_by(default_factory=dict)
    parameters: Mapping[str, Any] = made_by(default_factory=dict)
    directory: Path | None = None
    launcher: Launcher | None = None

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

    @property
    def all_secrets(self) -> tuple[str, ...]:
        """Those that are configured, and those that the contract calls secret by the parameter's name."""
        sides = (self.site, self.peer) if self.peer is not None else (self.site,)
        named = {text for side in sides for text in secrets_of(side.parameters) if len(text) >= _RECOGNISABLE}
        return tuple(dict.fromkeys((*self.secrets, *sorted(named))))


def load(path: Path, endpoint: str = "") -> Config:
    """Reads a YAML or Python file (`config: Config`, or `config() -> Config`).

    Args:
        path: the file; `${NAME}` in a YAML file is replaced from the environment, `${DIR}` by the file's folder.
        endpoint: of a running driver, instead of the file's.

    Raises:
        ConfigError: see its message.
    """
    try:
        if path.suffix == ".py":
            return _load_python(path)
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give the path of a configuration") from error
    values = {**os.environ, "DIR": str(path.resolve().parent), "PYTHON": sys.executable}
    missing = sorted({name for name in re.findall(r"\$\{(\w+)\}", text) if name not in values})
    if missing:
        raise ConfigError(f"{path} uses {', '.join(missing)} from the environment, which has none; export it")
    text = re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    return parse(raw or {}, str(path), endpoint)


def parse(raw: Any, where: str, endpoint: str = "") -> Config:
    """Builds a configuration of plain values."""
    _known(raw, _TOP, where)
    if "site" not in raw:
        raise ConfigError(f"{where}: `site` is missing; name the site under test, its driver and its parameters")
    site = _side(raw["site"], f"{where}: site", endpoint)
    if not site.endpoint and not site.startable:
        raise ConfigError(f"{where}: site has neither `endpoint` nor `command`; give one, or --endpoint")
    hooks = dict(raw.get("hooks", {}))
    _known(hooks, HOOKS, f"{where}: hooks")
    try:
        return Config(
            site=site,
            name=str(raw.get("name", "driver")),
            group=str(raw.get("group", "sanity")),
            component=str(raw.get("component", "thing")),
            peer=_side(raw["peer"], f"{where}: peer") if raw.get("peer") else None,
            peers=tuple(_side(side, f"{where}: peers") for side in raw.get("peers", ())),
            invalid=tuple(
                Invalid(str(one["field"]), dict(one.get("change", {})), tuple(one.get("remove", ())))
                for one in raw.get("invalid", ())
            ),
            secrets=tuple(str(secret) for secret in raw.get("secrets", ())),
            hooks={name: _hook(value, f"{where}: hooks.{name}") for name, value in hooks.items()},
            budget=Budget(**{name: float(value) for name, value in raw.get("budget", {}).items()}),
            skip={str(name): str(reason) for name, reason in raw.get("skip", {}).items()},
            unreachable_peer=raw.get("unreachable_peer"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{where}: {error!r}; see docs/how-to/check-a-driver.md for each field") from error


def _side(raw: Any, where: str, endpoint: str = "") -> Side:
    _known(raw, _SIDE, where)
    if "name" not in raw:
        raise ConfigError(f"{where}: `name` is missing; give the site's name, e.g. east")
    command = raw.get("command", ())
    if isinstance(command, str):
        raise ConfigError(f"{where}: `command` is a text; give a list, e.g. [graf-driver-fake]")
    directory = raw.get("directory")
    return Side(
        str(raw["name"]),
        endpoint or str(raw.get("endpoint", "")),
        () if endpoint else tuple(str(word) for word in command),
        {str(name): str(value) for name, value in raw.get("environment", {}).items()},
        dict(raw.get("parameters", {})),
        Path(directory) if directory else None,
    )


def _hook(value: Any, where: str) -> Hook:
    if isinstance(value, list):
        return tuple(str(word) for word in value)
    module, _, name = str(value).partition(":")
    try:
        hook: Hook = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}: {value!r} is neither a list (command) nor module:function ({error})") from error
    return hook


def _load_python(path: Path) -> Config:
    names: dict[str, Any] = {"__file__": str(path), "__name__": "graf_driver_sanity_config"}
    text = path.read_text()
    try:
        exec(compile(text, str(path), "exec"), names)  # noqa: S102 - the author's own file, as pytest's conftest
        config = names.get("config")
        config = config() if callable(config) else config
    except Exception as error:
        line = next((frame.lineno for frame in reversed(traceback.extract_tb(error.__traceback__))
                     if frame.filename == str(path)), 0)  # fmt: skip
        raise ConfigError(f"{path} raised {type(error).__name__} at line {line}: {error}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path} defines no `config`, a graf_driver_sanity.Config or a function that returns one")
    return config


def _known(raw: Any, names: tuple[str, ...], where: str) -> None:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where} is no mapping; known are {', '.join(names)}")
    unknown = sorted(set(map(str, raw)) - set(names))
    if unknown:
        raise ConfigError(f"{where}: {', '.join(unknown)} is not known; known are {', '.join(names)}")

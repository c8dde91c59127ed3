"""The component's parameters: read once, checked completely, frozen. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from graf_driver_sdk.types import FieldProblem

_KNOWN: Final = ("address", "port", "dataDir", "passwordFile", "maxMemoryMiB")
_LONGEST_DATA_DIR: Final = 90  # the server's socket is in it, and a socket's path has 107 bytes


@dataclass(frozen=True, slots=True)
class Parameters:
    """One site's parameters.

    Attributes:
        address: where clients and the other site reach this server.
        port: the same.
        data_dir: of the server; must outlive the driver.
        password_file: clients' and replication's password; the same content at every site.
        max_memory_mib: 0 for no limit.
    """

    address: str
    port: int
    data_dir: Path
    password_file: Path
    max_memory_mib: int = 0


def parse(raw: Mapping[str, Any]) -> tuple[Parameters | None, list[FieldProblem]]:
    """The parameters and no problem, or None and every problem that there is. Every number comes as a float."""
    problems = [
        FieldProblem(name, "no such parameter", f"remove it; known are {', '.join(_KNOWN)}")
        for name in sorted(set(raw) - set(_KNOWN))
    ]
    parameters = Parameters(
        _address(raw, problems),
        _number(raw, "port", 6379, 1, 65_535, problems),
        _path(raw, "dataDir", problems),
        _path(raw, "passwordFile", problems),
        _number(raw, "maxMemoryMiB", 0, 0, 1 << 20, problems),
    )
    if len(str(parameters.data_dir)) > _LONGEST_DATA_DIR:
        problems.append(FieldProblem("dataDir", "is too long for a socket in it", f"at most {_LONGEST_DATA_DIR} bytes"))
    return (None, problems) if problems else (parameters, [])


def _address(raw: Mapping[str, Any], problems: list[FieldProblem]) -> str:
    value = raw.get("address")
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        problems.append(FieldProblem("address", f"{value!r} is no IP address", "this site's, e.g. 198.18.1.10"))
        return ""


def _path(raw: Mapping[str, Any], name: str, problems: list[FieldProblem]) -> Path:
    value = raw.get(name)
    if not isinstance(value, str) or not value.startswith("/"):
        problems.append(FieldProblem(name, f"{value!r} is no absolute path", "a path that begins with /"))
        return Path("/")
    return Path(value)


def _number(
    raw: Mapping[str, Any], name: str, default: int, least: int, most: int, problems: list[FieldProblem]
) -> int:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most or value % 1:
        problems.append(FieldProblem(name, f"{value!r} cannot be used", f"a whole number from {least} to {most}"))
        return default
    return int(value)

"""The component's parameters: read once, checked completely, frozen. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from graf_driver_sdk.types import Capability, FieldProblem

from graf_driver_fake.faults import CALLS, Fault, FaultKind

CAPABILITIES: Final = frozenset(capability for capability in Capability if capability is not Capability.UNSPECIFIED)
_KNOWN: Final = ("dataDir", "controlFile", "capabilities", "promoteMs", "faults", "password")


@dataclass(frozen=True, slots=True)
class Parameters:
    """One site's parameters.

    Attributes:
        data_dir: where the writes are kept; None keeps them in memory, where no other site can follow them.
        control_file: JSON that tests change while the driver runs: `faults`, and `status` facts to pretend.
        capabilities: what this component can do, of what the driver declares.
        promote_ms: how long a promotion takes.
        faults: what goes wrong, by call.
        password: of no use here; a secret, to show that none is told.
    """

    data_dir: Path | None = None
    control_file: Path | None = None
    capabilities: frozenset[Capability] = CAPABILITIES
    promote_ms: int = 0
    faults: Mapping[str, Fault] = field(default_factory=dict)
    password: str = field(default="", repr=False)


def parse(raw: Mapping[str, Any]) -> tuple[Parameters | None, list[FieldProblem]]:
    """Reads parameters as they come out of a protobuf Struct (every number a float).

    Returns:
        The parameters and no problem, or None and every problem that there is.
    """
    problems = [
        FieldProblem(name, "no such parameter", f"remove it; known are {', '.join(_KNOWN)}")
        for name in sorted(set(raw) - set(_KNOWN))
    ]
    parameters = Parameters(
        _path(raw, "dataDir", problems),
        _path(raw, "controlFile", problems),
        parse_capabilities(raw.get("capabilities"), problems),
        _milliseconds(raw.get("promoteMs", 0), problems),
        parse_faults(raw.get("faults", {}), problems),
        _secret(raw, "password", problems),
    )
    return (None, problems) if problems else (parameters, [])


def _path(raw: Mapping[str, Any], name: str, problems: list[FieldProblem]) -> Path | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.startswith("/"):
        problems.append(FieldProblem(name, f"{value!r} is no absolute path", "a path that begins with /"))
        return None
    return Path(value)


def _secret(raw: Mapping[str, Any], name: str, problems: list[FieldProblem]) -> str:
    value = raw.get(name, "")
    if not isinstance(value, str):  # said without the value: it may be the secret, only misplaced
        problems.append(FieldProblem(name, "it is no text", "give the password as a text"))
        return ""
    return value


def parse_capabilities(value: Any, problems: list[FieldProblem]) -> frozenset[Capability]:
    """Names of capabilities; None means all of them."""
    if value is None:
        return CAPABILITIES
    names = {capability.name: capability for capability in CAPABILITIES}
    if not isinstance(value, list) or any(name not in names for name in value):
        problems.append(FieldProblem("capabilities", f"{value!r} is unknown", f"a list of {', '.join(sorted(names))}"))
        return frozenset()
    return frozenset(names[name] for name in value)


def _milliseconds(value: Any, problems: list[FieldProblem]) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 60_000:
        problems.append(FieldProblem("promoteMs", f"{value!r} is no time", "milliseconds from 0 to 60000"))
        return 0
    return int(value)


def parse_faults(value: Any, problems: list[FieldProblem]) -> dict[str, Fault]:
    """Faults by call, e.g. `{"EnsureRole": {"kind": "slow", "seconds": 2, "times": 1}}`."""
    if not isinstance(value, Mapping):
        problems.append(FieldProblem("faults", f"{value!r} is no mapping", "the call's name, then its fault"))
        return {}
    faults = {}
    for call, below in value.items():
        where = f"faults.{call}"
        kinds = ", ".join(kind.value for kind in FaultKind)
        if call not in CALLS:
            problems.append(FieldProblem(where, "no such call", f"one of {', '.join(CALLS)}"))
        elif not isinstance(below, Mapping) or below.get("kind") not in {kind.value for kind in FaultKind}:
            problems.append(FieldProblem(where, f"{below!r} is no fault", f"a mapping with kind: one of {kinds}"))
        elif not _is_number(below.get("seconds", 1.0)) or not _is_number(below.get("times", 1)):
            problems.append(FieldProblem(where, "seconds and times are numbers from 0", "e.g. seconds: 2, times: 1"))
        else:
            times = below.get("times")
            faults[call] = Fault(
                FaultKind(below["kind"]), float(below.get("seconds", 1.0)), None if times is None else int(times)
            )
    return faults


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0

"""Which version of the contract both sides speak, and whether a driver can do what it is needed for.

The caller speaks its newest version, N, and the one before, N-1; a driver lists all that it serves. `v1` is the first,
so there is no N-1 yet. A capability that the caller does not know is ignored; one that it requires and the driver does
not declare refuses the driver, before it is given anything to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from graf_driver_sdk.types import Capability, Info

# The newest first: N, then N-1.
SPOKEN: Final = ("v1",)


class NotUsableError(Exception):
    """The driver cannot be used by this caller.

    Attributes:
        reason: "ContractVersion" or "MissingCapability", for machines.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def agree(offered: Iterable[str], spoken: Sequence[str] = SPOKEN) -> str:
    """The newest version that both sides speak.

    Args:
        offered: what the driver serves (GetInfo.contract_versions), in any order.
        spoken: what the caller speaks, the newest first.

    Raises:
        NotUsableError: there is none; the message has the versions of both.
    """
    served = sorted(set(offered))
    for version in spoken:
        if version in served:
            return version
    raise NotUsableError(
        "ContractVersion",
        f"the driver speaks {', '.join(served) or 'no version of the contract'}, this controller speaks "
        f"{', '.join(spoken)}; use a matching version",
    )


def missing(required: Iterable[str], declared: Iterable[str]) -> list[str]:
    """Names of capabilities that are required and not declared."""
    return sorted(set(required) - set(declared))


def check(info: Info, required: Iterable[Capability] = (), spoken: Sequence[str] = SPOKEN) -> str:
    """The version to speak with a driver that can do all that is required.

    Raises:
        NotUsableError: no common version, or a required capability is missing; says which.
    """
    version = agree(info.contract_versions, spoken)
    lacking = missing((one.name for one in required), (one.name for one in info.capabilities))
    if lacking:
        raise NotUsableError(
            "MissingCapability",
            f"the driver {info.name} {info.vendor_version} cannot {', '.join(lacking)}, which is required; use another "
            f"version of the driver, or require less",
        )
    return version

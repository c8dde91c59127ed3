"""What the parts of a scenario file share: strict models, and errors that keep field, cause and fix apart."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

SiteRole = Literal["preferred", "spare"]
Participant = Literal["preferred", "spare", "witness", "manager"]
Profile = Literal["metro", "regional", "wan"]
World = Literal["sim", "lab"]


class Part(BaseModel):
    """Base of every part of a file: kebab-case in the file, unknown fields refused, no silent conversions."""

    model_config = ConfigDict(
        alias_generator=lambda name: name.rstrip("_").replace("_", "-"),
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
    )


def broken(field: str, cause: str, fix: str) -> PydanticCustomError:
    """An error of a validator in the shape that all of GRAF's models use."""
    return PydanticCustomError("graf_rule", "{cause}", {"field": field, "cause": cause, "fix": fix})


def one_or_many(value: Any) -> Any:
    """A single value where a list is allowed, and a list as the tuple that a frozen value needs."""
    if isinstance(value, list):
        return tuple(value)
    return value if isinstance(value, tuple) or value is None else (value,)


def many(value: Any) -> Any:
    """A list of the file as the tuple that a frozen value needs; anything else is left to be refused."""
    return tuple(value) if isinstance(value, list) else value

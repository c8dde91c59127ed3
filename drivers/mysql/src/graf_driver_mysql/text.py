"""Text for SQL, and which passwords can be given to a server. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

LONGEST_PASSWORD: Final[Mapping[str, int]] = {"mariadb": 96, "mysql": 32}  # that replication can be given, by product


def quoted(text: str) -> str:
    """A string literal for SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def named(text: str) -> str:
    """A name for SQL."""
    return "`" + text.replace("`", "``") + "`"


def unusable(password: str, longest: int = 0) -> str:
    """Why a password cannot be used; "" when it can. It is not in the answer.

    Args:
        password: as in the Secret.
        longest: what replication can be given; 0 for a password that it is not given.
    """
    for number, character in enumerate(password, 1):
        if not " " <= character <= "~":
            # The servers, replication and the clients' libraries do not encode it alike.
            return f"character {number} is not a printable ASCII character"
    if longest and len(password) > longest:
        return f"it has {len(password)} characters, and replication takes {longest} at most"
    return ""


def without_quoted(text: str) -> str:
    """What a server says of a statement that has a password, without what it quotes of it."""
    return re.sub("'.*'", "'...'", text, flags=re.DOTALL)

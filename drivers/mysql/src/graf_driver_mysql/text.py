"""Text for SQL."""

from __future__ import annotations


def quoted(text: str) -> str:
    """A string literal for SQL."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def named(text: str) -> str:
    """A name for SQL."""
    return "`" + text.replace("`", "``") + "`"

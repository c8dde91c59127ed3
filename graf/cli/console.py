"""The console that commands print to."""

from __future__ import annotations

import os

from rich.console import Console

# Nobody's window: in a file or a pipe tables keep their columns.
FILE_WIDTH = 160


def make_console() -> Console:
    """A console as wide as the terminal, or wide enough for every table where there is none."""
    console = Console()
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console = Console(width=FILE_WIDTH)
    return console

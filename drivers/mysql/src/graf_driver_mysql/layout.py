"""Files of one component."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are below ``dataDir``."""

    root: Path

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.root / "data"

    @property
    def template(self) -> Path:
        """A bootstrapped data directory that was never used: an empty site starts from a copy."""
        return self.root / "template"

    @property
    def archive(self) -> Path:
        """Data directories that were put aside. The driver never deletes one."""
        return self.root / "archive"

    @property
    def record(self) -> Path:
        """The durable record (record.py)."""
        return self.root / "record.json"

    @property
    def scope(self) -> Path:
        """What part of the server the data was made for; absent for the whole server."""
        return self.root / "scope.json"

    @property
    def config(self) -> Path:
        """The server's configuration file, written before each start."""
        return self.root / "server.cnf"

    @property
    def pid(self) -> Path:
        """Where the server writes its process id."""
        return self.root / "server.pid"

    @property
    def log(self) -> Path:
        """The server's error log."""
        return self.root / "server.log"

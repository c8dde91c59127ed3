"""Where things are inside a volume."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """Folders of one component. Everything is below `root`, on one file system: each step is a rename."""

    root: Path

    @property
    def current(self) -> Path:
        """Link that applications open; there only while the component is ACTIVE and not quiesced."""
        return self.root / "current"

    @property
    def live(self) -> Path:
        """The writable copy: `tree`, and `manifest.json` of the generation that it was made of."""
        return self.root / "live"

    @property
    def tree(self) -> Path:
        """What `current` leads to."""
        return self.live / "tree"

    @property
    def generations(self) -> Path:
        """Complete generations, and nothing else."""
        return self.root / "generations"

    @property
    def incoming(self) -> Path:
        """The generation that is being made or received; without a meaning until it is renamed."""
        return self.root / "incoming"

    @property
    def clone(self) -> Path:
        """Hard links to the newest generation, made ahead for the next one."""
        return self.root / "clone"

    @property
    def archive(self) -> Path:
        """What had diverged."""
        return self.root / "archive"

    @property
    def trash(self) -> Path:
        """To be deleted."""
        return self.root / ".trash"

    @property
    def restic(self) -> Path:
        """Restic's cache, and what must be remembered of it; nothing of it is anybody's data."""
        return self.root / ".restic"

    @property
    def record(self) -> Path:
        """The durable record."""
        return self.root / "record.json"

    @property
    def owner(self) -> Path:
        """Group and component whose volume it is."""
        return self.root / "owner"

    def generation(self, name: str) -> Path:
        """Folder of one generation: `tree` and `manifest.json`."""
        return self.generations / name

    def make(self) -> None:
        """Makes the folders that must be there."""
        for folder in (self.root, self.generations):
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)

"""Generations on disk: made in `incoming`, complete by a single rename. Blocking: call in a thread."""

from __future__ import annotations

import os
import subprocess
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path

from graf_driver_pv import durable
from graf_driver_pv.layout import Layout
from graf_driver_pv.manifest import Manifest
from graf_driver_pv.position import Position

MANIFEST = "manifest.json"
_CACHED = 4


class StoreError(RuntimeError):
    """The volume's folder cannot be used as it must be."""


class Store:
    """Invariant: every folder in `generations` is complete, verified and durable; none of them ever changes."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()

    def positions(self) -> list[Position]:
        """Complete generations, the newest first."""
        found = []
        try:
            names = os.listdir(self.layout.generations)
        except FileNotFoundError:
            return []
        for name in names:
            try:
                found.append(Position.parse(name))
            except ValueError:
                continue
        return sorted(found, reverse=True)

    def newest(self) -> Manifest | None:
        """The newest complete generation.

        Raises:
            StoreError: its manifest cannot be read.
        """
        positions = self.positions()
        return self.manifest(positions[0]) if positions else None

    def manifest(self, position: Position) -> Manifest:
        """Manifest of a complete generation.

        Raises:
            StoreError: it cannot be read.
        """
        name = str(position)
        known = self._manifests.get(name)
        if known is None:
            known = read_manifest(self.layout.generation(name) / MANIFEST)
            self._remember(known)
        return known

    def base(self) -> Manifest | None:
        """What the live copy was made of; None when it was never a generation."""
        path = self.layout.live / MANIFEST
        return read_manifest(path) if path.exists() else None

    def begin(self, base: Manifest | None) -> Path:
        """An empty `incoming`, or one with hard links to every file of `base`. Whatever was there is discarded."""
        incoming = self.layout.incoming
        durable.discard(incoming, self.layout.trash)
        incoming.mkdir()
        tree = incoming / "tree"
        if base is None:
            tree.mkdir()
            return tree
        ready = self.layout.clone / str(base.position)
        if not ready.exists():
            self.prepare(base)
        ready.rename(tree)
        return tree

    def prepare(self, base: Manifest) -> None:
        """Makes the hard links for the next generation ahead of time."""
        ready = self.layout.clone / str(base.position)
        if ready.exists():
            return
        durable.discard(self.layout.clone, self.layout.trash)
        self.layout.clone.mkdir()
        part = self.layout.clone / "part"
        source = self.layout.generation(str(base.position)) / "tree"
        done = subprocess.run(["cp", "-al", "--", source, part], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StoreError(f"hard links to {source} cannot be made: {done.stderr.strip()[-300:]}")
        # Here and not when the generation is complete: it would take its time there. What changes then is synced then.
        for folder, _, _ in os.walk(part):
            durable.sync_folder(Path(folder))
        part.rename(ready)

    def commit(self, manifest: Manifest, content: bytes) -> None:
        """Gives `incoming` its name. The caller has verified its tree and made it durable.

        Args:
            manifest: of the new generation.
            content: the same as a file.
        """
        incoming = self.layout.incoming
        durable.replace_file(incoming / MANIFEST, content)
        for entry in list(incoming.iterdir()):
            if entry.name not in ("tree", MANIFEST):
                durable.discard(entry, self.layout.trash)
        durable.sync_folder(incoming)
        durable.move(incoming, self.layout.generation(str(manifest.position)))
        self._remember(manifest)

    def abandon(self) -> None:
        """Gives back the room of a generation that could not be made, and of what was discarded."""
        durable.discard(self.layout.incoming, self.layout.trash)
        durable.empty(self.layout.trash)

    def prune(self, keep: int, pinned: Collection[str] = ()) -> None:
        """Takes all but the newest few (and those that somebody is reading) away; deletes what was discarded."""
        for position in self.positions()[keep:]:
            if str(position) not in pinned:
                self.drop(position)
        durable.empty(self.layout.trash)

    def drop(self, position: Position) -> None:
        """Takes one generation away."""
        self._manifests.pop(str(position), None)
        durable.discard(self.layout.generation(str(position)), self.layout.trash)

    def _remember(self, manifest: Manifest) -> None:
        self._manifests[str(manifest.position)] = manifest
        while len(self._manifests) > _CACHED:
            self._manifests.popitem(last=False)


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return Manifest.decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}; the generation is not used, move it away") from error

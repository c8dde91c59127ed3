"""Manifest: what a generation consists of, with the checksum of every file; and how trees are compared with it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

from graf_driver_pv.position import Position

_VERSION: Final = 1
_CHUNK: Final = 1 << 20


class Entry(NamedTuple):
    """One path: `kind` is f, d or l; `content` is the SHA-256 of a file or the target of a link.

    A folder's time is left out: it changes with whatever is done in it.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    content: str

    def looks_like(self, other: Entry) -> bool:
        """Same but for a content that was not read."""
        return self[:6] == other[:6] and (self.kind != "l" or self.content == other.content)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A generation's content and its ancestors.

    Attributes:
        lineage: its ancestors: of each earlier epoch the highest number. In one epoch one site makes generations, one
            after the other, so every lower number of that epoch is an ancestor too.
        consistency: `point-in-time` when nothing was written while it was made (or the application was frozen),
            else `moving`: files were written meanwhile, two of them may be of different moments.
        begun_wall_ms: when its making began, on the maker's wall clock: every change before that is in it.
        root: mode, owner and group of the tree itself.
        texts: how each entry was encoded; most are the same in the next manifest.
    """

    position: Position
    lineage: Mapping[int, int]
    consistency: str
    begun_wall_ms: int
    entries: Mapping[str, Entry]
    root: tuple[int, int, int]
    texts: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def descends_from(self, other: Position) -> bool:
        """Whether everything of the other generation went into this one."""
        return is_ancestor(other, self.position, self.lineage)

    def next_lineage(self, epoch: int) -> dict[int, int]:
        """The lineage of a generation that is made after this one."""
        lineage = dict(self.lineage)
        if epoch != self.position.epoch:
            lineage[self.position.epoch] = self.position.number
        return lineage

    def header(self) -> dict[str, Any]:
        """All but the entries, for JSON."""
        return {
            "version": _VERSION,
            "position": str(self.position),
            "lineage": sorted(self.lineage.items()),
            "consistency": self.consistency,
            "begunWallMs": self.begun_wall_ms,
            "root": self.root,
        }

    def encode(self, before: Manifest | None = None) -> bytes:
        """As a file: JSON, then its own checksum. What it shares with the one before is not encoded again.

        The entries are in one order, so that who makes it of the one before gets the same bytes.
        """
        known, texts = (before.entries, before.texts) if before is not None else ({}, {})
        for path in sorted(self.entries):
            entry, text = self.entries[path], texts.get(path)
            if text is None or known.get(path) is not entry:
                text = f"{json.dumps(path)}:{to_json(entry)}"
            self.texts[path] = text
        entries = ",".join(self.texts.values())
        body = f'{to_json(self.header())[:-1]},"entries":{{{entries}}}}}'.encode()
        return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """Reads a file.

        Raises:
            ValueError: it is not whole, or of a version that is not known here.
        """
        body, _, rest = content.partition(b"\n")
        if rest.strip().decode("ascii", "replace") != hashlib.sha256(body).hexdigest():
            raise ValueError("the manifest's checksum does not fit")
        try:
            raw = json.loads(body)
            if raw["version"] != _VERSION:
                raise ValueError(f"version {raw['version']!r} of the manifest is not known to this driver")
            entries = {path: Entry(*fields) for path, fields in raw["entries"].items()}
            check_entries(entries, entries)
            return cls(
                Position.parse(raw["position"]),
                {int(epoch): int(number) for epoch, number in raw["lineage"]},
                str(raw["consistency"]),
                int(raw["begunWallMs"]),
                entries,
                _root(raw["root"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the manifest cannot be understood: {error!r}") from error


def to_json(value: Any) -> str:
    """Without spaces."""
    return json.dumps(value, separators=(",", ":"))


def _root(raw: list[int]) -> tuple[int, int, int]:
    mode, uid, gid = raw
    return int(mode), int(uid), int(gid)


def root_of(tree: str) -> tuple[int, int, int]:
    """Mode, owner and group of a tree itself."""
    seen = os.stat(tree)
    return stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid


def apply_root(tree: str, root: tuple[int, int, int]) -> None:
    """Gives a tree its mode, owner and group."""
    mode, uid, gid = root
    os.chown(tree, uid, gid)
    os.chmod(tree, mode)


def is_ancestor(other: Position, position: Position, lineage: Mapping[int, int]) -> bool:
    """Whether a generation is another one or went into it."""
    upto = position.number if other.epoch == position.epoch else lineage.get(other.epoch, -1)
    return other.number <= upto


def check_path(path: str) -> None:
    """Refuses a path that would lead out of the tree.

    Raises:
        ValueError: it does.
    """
    if path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"the manifest has a path that leads out of the volume: {path!r}")


def check_entries(entries: Mapping[str, Entry], paths: Iterable[str]) -> None:
    """Refuses those of the paths that would lead out of the tree, also by way of a link.

    Raises:
        ValueError: one does.
    """
    for path in paths:
        check_path(path)
        parent = path.rpartition("/")[0]
        if parent and (parent not in entries or entries[parent].kind != "d"):
            raise ValueError(f"the manifest has a path below what is no folder: {path!r}")


def observe(path: str, content: str = "") -> Entry | None:
    """What is at a path; None for nothing, and for what is neither file, folder nor link (sockets, devices)."""
    try:
        seen = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    mode = stat.S_IMODE(seen.st_mode)
    if stat.S_ISREG(seen.st_mode):
        return Entry("f", mode, seen.st_uid, seen.st_gid, seen.st_size, seen.st_mtime_ns, content)
    if stat.S_ISDIR(seen.st_mode):
        return Entry("d", mode, seen.st_uid, seen.st_gid, 0, 0, "")
    if stat.S_ISLNK(seen.st_mode):
        return Entry("l", 0, seen.st_uid, seen.st_gid, 0, seen.st_mtime_ns, os.readlink(path))
    return None


def walk(root: str, below: str = "") -> Iterator[str]:
    """Every path of a tree, relative to its root, folders before what is in them.

    Raises:
        OSError: something cannot be looked at; EXDEV: another file system is mounted in it. What is there now would be
            missed when it is unmounted, and be taken for deleted.
    """
    folders = [below]
    device = -1
    while folders:
        folder = folders.pop()
        try:
            if device < 0:
                device = os.stat(root).st_dev
            with os.scandir(os.path.join(root, folder)) as found:
                entries = list(found)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            yield path
            if entry.is_dir(follow_symlinks=False) and _is_on(device, entry):
                folders.append(path)


def _is_on(device: int, folder: os.DirEntry[str]) -> bool:
    try:
        if folder.stat(follow_symlinks=False).st_dev == device:
            return True
    except FileNotFoundError:
        return False
    raise OSError(errno.EXDEV, "another file system is mounted there", folder.path)


def parents(path: str) -> Iterator[str]:
    """Every folder that a path is in, but for the tree itself."""
    while path := path.rpartition("/")[0]:
        yield path


def changed_in(root: str, known: Mapping[str, Entry]) -> set[str]:
    """Paths of a tree that do not look as the manifest says, and those that are gone."""
    here: set[str] = set()
    changed: set[str] = set()
    for path in walk(root):
        here.add(path)
        seen, before = observe(os.path.join(root, path)), known.get(path)
        if seen is not None and before is not None and seen.looks_like(before):
            continue
        if seen is not None or before is not None:
            changed.add(path)
    return changed | (set(known) - here)


def checksum(path: str) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb", opener=_no_follow) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _no_follow(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def wrong_in(root: str, entries: Mapping[str, Entry], paths: Iterable[str]) -> list[str]:
    """Which of the paths are not exactly as the entries say; every file among them is read."""
    wrong = []
    for path in paths:
        full, wanted = os.path.join(root, path), entries[path]
        seen = observe(full)
        if seen is None or not seen.looks_like(wanted) or (wanted.kind == "f" and checksum(full) != wanted.content):
            wrong.append(path)
    return wrong

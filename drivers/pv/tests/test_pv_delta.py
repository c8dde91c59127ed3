"""A manifest is sent as what differs from the one before, and comes out as the same bytes or not at all."""

import json
from dataclasses import replace

import pytest
from graf_driver_pv import delta
from graf_driver_pv.manifest import Entry, Manifest
from graf_driver_pv.position import Position
from graf_driver_pv.wire import manifest_of


def entry(kind: str = "f", content: str = "a") -> Entry:
    return Entry(kind, 0o640, 0, 0, 1 if kind == "f" else 0, 1_000_000_007, content)


FOLDER = entry("d", "")
BASE = Manifest(
    Position(1, 7),
    {},
    "point-in-time",
    1_000,
    {"d": FOLDER, "d/same": entry(), "d/gone": entry(), "other": entry(), '\udcff "x"': entry()},
    (0o755, 0, 0),
)
NEXT = Manifest(
    Position(2, 8),
    {1: 7},
    "moving",
    2_000,
    {**{p: e for p, e in BASE.entries.items() if p != "d/gone"}, "other": entry(content="b"), "a": entry("l", "d")},
    (0o700, 5, 6),
)


def sent(base: Manifest, manifest: Manifest) -> bytes:
    return delta.encode(base, manifest, delta.checksum_of(manifest.encode()))


def test_what_differs_gives_the_same_manifest_and_the_same_file() -> None:
    manifest, whole = delta.apply(sent(BASE, NEXT), BASE)
    assert manifest == NEXT
    assert whole == NEXT.encode()
    assert Manifest.decode(whole) == NEXT
    assert b"same" not in sent(BASE, NEXT)


def test_a_manifest_is_the_same_file_whether_or_not_the_one_before_is_known() -> None:
    before = replace(BASE, texts={})
    before.encode()
    entries = {**BASE.entries, "d/same": entry(content="changed"), "d/new": entry()}
    after = replace(BASE, entries=entries, texts={})
    assert after.encode(before) == replace(BASE, entries=dict(reversed(entries.items())), texts={}).encode()
    assert Manifest.decode(after.encode(before)).entries == entries


def test_another_manifest_than_the_active_sites_is_refused() -> None:
    with pytest.raises(delta.OtherManifestError, match="another one here"):
        delta.apply(sent(BASE, NEXT), replace(BASE, entries={**BASE.entries, "extra": entry()}, texts={}))
    with pytest.raises(delta.OtherManifestError, match="it comes of"):
        delta.apply(sent(BASE, NEXT), replace(BASE, position=Position(1, 6), texts={}))


@pytest.mark.parametrize("content", [b"[]", b"{", b"{}", b'{"base":"e0000000001-0000000007"}'])
def test_nonsense_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"understood|Expecting"):
        delta.apply(content, BASE)


@pytest.mark.parametrize(
    "entries",
    [
        {**BASE.entries, "d": entry("l", "/etc")},
        {path: one for path, one in BASE.entries.items() if path != "d"},
        {**BASE.entries, "other/passwd": entry()},
        {**BASE.entries, "../passwd": entry()},
    ],
)
def test_a_path_that_would_lead_out_of_the_volume_is_refused(entries: dict[str, Entry]) -> None:
    with pytest.raises(ValueError, match="the manifest has a path"):
        delta.apply(sent(BASE, replace(NEXT, entries=entries, texts={})), BASE)


class Asked:
    """An active site, as its answers."""

    def __init__(self, *answers: tuple[bytes, bool]) -> None:
        self.answers = list(answers)
        self.since: list[Position | None] = []

    async def manifest(self, _: Position, since: Position | None = None) -> tuple[bytes, bool]:
        self.since.append(since)
        return self.answers.pop(0)


async def test_the_whole_manifest_is_asked_for_when_what_differs_will_not_do() -> None:
    wrong = json.loads(sent(BASE, NEXT)) | {"checksum": "0" * 64}
    active = Asked((json.dumps(wrong).encode(), True), (NEXT.encode(), False))
    assert await manifest_of(active, NEXT.position, BASE) == (NEXT, NEXT.encode())  # type: ignore[arg-type]
    assert active.since == [BASE.position, None]


async def test_an_active_site_of_the_version_before_sends_the_whole_manifest() -> None:
    active = Asked((NEXT.encode(), False))
    assert await manifest_of(active, NEXT.position, BASE) == (NEXT, NEXT.encode())  # type: ignore[arg-type]
    assert await manifest_of(Asked((b"", False)), NEXT.position, BASE) == (None, b"")  # type: ignore[arg-type]

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from graf.lab import binaries, build, releases
from graf.lab.errors import LabError


def _silent(text: str) -> None:
    """Hear of progress and say nothing."""


def _fill(directory: Path, names: tuple[str, ...] = build.PROGRAMS) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAF_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("GRAF_CONTROL_PLANE_DIR", raising=False)
    return tmp_path


def _sources_that_record(monkeypatch: pytest.MonkeyPatch, downloads: tuple[str, ...]) -> list[str]:
    asked: list[str] = []

    def download(target: Path, tell: binaries.Tell, missing: set[str]) -> None:
        asked.append("download")
        _fill(target, downloads)

    def compile_all(target: Path, tell: binaries.Tell, missing: set[str]) -> None:
        asked.append(f"build {len(missing)}")
        _fill(target, tuple(missing))

    monkeypatch.setattr(releases, "download", download)
    monkeypatch.setattr(build, "build", compile_all)
    return asked


def test_a_named_folder_comes_before_every_other_source(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _sources_that_record(monkeypatch, ())
    _fill(places / "own")
    _fill(binaries.cache_dir())
    monkeypatch.setenv("GRAF_CONTROL_PLANE_DIR", str(places / "own"))
    assert binaries.ensure(_silent) == places / "own"
    assert asked == []


def test_a_named_folder_that_lacks_a_program_is_refused_with_its_name(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(places / "own", tuple(name for name in build.PROGRAMS if name != "kubelet"))
    monkeypatch.setenv("GRAF_CONTROL_PLANE_DIR", str(places / "own"))
    with pytest.raises(LabError, match="lacks programs: kubelet"):
        binaries.ensure(_silent)


def test_the_cache_is_used_without_asking_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _sources_that_record(monkeypatch, ())
    _fill(binaries.cache_dir())
    assert binaries.ensure(_silent) == binaries.cache_dir()
    assert asked == []


def test_what_the_releases_lack_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = _sources_that_record(monkeypatch, ("runc", "etcd"))
    binaries.ensure(_silent)
    assert asked == ["download", f"build {len(build.PROGRAMS) - 2}"]


def test_an_interrupted_build_goes_on_with_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(binaries.cache_dir(), build.PROGRAMS[:5])
    asked = _sources_that_record(monkeypatch, ())
    binaries.ensure(_silent)
    assert asked == ["download", f"build {len(build.PROGRAMS) - 5}"]


def test_another_pin_gives_another_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = binaries.cache_dir()
    for group in build.GROUPS:
        folder = tmp_path / "tools" / "go" / group.name
        folder.mkdir(parents=True)
        (folder / "go.mod").write_bytes((group.directory / "go.mod").read_bytes() + b"// changed\n")
        (folder / "go.sum").write_bytes((group.directory / "go.sum").read_bytes())
    monkeypatch.setattr(build, "REPOSITORY", tmp_path)
    assert binaries.cache_dir() != before


def test_every_program_has_a_tool_directive_in_its_pinned_module() -> None:
    for group in build.GROUPS:
        text = (group.directory / "go.mod").read_text()
        assert (group.directory / "go.sum").is_file()
        for package in group.programs.values():
            assert package in text


def test_every_program_is_in_the_plan_of_releases() -> None:
    planned = [name for release in releases.plan("amd64") for name in release.programs]
    assert sorted(planned) == sorted(build.PROGRAMS)


def test_releases_are_fetched_over_tls_only() -> None:
    for release in releases.plan("amd64"):
        assert release.url.startswith("https://")
        assert release.checksum_url.startswith("https://")


def test_checksum_files_of_both_forms_are_read() -> None:
    one, two = "a" * 64, "b" * 64
    assert releases.published_checksum(one + "\n", "kubelet") == one
    assert releases.published_checksum(f"{one}  other.tgz\n{two} *runc.amd64\n", "runc.amd64") == two
    with pytest.raises(LabError, match="do not name"):
        releases.published_checksum(f"{one}  other.tgz\n", "runc.amd64")


def test_a_file_with_a_wrong_checksum_is_never_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAF_LAB_NO_DOWNLOAD", raising=False)
    release = releases.Release("https://example.org/runc", "https://example.org/runc.sha256", {"runc": ""})
    monkeypatch.setattr(releases, "plan", lambda architecture: [release])
    wrong = hashlib.sha256(b"other").hexdigest()
    monkeypatch.setattr(
        releases, "_fetch", lambda url, timeout_s: wrong.encode() if url.endswith("sha256") else b"program"
    )
    with pytest.raises(LabError, match="published checksum"):
        releases.download(tmp_path, _silent, {"runc"})
    assert not (tmp_path / "runc").exists()


def test_an_unreachable_server_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRAF_LAB_NO_DOWNLOAD", raising=False)
    asked: list[str] = []

    def fetch(url: str, timeout_s: float) -> bytes:
        asked.append(url.split("/")[2])
        raise releases.UnreachableError

    monkeypatch.setattr(releases, "_fetch", fetch)
    releases.download(tmp_path, _silent, set(build.PROGRAMS))
    assert len(asked) == len(set(asked))


def test_programs_are_taken_out_of_an_archive_as_executables(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("./ptp")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"ptp"))
    release = releases.Release("https://x/y.tgz", "https://x/y.sha256", {"ptp": "./ptp"})
    releases.install(tmp_path, release, buffer.getvalue())
    assert (tmp_path / "ptp").read_bytes() == b"ptp"
    assert (tmp_path / "ptp").stat().st_mode & 0o111

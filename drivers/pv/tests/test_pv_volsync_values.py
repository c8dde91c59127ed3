"""Mode volsync without any server: parameters, which copies are how old, and what a promotion opens."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from graf_driver_pv import volsync_objects as objects
from graf_driver_pv import volsync_parameters as parameter_names
from graf_driver_pv.testing_volsync import Api, parameters
from graf_driver_pv.volsync_claim import Facts, Opens, chosen
from graf_driver_pv.volsync_notes import Copy, Notes, NotesFile, NotesUnreadableError
from graf_driver_pv.volsync_parameters import read
from graf_driver_pv.volsync_status import age_s
from graf_driver_sdk.errors import PreconditionError

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mover": {"type": "restic", "keySecret": "a", "address": "b"}}, "volsync.mover.type"),
        ({"mover": {"keySecret": "a"}}, "volsync.mover.address"),
        ({"mover": {"keySecret": "a", "address": "b", "port": 0.0}}, "volsync.mover.port"),
        ({"destination": {"accessModes": ["ReadWriteOnce"]}}, "volsync.destination.capacity"),
        ({"destination": {"capacity": 5.0, "accessModes": ["ReadWriteOnce"]}}, "volsync.destination.capacity"),
        ({"destination": {"capacity": "5Gi"}}, "volsync.destination.accessModes"),
        ({"destination": {"copyMethod": "Direct"}}, "volsync.destination.copyMethod"),
        ({"copyMethod": "None"}, "volsync.copyMethod"),
        ({"schedule": "often"}, "volsync.schedule"),
        ({"schedule": "*/5 * * * *"}, "rpoSeconds"),
        ({"kubeconfig": "here"}, "volsync.kubeconfig"),
        ({"nonsense": 1}, "volsync.nonsense"),
        ({"source": "Not A Name"}, "volsync.source"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    parsed, problems = read(parameters(Api(tmp_path, tmp_path, 1, 1), "east", **change))
    assert parsed is None
    assert field in [problem.field for problem in problems]


def destination(end: datetime, taken: str, image: str = "image-1", kind: str = "VolumeSnapshot") -> dict[str, Any]:
    latest = {"kind": kind, "name": image}
    status = {"lastSyncTime": f"{end:%Y-%m-%dT%H:%M:%SZ}", "lastSyncDuration": taken, "latestImage": latest}
    return {"metadata": {"name": "files"}, "spec": {}, "status": status}


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("1.5s", 1.5), ("1m0s", 60), ("2h3m4.25s", 7384.25), ("350ms", 0.35), ("12µs", 12e-6), ("", None), ("5", None)],
)
def test_a_start_is_the_end_less_the_duration(told: str, seconds: float | None) -> None:
    copy = objects.copy_of(destination(NOW, told))
    assert (copy is None) if seconds is None else (copy == Copy(NOW - timedelta(seconds=seconds), NOW))


def test_a_volume_that_is_written_into_is_no_image() -> None:
    assert objects.image_of(destination(NOW, "1s", kind="PersistentVolumeClaim")) == ""


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def seen(*copies: tuple[float, float], since: datetime | None = None) -> tuple[Notes, dict[str, Any]]:
    """Copies that began and ended so many seconds ago, each of them looked at twice."""
    notes, found = Notes(since=since), {}
    for began, ended in copies:
        found = destination(ago(ended), f"{began - ended}s")
        notes = notes.with_copy(objects.copy_of(found)).with_copy(objects.copy_of(found))
    return notes, found


def test_the_age_is_from_the_start_of_the_copy_before_the_newest() -> None:
    assert age_s(*seen((700, 400), (399, 100)), NOW) == (700, "")
    assert age_s(*seen((1000, 701), (700, 400), (399, 100)), NOW) == (700, "")
    # The two in between were not seen: it is only told as older.
    assert age_s(*seen((1000, 701), (399, 100)), NOW) == (1000, "")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (seen(), "no complete copy"),
        (seen((700, 400)), "only one copy"),
        (seen((700, 400), (399, 100), since=ago(100)), "since it follows"),
        (seen((700, 400), (399, -60)), "in the future"),
        ((seen((700, 400), (399, 100))[0], destination(ago(200), "10s")), "set back"),
    ],
)
def test_an_age_that_is_not_known_is_not_told(found: tuple[Notes, dict[str, Any]], why: str) -> None:
    lag_s, reason = age_s(*found, NOW)
    assert lag_s < 0
    assert why in reason


def test_notes_survive_a_restart_and_a_damaged_file_is_no_empty_one(tmp_path: Path) -> None:
    file = NotesFile(tmp_path / "notes.json")
    assert file.load() == Notes()
    notes = replace(seen((700, 400), (399, 100), since=ago(900))[0], archive="VolumeSnapshot/a", position="p")
    file.save(notes)
    assert file.load() == notes
    file.path.write_text("{")
    with pytest.raises(NotesUnreadableError, match="restore the file"):
        file.load()


NOTHING = Facts("g/c", "files-data", False, False, "", "", False, False, False, False)
SERVED = replace(NOTHING, claim=True, mine=True)
NEWER: dict[str, Any] = {"image": "new", "fresh": True}


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        (replace(NOTHING, claim=True), Opens.AS_IS),  # the first activation
        (SERVED, Opens.AS_IS),
        (replace(SERVED, followed=True), Opens.AS_IS),  # nothing has come back yet
        (replace(SERVED, followed=True, image="old"), Opens.AS_IS),
        (replace(SERVED, followed=True, **NEWER), Opens.REPLACE),
        (replace(SERVED, followed=True, of_image="new", **NEWER), Opens.AS_IS),
        (replace(SERVED, unsent=True, **NEWER), Opens.AS_IS),
        (replace(SERVED, unsent=True, forgotten=True), Opens.AS_IS),  # nothing else is here
        (replace(NOTHING, followed=True, **NEWER), Opens.FROM_IMAGE),
        (replace(NOTHING, followed=True, unsent=True, image="new"), Opens.FROM_IMAGE),  # a crash in between
    ],
)
def test_a_promotion_opens_the_newest(now: Facts, opens: Opens) -> None:
    assert chosen(now) is opens


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (NOTHING, "no-claim"),
        (replace(NOTHING, followed=True), "no-copy"),
        (replace(NOTHING, claim=True, followed=True), "no-copy"),
        (replace(NOTHING, claim=True, followed=True, **NEWER), "not-mine"),
        (replace(NOTHING, unsent=True, image="old"), "claim-gone"),
        (replace(SERVED, forgotten=True, unsent=True, image="new"), "record-unreadable"),
    ],
)
def test_what_may_not_be_the_newest_is_not_opened(now: Facts, reason: str) -> None:
    with pytest.raises(PreconditionError) as refused:
        chosen(now)
    assert refused.value.reason == reason


def names(schema: Any) -> Any:
    """What a schema of objects knows, level by level."""
    known = schema.get("properties")
    return None if known is None else {name: names(inner) for name, inner in known.items()}


def test_the_example_takes_every_parameter_that_the_driver_knows() -> None:
    """A parameter that the DriverClass does not list is refused by the manager."""
    example = Path(__file__).parents[3] / "gitops" / "example" / "driverclasses" / "pv-volsync.yaml"
    known = names(yaml.safe_load(example.read_text())["spec"]["parametersSchema"])
    assert set(known) == parameter_names.TOP
    assert set(known["volsync"]) == parameter_names.OWN
    assert set(known["volsync"]["mover"]) == parameter_names.MOVER
    assert set(known["volsync"]["destination"]) == parameter_names.DESTINATION


def test_the_other_ways_do_not_wait_for_the_kubernetes_client() -> None:
    """A driver that was killed leaves the volume shut until it has started again."""
    asked = "import sys, graf_driver_pv.entry; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0

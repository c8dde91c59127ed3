"""A pass that is done in slices ends, whatever of it is kept; without an API server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from graf_driver_objects import model
from graf_driver_objects.applying import Applier, Pass, Stopped
from graf_driver_objects.ledger import Store
from graf_driver_objects.model import Generation, Manifest, Ref
from graf_driver_objects.parameters import Parameters

COUNT, SLICE = 20, 3


class Here:
    """The objects of this site, and what was done to them."""

    def __init__(self) -> None:
        self.objects: dict[Ref, Manifest] = {}
        self.reads: list[Ref] = []
        for number in range(COUNT):
            metadata = {"name": f"c{number:02}", "namespace": "upf", "uid": str(number), "resourceVersion": "1"}
            manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": "1"}}
            self.objects[Ref.of(manifest)] = manifest

    def get(self, ref: Ref) -> Manifest | None:
        self.reads.append(ref)
        return self.objects.get(ref)

    def delete(self, live: Manifest) -> None:
        del self.objects[Ref.of(live)]


def slices(applier: Applier, work: Pass) -> int:
    """How many it takes; each is stopped after a few looks."""
    for number in range(1, 4 * COUNT):
        try:
            applier.run(work, force=False, stop=after(SLICE))
        except Stopped:
            continue
        return number
    raise AssertionError("the pass never came to its end")


def after(looks: int) -> Callable[[], bool]:
    left = iter([False] * looks)
    return lambda: next(left, True)


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        (Parameters(deletions=False), "the parameter deletions is false"),
        (Parameters(max_deletions=COUNT - SLICE - 1), f"{COUNT} deletions at once are more than maxDeletions"),
        (Parameters(max_deletions=COUNT), ""),
    ],
    ids=["off", "too-many", "deleted"],
)
def test_a_look_in_slices_at_many_deletions_ends_and_counts_all_of_them(
    tmp_path: Path, parameters: Parameters, kept: str
) -> None:
    here = Here()
    cluster: Any = here
    refs = frozenset(here.objects)
    store = Store(tmp_path)
    store.change(base={ref: model.content_of(live) for ref, live in here.objects.items()})
    applier = Applier(cluster, store, parameters, "graf-objects/vcu.config", "vcu.config")
    work = Pass(Generation("east", 1, 1, {}, refs))
    assert slices(applier, work) > COUNT // SLICE
    assert len(here.objects) == (COUNT if kept else 0)
    assert set(work.waiting) == (refs if kept else set())
    assert all(kept in why for why in work.waiting.values())
    assert len(here.reads) == (COUNT if kept else 2 * COUNT), "each is looked at once, and again when it was deleted"
    slices(applier, work)  # the next pass begins anew, with what is left
    assert set(work.waiting) == (refs if kept else set())

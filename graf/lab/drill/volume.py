"""What a drill finds out about a volume: what was written, what is served, what its driver had told. Judged purely."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from graf.lab.drill.model import SECOND, Check, Result
from graf.lab.drill.stale import parameters_at
from graf.lab.drill.volume_writer import FOLDER, PART, content_of

if TYPE_CHECKING:
    from graf.crd.group import GroupComponent, RedundancyGroup

CALL_TIMEOUT_S = 2.0
WATCH_EVERY_S = 0.1
# A change is known to the driver when the kernel's event has been read: on two busy cores that is not at once.
EVENT_LATENCY_S = 0.3
FRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class Record:
    """A record that was durable at a site."""

    name: str
    sent_ns: int
    acked_ns: int

    @property
    def site(self) -> str:
        """Where it was written."""
        return self.name.split("-", 1)[0]


@dataclass(frozen=True, slots=True)
class Told:
    """What a standby's driver said at a moment: how much a promotion could lose."""

    at_ns: int
    lag_s: float
    promotable: bool
    position: str


@dataclass(frozen=True, slots=True)
class Tree:
    """What a folder of the volume holds.

    Attributes:
        position: The generation that it is, or was made of.
        records: Whole records of this run in it.
        wrong: Files that are missing, or not as the generation's manifest says, or no whole record.
    """

    position: str
    records: frozenset[str]
    wrong: tuple[str, ...]


def volume_of(group: RedundancyGroup) -> GroupComponent | None:
    """The group's component that holds a volume; None when it has none."""
    return next((c for c in group.spec.components if c.stage == "data" and "rpoSeconds" in c.parameters), None)


def read_journal(path: Path) -> list[Record]:
    """What a writer told; a line that is not complete was not told."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    records = []
    for line in data[: data.rfind(b"\n") + 1].decode().splitlines():
        sent, acked, name = line.split(" ")
        records.append(Record(name, int(sent), int(acked)))
    return records


def look(folder: Path, run: int) -> Tree:
    """Reads a generation, or the live copy that was made of one: every file against the manifest and its own name.

    Raises:
        OSError, ValueError: It is not there (any more), or its manifest is not whole.
    """
    body, _, digest = (folder / "manifest.json").read_bytes().partition(b"\n")
    if hashlib.sha256(body).hexdigest() != digest.decode().strip():
        raise ValueError(f"the manifest in {folder} is not whole")
    manifest = json.loads(body)
    tree, wrong = folder / "tree", []
    for path, (kind, *_, wanted) in manifest["entries"].items():
        if kind != "f" or path.endswith(PART):
            continue
        try:
            seen = hashlib.sha256((tree / path).read_bytes()).hexdigest()
        except FileNotFoundError:
            seen = "missing"
        if seen != wanted:
            wrong.append(path)
    own = tree / f"{FOLDER}{run}"
    names = [name for name in (os.listdir(own) if own.is_dir() else []) if not name.endswith(PART)]  # noqa: PTH208
    wrong += [name for name in names if (own / name).read_bytes() != content_of(name)]
    return Tree(str(manifest["position"]), frozenset(names) - set(wrong), tuple(sorted(set(wrong))))


def newest_generation(volume: Path) -> Path | None:
    """The newest complete generation of a site; names sort by age."""
    try:
        names = sorted(os.listdir(volume / "generations"))  # noqa: PTH208
    except FileNotFoundError:
        return None
    return volume / "generations" / names[-1] if names else None


class StandbyWatch:
    """Asks a standby's driver for its status, again and again, from a thread of its own."""

    def __init__(self, group: RedundancyGroup, component: GroupComponent, site: str, socket: Path) -> None:
        self._group, self._component, self._site, self._socket = group, component, site, socket
        self._told: list[Told] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drill-standby-watch", daemon=True)

    def __enter__(self) -> StandbyWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * CALL_TIMEOUT_S)

    def last_before(self, at_ns: int) -> Told | None:
        """What was told last before a moment."""
        return max((told for told in list(self._told) if told.at_ns <= at_ns), key=lambda t: t.at_ns, default=None)

    def newest(self) -> Told | None:
        """What was told last."""
        return self._told[-1] if self._told else None

    def _run(self) -> None:
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # the drill forks; this channel does not outlive it
        import grpc
        from graf_driver_sdk.v1 import driver_pb2, driver_pb2_grpc

        spec = driver_pb2.ComponentSpec(group=self._group.name, component=self._component.name, site=self._site)
        spec.parameters.update(parameters_at(self._component, self._site))
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            stub = driver_pb2_grpc.ComponentStub(channel)
            while not self._stop.wait(WATCH_EVERY_S):
                try:
                    status = stub.GetStatus(driver_pb2.GetStatusRequest(spec=spec), timeout=CALL_TIMEOUT_S)
                except grpc.RpcError:
                    continue
                self._told.append(
                    Told(
                        int(status.observed_at_ns), float(status.lag_seconds), bool(status.promotable), status.position
                    )
                )


# -- judgement: pure -------------------------------------------------------------------------------------------------


def judge_promotion(
    part: str, written: Sequence[Record], served: Tree, told: Told | None, fault_ns: int, declared_s: float
) -> tuple[Check, ...]:
    """What an unplanned promotion opened, against what was written before it and what had been told.

    Args:
        part: Which part of the drill, for the names of the checks.
        written: What the lost site had made durable, all of it.
        served: What the new active site opened.
        told: What its driver had said last before the fault.
        fault_ns: When the fault was injected.
        declared_s: `rpoSeconds` of the component.
    """
    lost = [record for record in written if record.name not in served.records]
    kept = [record for record in written if record.name in served.records]
    loss_s = (fault_ns - min((r.acked_ns for r in lost), default=fault_ns)) / SECOND
    figure = f"{len(lost)} of {len(written)} records lost, the oldest written {max(loss_s, 0.0):.2f} s before the fault"
    holes = bool(lost and kept) and min(r.acked_ns for r in lost) < max(r.acked_ns for r in kept)
    checks = [
        Check(f"{part}: records were written and kept", bool(kept), f"{len(kept)} of {len(written)}", Result.INVALID),
        Check(
            f"{part}: a complete generation is served",
            not served.wrong,
            f"{served.position}, {len(served.records)} records whole"
            + (f"; wrong: {', '.join(served.wrong[:5])}" if served.wrong else ""),
        ),
        Check(
            f"{part}: it is one point in time",
            not holes,
            "a record is missing that is older than one that is there" if holes else "only the newest are missing",
        ),
        Check(f"{part}: lost at most the declared RPO", loss_s <= declared_s, f"{figure}; {declared_s:g} s declared"),
    ]
    fresh = told is not None and told.promotable and told.lag_s >= 0 and (fault_ns - told.at_ns) / SECOND <= FRESH_S
    if told is None or not fresh:
        text = f"said last: {told}"
        return (*checks, Check(f"{part}: the standby had told its RPO", False, text, Result.INVALID))
    covered_ns = told.at_ns - int((told.lag_s + EVENT_LATENCY_S) * SECOND)
    allowed = [record for record in written if record.acked_ns >= covered_ns]
    unforetold = [record for record in lost if record.acked_ns < covered_ns]
    detail = (
        f"{len(lost)} records lost, at most {len(allowed)} were to be expected: {told.lag_s:.2f} s told "
        f"{(fault_ns - told.at_ns) / SECOND:.2f} s before the fault"
    )
    return (*checks, Check(f"{part}: lost no more than had been told", not unforetold, detail))


def judge_copy(part: str, tree: Tree | None, must_have: Iterable[str]) -> Check:
    """The site that came back has a whole copy of what the new active opened."""
    name = f"{part}: the lost site has a whole copy again"
    if tree is None:
        return Check(name, False, "no complete generation was found there")
    missing = set(must_have) - tree.records
    detail = f"{tree.position}: {len(tree.records)} records, {len(missing)} missing, {len(tree.wrong)} wrong"
    return Check(name, not missing and not tree.wrong, detail)


def judge_kept(part: str, tree: Tree, written: Iterable[Record]) -> Check:
    """A planned move loses nothing."""
    missing = sorted(record.name for record in written if record.name not in tree.records)
    detail = f"{len(missing)} missing" + (f", e.g. {missing[0]}" if missing else "")
    return Check(f"{part}: nothing was lost by the planned move back", not missing and not tree.wrong, detail)


def judge_one_at_a_time(journals: Mapping[str, Sequence[Record]], moves: int) -> Check:
    """Records of one site end before those of the other begin, at every move."""
    ordered = sorted((record for records in journals.values() for record in records), key=lambda r: r.acked_ns)
    overlaps = [(a, b) for a, b in pairwise(ordered) if a.site != b.site and b.sent_ns < a.acked_ns]
    changes = sum(a.site != b.site for a, b in pairwise(ordered))
    return Check(
        "no two sites took records at the same time",
        not overlaps and changes == moves,
        f"{len(ordered)} records, the writing site changed {changes} times in {moves} moves, {len(overlaps)} overlaps",
    )


def wait_until_told(watch: StandbyWatch, timeout_s: float) -> Told | None:
    """Waits until the standby says that it is promotable; what it said last, promotable or not."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        told = watch.newest()
        if told is not None and told.promotable:
            return told
        time.sleep(WATCH_EVERY_S)
    return watch.newest()

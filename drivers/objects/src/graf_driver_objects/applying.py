"""Applying a generation at this site, object by object, and telling what stands in the way.

An object is overwritten only when it is as it was when both sites last agreed on it (its *base*), or by policy `force`,
then after archiving it. It is deleted only by a tombstone, and only when it is one that the sites share and nobody here
changed it. Every write carries the resource version that the decision was made on.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graf_driver_objects import model
from graf_driver_objects.cluster import Cluster, ClusterError
from graf_driver_objects.ledger import Ledger, Store
from graf_driver_objects.model import Generation, Manifest, Ref
from graf_driver_objects.parameters import Parameters, Selection
from graf_driver_objects.transform import localise


class Stopped(Exception):  # noqa: N818 - no failure: asked to stop, or out of time; the next call continues
    """The pass ended early; what was done is in the pass."""


class State(enum.Enum):
    """An object here against what the active has."""

    SAME = "same"
    MISSING = "missing"
    BEHIND = "behind"
    DIVERGED = "diverged"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is so with one object. `wanted` None: deleted at the active. `why` names fields and managers, no values."""

    ref: Ref
    state: State
    wanted: Manifest | None = None
    live: Manifest | None = None
    why: str = ""


@dataclass(slots=True)
class Pass:
    """Progress over one generation: what is settled, with its base, and what waits, with the reason.

    Attributes:
        tried: what was looked at since the pass last came to its end; a pass that was stopped goes on behind it.
        doomed: of that, what is to be deleted: at the end, when it is known how many they are.
    """

    generation: Generation
    settled: dict[Ref, str | None] = field(default_factory=dict)
    waiting: dict[Ref, str] = field(default_factory=dict)
    archives: list[str] = field(default_factory=list)
    tried: set[Ref] = field(default_factory=set)
    doomed: list[Finding] = field(default_factory=list)
    total: int = 0

    @property
    def open(self) -> int:
        """Objects that are not yet as at the active."""
        return max(0, self.total - len(self.settled))


class Applier:
    """Of one component at this site. Blocking; one pass at a time (the caller's lock)."""

    def __init__(self, cluster: Cluster, store: Store, parameters: Parameters, manager: str, label: str) -> None:
        self.cluster = cluster
        self.parameters = parameters
        self._store = store
        self._manager = manager
        self._label = label

    def run(self, work: Pass, *, force: bool, stop: Callable[[], bool]) -> None:
        """Continues a pass to its end; after that, begins again with what waits.

        Raises:
            Stopped: `stop` said so.
            ClusterError: the API server gives no answer; what was settled stays settled.
        """
        ledger = self._store.ledger
        wanted, deleted, failed = localise(work.generation, self.parameters.transform)
        if not work.tried:
            work.waiting = dict(failed)
        work.total = len(wanted) + len(deleted) + len(failed)
        for ref in [*sorted(wanted), *sorted(deleted)]:
            if ref in work.settled or ref in work.tried:
                continue
            if stop():
                raise Stopped
            finding = self.examine(ref, wanted.get(ref), ledger)
            if ref in deleted and finding.live is not None and finding.state is State.BEHIND and not finding.why:
                work.doomed.append(finding)
            else:
                self._attempt(work, finding, force)
            work.tried.add(ref)
        self._delete(work, stop)
        work.doomed.clear()
        work.tried.clear()

    def finish(self, work: Pass) -> None:
        """Makes a pass that came to its end durable: position, bases, tombstones; then the journal is let go."""
        _, deleted, _ = localise(work.generation, self.parameters.transform)
        ledger = self._store.ledger
        base = {ref: footprint for ref, footprint in ledger.base.items() if ref not in work.settled}
        base |= {ref: footprint for ref, footprint in work.settled.items() if footprint is not None}
        self._store.change(
            position=work.generation.position,
            floor=max(ledger.floor, work.generation.epoch),
            base=base,
            tombstones=tuple(sorted(deleted)),
            left={ref: footprint for ref, footprint in ledger.left.items() if ref not in work.settled},
            waiting=tuple(sorted(work.waiting)),
        )
        self._store.release()

    def examine(self, ref: Ref, wanted: Manifest | None, ledger: Ledger) -> Finding:
        """Reads one object and compares; changes nothing."""
        try:
            live = self.cluster.get(ref)
        except ClusterError as error:
            if error.unreachable:
                raise
            return Finding(ref, State.DIVERGED, wanted, None, str(error))
        base = ledger.base.get(ref)
        if live is None:
            return Finding(ref, State.SAME if wanted is None else State.MISSING, wanted)
        if held := model.held_by(live):
            rest = "deleted at the active, and" if wanted is None else "made anew when it is gone:"
            return Finding(ref, State.BEHIND, wanted, live, f"{rest} here its deletion waits for {held}")
        if wanted is not None and model.matches(live, wanted):
            return Finding(ref, State.SAME, wanted, live)
        is_shell = wanted is not None and base is None and model.is_hollow(live)
        if is_shell or model.untouched(live, base, self._manager):
            return Finding(ref, State.BEHIND, wanted, live)
        return Finding(ref, State.DIVERGED, wanted, live, self._why(live, wanted, base))

    def extras(self, generation: Generation) -> list[Manifest]:
        """Objects that this site's selections choose and the generation knows nothing of; a complete list or an error.

        Raises:
            ClusterError: a list failed.
        """
        wanted, deleted, failed = localise(generation, self.parameters.transform)
        ledger, found = self._store.ledger, {}
        for selection in self.parameters.selections:
            listed, _ = self.cluster.listing(selection)
            found.update(listed)
        known = set(wanted) | deleted | set(failed)
        return [
            live
            for ref, live in sorted(found.items())
            if ref not in known
            and chosen(live)
            and not model.untouched(live, ledger.left.get(ref), self._manager)
            and not model.untouched(live, ledger.base.get(ref), self._manager)
        ]

    def survey(self, generation: Generation) -> list[Finding]:
        """Every object of a generation against this site; changes nothing."""
        ledger = self._store.ledger
        wanted, deleted, failed = localise(generation, self.parameters.transform)
        found = [self.examine(ref, wanted.get(ref), ledger) for ref in [*sorted(wanted), *sorted(deleted)]]
        return found + [Finding(ref, State.DIVERGED, None, None, why) for ref, why in sorted(failed.items())]

    def _attempt(self, work: Pass, finding: Finding, force: bool) -> None:
        try:
            self._settle(work, finding, force)
        except ClusterError as error:
            if error.unreachable and error.status != 500:
                raise
            # 500 is this object's: it has just been read. Whether it was written after all, the next look tells.
            hint = " (a webhook that does not answer, or a field of the wrong type: see the parameter transform)"
            work.waiting[finding.ref] = f"{error}{hint if error.status == 500 else ''}"

    def _settle(self, work: Pass, finding: Finding, force: bool) -> None:
        ref, live, wanted = finding.ref, finding.live, finding.wanted
        if live is not None and model.held_by(live):
            work.waiting[ref] = finding.why
            return
        if wanted is None:
            if live is None and not finding.why:
                work.settled[ref] = None
            elif force and live is not None and self._is_ours(live):
                self._remove(work, finding)
            else:
                work.waiting[ref] = f"deleted at the active, kept here: {finding.why}"
            return
        if finding.state is State.SAME and live is not None:
            ours = live if self._is_ours(live) else self.cluster.apply(self._body(wanted, "adopted"))
            work.settled[ref] = model.footprint(ours, self._manager)
        elif finding.state is State.MISSING:
            work.settled[ref] = model.footprint(self.cluster.apply(self._body(wanted, "created")), self._manager)
        elif finding.state is State.BEHIND and live is not None:
            self._replace(work, ref, wanted, live)
        elif force and live is not None:
            work.archives.append(self._store.archive([live], "overwritten"))
            self._replace(work, ref, wanted, live)
        else:
            work.waiting[ref] = finding.why

    def _replace(self, work: Pass, ref: Ref, wanted: Manifest, live: Manifest) -> None:
        """Overwrites it; what cannot be changed in place is deleted as it was read, and made anew."""
        try:
            work.settled[ref] = self._overwrite(wanted, live)
            return
        except ClusterError as error:
            if error.status != 422 or not model.is_fixed(live, wanted):
                raise
        if not self.parameters.deletions:
            refused = "the parameter deletions is false"
        else:
            one = Selection(ref.api_version, ref.kind, ref.namespace, name=ref.name)
            denied = self.cluster.denied(one, ("delete", "create"), ref.namespace)  # else it would be gone for good
            refused = f"{' and '.join(denied)} is not allowed" if denied else ""
            refused = refused or self._could_not_create(wanted)
        if refused:
            what = "is immutable here" if live.get("immutable") else "has another type here, which nobody can change"
            work.waiting[ref] = f"{what}, and {refused}: delete it by hand at this site and make it as at the active"
            return
        work.archives.append(self._store.archive([live], "replaced"))
        self.cluster.delete(live)
        work.settled[ref] = model.footprint(self.cluster.apply(self._body(wanted, "created")), self._manager)

    def _could_not_create(self, wanted: Manifest) -> str:
        """Why it would not come back when it was deleted; "" when it would."""
        try:
            self.cluster.could_create(self._body(wanted, "created"))
        except ClusterError as error:
            if error.unreachable and error.status != 500:
                raise
            return f"making it anew would fail ({error})"
        return ""

    def _overwrite(self, wanted: Manifest, live: Manifest) -> str:
        origin = (live["metadata"].get("annotations") or {}).get(model.ORIGIN, "adopted")
        body = self._body(wanted, origin)
        body["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
        result = self.cluster.apply(body, force=True)
        if model.is_exact(wanted) and not model.matches(result, wanted):
            # Apply takes nothing away that another manager put there; the object is to be as at the active.
            whole = {name: value for name, value in wanted.items() if name != "metadata"}
            result = self.cluster.replace({**whole, "metadata": result["metadata"]})
        return model.footprint(result, self._manager)

    def _delete(self, work: Pass, stop: Callable[[], bool]) -> None:
        """Each is deleted as it was read, however long ago; what came of it is in the pass, so that it can go on."""
        doomed, limit = work.doomed, self.parameters.max_deletions
        reason = ""
        if not self.parameters.deletions:
            reason = "deleted at the active, kept here: the parameter deletions is false"
        elif len(doomed) > limit:
            reason = f"{len(doomed)} deletions at once are more than maxDeletions {limit}: check, then raise it"
        for finding in doomed:
            if reason:
                work.waiting[finding.ref] = reason
                continue
            if finding.ref in work.settled or finding.ref in work.waiting:
                continue
            if stop():
                raise Stopped
            try:
                self._remove(work, finding)
            except ClusterError as error:
                if error.unreachable:
                    raise
                work.waiting[finding.ref] = str(error)

    def _remove(self, work: Pass, finding: Finding) -> None:
        if finding.live is not None:
            work.archives.append(self._store.archive([finding.live], "deleted"))
            self.cluster.delete(finding.live)
            live = self.cluster.get(finding.ref)
            if live is not None and (held := model.held_by(live)):
                work.waiting[finding.ref] = f"deleted at the active, and here its deletion waits for {held}"
                return
        work.settled[finding.ref] = None

    def _body(self, wanted: Manifest, origin: str) -> Manifest:
        body = copy.deepcopy(wanted)
        body["metadata"].setdefault("labels", {})[model.LABEL] = self._label
        body["metadata"].setdefault("annotations", {})[model.ORIGIN] = origin
        return body

    def _is_ours(self, live: Mapping[str, Any]) -> bool:
        return (live["metadata"].get("labels") or {}).get(model.LABEL) == self._label

    def _why(self, live: Manifest, wanted: Manifest | None, base: str | None) -> str:
        managers = {str(entry.get("manager")) for entry in live["metadata"].get("managedFields") or []}
        names = ", ".join(sorted(managers - {self._manager, "graf-objects-replace"})) or "nobody known"
        history = "was changed here" if base is not None else "is here and was never the same at both sites"
        where = ""
        if wanted is not None:
            paths = model.differences(model.normalise(live), wanted, model.is_exact(wanted))
            where = f" in {', '.join(paths[:5])}{' and more' if len(paths) > 5 else ''}"
        return f"{history}{where}; managers: {names}"


def divergence(findings: Iterable[Finding], extras: Iterable[Manifest]) -> dict[Ref, str]:
    """What this site has and the active has not, with the reason."""
    diverged = {finding.ref: finding.why for finding in findings if finding.state is State.DIVERGED}
    return diverged | {Ref.of(live): "only here" for live in extras}


def chosen(live: Mapping[str, Any]) -> bool:
    """Whether an object may be shipped: not what each cluster makes for itself."""
    if live["apiVersion"] != "v1":
        return True
    if live["kind"] == "Secret":
        return str(live.get("type")) not in ("kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token")
    return not (live["kind"] == "ConfigMap" and live["metadata"]["name"] == "kube-root-ca.crt")


def listed(refs: Iterable[tuple[Ref, str]], limit: int = 20) -> str:
    """Objects with reasons, for a status."""
    everything = sorted(refs)
    text = "; ".join(f"{ref}: {why}" if why else str(ref) for ref, why in everything[:limit])
    return text + (f"; and {len(everything) - limit} more" if len(everything) > limit else "")

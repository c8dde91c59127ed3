"""One component at this site: its role, and what runs for it. Blocking; the driver calls it in threads.

Invariants: at most one of source and follower runs; without either nothing is offered and nothing is written; a process
that starts has no role (FENCED) until it is given one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from graf_driver_sdk.errors import DriverError, InvalidParametersError, NeedsResyncError, NotActiveError
from graf_driver_sdk.types import (
    Assessment,
    ComponentKey,
    EnsureRole,
    Peer,
    PositionReached,
    Progress,
    Quiesced,
    Resynced,
    ResyncStrategy,
    Role,
    Verdict,
)

from graf_driver_objects import model
from graf_driver_objects.applying import Applier, Finding, Pass, State, Stopped, divergence, listed
from graf_driver_objects.cluster import Cluster, ClusterError
from graf_driver_objects.exchange import Asker, Endpoints, ExchangeError, path_of
from graf_driver_objects.follower import Follower
from graf_driver_objects.ledger import Store, directory_of
from graf_driver_objects.model import Generation, Position, Ref
from graf_driver_objects.parameters import Parameters, parse
from graf_driver_objects.source import Source

_STEP_S: Final = 2.0
_STOP_S: Final = 2.0
_FIRST_S: Final = 0.5


class Component:
    """See the module. Public methods take the component's lock, so that role and work never change side by side."""

    def __init__(self, key: ComponentKey, endpoints: Endpoints, notify: Callable[[], None]) -> None:
        self.key = key
        self.role = Role.FENCED
        self.store = Store(directory_of(key.group, key.component))
        self.source: Source | None = None
        self.follower: Follower | None = None
        self.work: Pass | None = None
        self.message = ""
        self._endpoints = endpoints
        self._notify = notify
        self._cluster: tuple[object, Cluster] | None = None
        self._following: object = None
        self._listening = ""
        self._path = path_of(key.group, key.component)
        self._manager = model.manager_of(key.group, key.component)
        self._lock = threading.RLock()

    def ensure(self, request: EnsureRole, parameters: Parameters) -> Progress:
        """Begins or continues a role."""
        with self._lock:
            if request.role is Role.ACTIVE:
                return self._activate(request, parameters)
            self._end_source()
            if request.role is Role.STANDBY:
                return self._stand_by(request, parameters)
            if not self._end_follower():
                return Progress.pending("a request to the API server is still in flight", 200)
            self.role, self.work = request.role, None
            return Progress.done("offers nothing and writes nothing")

    def quiesce(self) -> Quiesced:
        """The last generation of this epoch."""
        with self._lock:
            source = self._active("Quiesce")
            position = source.settle()
            if position is None:
                return Quiesced(Progress.pending(f"the last generation cannot be made yet: {source.trouble}", 500))
            return Quiesced(Progress.done("offers no further generation"), str(position))

    def unquiesce(self) -> Progress:
        """Offers generations again."""
        with self._lock:
            self._active("Unquiesce").thaw()
            return Progress.done("offers every change again")

    def reached(self, position: Position) -> PositionReached:
        """Whether it is applied here, whole."""
        ledger = self.store.ledger
        here = str(ledger.position)
        if not ledger.position.covers(position):
            return PositionReached(False, here, f"applied is {here or 'nothing'}")
        if ledger.waiting:
            waiting = listed((ref, "") for ref in ledger.waiting)
            text = f"{len(ledger.waiting)} objects were not applied because of conflicts: {waiting}"
            return PositionReached(False, here, f"{text}; see the status, remove them, or set conflicts: force")
        return PositionReached(True, here)

    def assess(self, parameters: Parameters, active: Peer) -> Assessment:
        """Compares every object with the active's generation; changes nothing."""
        ledger = self.store.ledger
        here = str(ledger.position)
        try:
            applier = self._applier(parameters)
            generation = self._fetch(parameters, active)
            findings = applier.survey(generation)
            extras = applier.extras(generation)
        except (ExchangeError, ClusterError) as error:
            return Assessment(Verdict.UNKNOWN, here, "", "", f"{error}. Hold, and assess again")
        diverged = divergence(findings, extras)
        verdict = _verdict(findings, bool(diverged))
        behind = sum(finding.state in (State.MISSING, State.BEHIND) for finding in findings)
        message = f"{len(findings)} objects compared, {behind} behind, {len(diverged)} divergent"
        return Assessment(verdict, here, str(generation.position), listed(diverged.items(), 100), message)

    def resync(self, parameters: Parameters, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        """Archives what diverged (REBUILD), then applies the active's generation. Continues its own pass."""
        with self._lock:
            if self.role is Role.ACTIVE:
                raise NotActiveError(f"{self.key} is the active and has nothing to resync from; fence it first")
            if not self._end_follower():
                return Resynced(Progress.pending("a request to the API server is still in flight", 200))
            try:
                return self._resync(parameters, active, strategy, epoch)
            except (ExchangeError, ClusterError) as error:
                return Resynced(Progress.pending(str(error), 1000))

    def close(self) -> None:
        """The process ends: stops at once what runs. The objects stay as they are."""
        if self.source is not None:
            self.source.stop()
        if self.follower is not None:
            self.follower.stop(_STOP_S)

    def cluster(self, parameters: Parameters) -> Cluster:
        """Access to this site's API server.

        Raises:
            ClusterError: there is none.
        """
        stamp: object = parameters.kubeconfig
        if parameters.kubeconfig is not None and parameters.kubeconfig.exists():
            stamp = (parameters.kubeconfig, parameters.kubeconfig.stat().st_mtime_ns)
        if self._cluster is None or self._cluster[0] != stamp:
            self._cluster = (stamp, Cluster(parameters.kubeconfig, self._manager))
        return self._cluster[1]

    def _activate(self, request: EnsureRole, parameters: Parameters) -> Progress:
        if not self._end_follower():
            return Progress.pending("a request to the API server is still in flight", 200)
        source = self.source
        if source is None or source.epoch != request.epoch or source.parameters != parameters:
            self._end_source()
            try:
                if (waiting := self._complete(parameters)) is not None:
                    return waiting
                cluster = self.cluster(parameters)
            except ClusterError as error:
                return Progress.pending(f"a generation is half applied and cannot be completed: {error}", 500)
            self.store.change(floor=max(self.store.ledger.floor, request.epoch), waiting=())
            source = Source(self.key.site, request.epoch, parameters, cluster, self.store, self._notify)
            source.start()
            source.made.wait(_FIRST_S)  # usually at once; a role never depends on it
            self.source = source
        source.admit(_identities(request.peers))
        try:
            self._endpoints.serve(parameters.listen, parameters.tls_directory, self._path, source.answer)
            self._listening, self.message = parameters.listen, ""
        except ExchangeError as error:
            self.message = str(error)  # the function can serve without it; nobody can follow, and the status says so
        self.role, self.work = Role.ACTIVE, None
        return Progress.done("offers its objects to the peers")

    def _complete(self, parameters: Parameters) -> Progress | None:
        """Applies what was received whole and not yet applied: a promotion leaves no generation half."""
        kept = self.store.kept()
        if kept is None:
            return None
        work = self._pass(kept)
        applier = self._applier(parameters)
        try:
            applier.run(work, force=parameters.force, stop=_deadline(_STEP_S))
        except Stopped:
            return Progress.pending(f"completing generation {kept.number}: {work.open} objects to go", 10)
        applier.finish(work)
        return None

    def _stand_by(self, request: EnsureRole, parameters: Parameters) -> Progress:
        active = request.active_peer
        theirs = parse(active.parameters)[0] if active is not None else None
        wanted = (active.site if active else "", theirs, parameters, request.epoch)
        if wanted == self._following:
            return self._joined(active)
        if not self._end_follower():
            return Progress.pending("a request to the API server is still in flight", 200)
        self.store.change(floor=max(self.store.ledger.floor, request.epoch))
        self.message, self.work = "", None
        if active is not None and theirs is not None:
            try:
                asker, applier = self._asker(parameters, active, theirs), self._applier(parameters)
            except (ClusterError, ExchangeError) as error:
                raise DriverError(str(error)) from error
            self.follower = Follower(active.site, request.epoch, asker, applier, self.store, self._notify)
            self.follower.start()
        elif active is not None:
            self.message = f"the parameters of {active.site} cannot be used, so it cannot be followed; validate them"
        else:
            self.message = "no active is named, so nothing is followed"
        self._following = wanted
        return self._joined(active)

    def _joined(self, active: Peer | None) -> Progress:
        """STANDBY once the comparison with the active is done, or the active could not be asked: then it comes later.

        Raises:
            NeedsResyncError: this site has what the active has not.
        """
        follower = self.follower
        if follower is None or active is None:
            self.role = Role.STANDBY
            return Progress.done(self.message)
        if not follower.joined.wait(_FIRST_S):
            return Progress.pending(f"compares its objects with those of {active.site}", 100)
        if follower.diverged:
            self._end_follower()
            raise NeedsResyncError(
                f"{self.key} has diverged from {active.site}: {follower.diverged}. Assess it, then call Resync with "
                f"REBUILD: it archives what is here"
            )
        self.role = Role.STANDBY
        return Progress.done(f"follows {active.site}")

    def _resync(self, parameters: Parameters, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        applier = self._applier(parameters)
        generation = self._fetch(parameters, active)
        floor = max(epoch, self.store.ledger.floor)
        if generation.epoch < floor:
            text = f"{active.site} offers epoch {generation.epoch}, but epoch {floor} has been seen here: not used"
            return Resynced(Progress.pending(text, 1000))
        work = self._pass(generation)
        diverged = [finding for finding in applier.survey(generation) if finding.state is State.DIVERGED]
        extras = applier.extras(generation)
        if (diverged or extras) and strategy is ResyncStrategy.FOLLOW:
            names = listed([(finding.ref, "") for finding in diverged] + [(Ref.of(live), "") for live in extras])
            raise NeedsResyncError(
                f"{self.key} has diverged from {active.site}: {names}. "
                f"Call Resync with REBUILD: it archives what is here"
            )
        stale = [finding.live for finding in diverged if finding.live is not None]
        if (archived := self.store.archive([*stale, *extras], "divergent")) != "":
            work.archives.append(archived)
        left = {Ref.of(live): model.footprint(live, self._manager) for live in extras}
        self.store.change(left={**self.store.ledger.left, **left}, floor=floor)
        self.store.keep(generation)
        try:
            applier.run(work, force=True, stop=_deadline(_STEP_S))
        except Stopped:
            return Resynced(Progress.pending(f"{work.open} objects to go", 10))
        applier.finish(work)
        self.work = None
        if work.waiting:
            text = f"generation {generation.number} is here except: {listed(work.waiting.items())}"
            return Resynced(Progress.pending(text, 2000))
        archives = ", ".join(filter(None, work.archives))
        return Resynced(Progress.done(f"generation {generation.number} is here"), archives)

    def _pass(self, generation: Generation) -> Pass:
        """The pass in progress when it is over the same generation, else a new one."""
        if self.work is None or self.work.generation.position != generation.position:
            self.work = Pass(generation)
        return self.work

    def _fetch(self, parameters: Parameters, active: Peer) -> Generation:
        theirs, problems = parse(active.parameters)
        if theirs is None:
            raise InvalidParametersError(problems, f"the parameters of the active {active.site}")
        ledger = self.store.ledger
        asker = self._asker(parameters, active, theirs)
        try:
            _, generation = asker.ask(ledger.floor, Position(), Position(), 0.0, fresh=True)
        finally:
            asker.close()
        if generation is None or generation.site != active.site:
            raise ExchangeError(f"{active.site} gave no generation of its own; check its endpoint")
        if generation.epoch < ledger.floor:
            raise ExchangeError(
                f"{active.site} offers epoch {generation.epoch}, but epoch {ledger.floor} has been seen here: deposed"
            )
        return generation

    def _asker(self, parameters: Parameters, active: Peer, theirs: Parameters) -> Asker:
        return Asker(theirs.endpoint, theirs.identity_at(active.site), parameters.tls_directory, self._path)

    def _applier(self, parameters: Parameters) -> Applier:
        label = model.label_of(self.key.group, self.key.component)
        return Applier(self.cluster(parameters), self.store, parameters, self._manager, label)

    def _active(self, call: str) -> Source:
        if self.role is not Role.ACTIVE or self.source is None:
            raise NotActiveError(f"{call} of {self.key} is refused: it is {self.role.name}, not ACTIVE")
        return self.source

    def _end_source(self) -> None:
        source, self.source = self.source, None
        if source is not None:
            source.stop()
        if self._listening:
            self._endpoints.forget(self._listening, self._path)
            self._listening = ""
        if self.role is Role.ACTIVE:
            self.role = Role.FENCED

    def _end_follower(self) -> bool:
        if self.follower is not None and not self.follower.stop(_STOP_S):
            return False
        self.follower = self._following = None
        if self.role is Role.STANDBY:
            self.role = Role.FENCED
        return True


def _verdict(findings: list[Finding], diverged: bool) -> Verdict:
    """EMPTY is of the objects alone: what the ledger remembers is of no use to a site whose objects are gone."""
    if diverged:
        return Verdict.DIVERGED
    wanted = [finding for finding in findings if finding.wanted is not None]
    if wanted and all(finding.state is State.MISSING for finding in wanted):
        return Verdict.EMPTY
    if any(finding.state is not State.SAME for finding in findings):
        return Verdict.BEHIND
    return Verdict.CLEAN


def _identities(peers: tuple[Peer, ...]) -> dict[str, str]:
    found = {}
    for peer in peers:
        theirs, _ = parse(peer.parameters)
        if theirs is not None:
            found[theirs.identity_at(peer.site)] = peer.site
    return found


def _deadline(seconds: float) -> Callable[[], bool]:
    ends = time.monotonic() + seconds
    return lambda: time.monotonic() >= ends

"""Bugs of the data component: what a driver promotes, acknowledges, throws away and takes for evidence."""

from __future__ import annotations

from graf.api.values import Role, Verdict
from graf.sim.bugs.bug import Bug, Patch, planting
from graf.sim.database import Database, Outcome
from graf.sim.gate import Gate

_activate, _connect, _crash = Database._activate, Database._connect, Database.crash
_assess, _look = Database.assess, Database.look


def _always(_self: Database) -> bool:
    return True


def _evidence_at_once(self: Database, active: str) -> Outcome:
    outcome = _connect(self, active)
    if outcome is Outcome.DONE:
        self.evidence = True
    return outcome


def _evidence_survives(self: Database) -> None:
    evidence = self.evidence
    _crash(self)
    self.evidence = evidence


def _relay_log_discarded(self: Database, members: frozenset[str]) -> Outcome:
    if self.process.alive and self.role is not Role.ACTIVE and (self.promotable or self._first_of_all()):
        self.relay.clear()
    return _activate(self, members)


def _waits_for_one_heartbeat(self: Database) -> None:
    """A write that has waited for a heartbeat is acknowledged without those that it waits for."""
    _look(self)
    heartbeat_ns = self.world.settings.timing.heartbeat_ns
    while self.serving and self.pending and self.process.clock() - self.pending[0][2] > heartbeat_ns:
        _position, number, _since = self.pending.popleft()
        self.world.answer_client(self, number, protected=True)


def _never_on_again(self: Database) -> None:
    off = self.semi_sync_off
    _look(self)
    self.semi_sync_off = off


def _rebuilt_from_anybody(self: Database, active: str, epoch: int) -> bool:
    """The copy is taken from whatever site can be reached, Active or not."""
    sources = [
        db
        for db in self.world.databases.values()
        if db is not self and db.process.runs and self.world.network.both_ways(self.site, db.site)
    ]
    if self.stuck or not self.process.runs or epoch < self.guard or self.role is Role.ACTIVE or not sources:
        return False
    self.archived += 1
    self.log = list(sources[0].log)
    self.relay.clear()
    self.was_active = self.evidence = False
    self.role, self.source = None, ""
    self._disconnect()
    return True


def _diverged_taken_for_clean(self: Database, active: str) -> Verdict:
    verdict = _assess(self, active)
    return Verdict.CLEAN if verdict is Verdict.DIVERGED else verdict


def _takes_any_epoch(self: Database | Gate, epoch: int) -> bool:
    self.world.monitors.driver_called(self.site, "db" if isinstance(self, Database) else "net", epoch, taken=True)
    return True


BUGS = (
    Bug(
        "promotable-unknown-taken-for-true",
        "A driver promotes its data without evidence that everything acknowledged is there.",
        ("I2",),
        planting(Patch(Database, "promotable", property(_always))),
        needs=("hold-apply", "crash-database", "crash-site"),
    ),
    Bug(
        "promoted-on-a-partial-read",
        "A standby counts as complete when it begins to read, not when it has read what the active had.",
        ("I2", "I8", "I11"),
        planting(Patch(Database, "_connect", _evidence_at_once)),
        needs=("hold-apply", "crash-database", "crash-site"),
    ),
    Bug(
        "evidence-survives-a-crash",
        "A server that lost its relay log in a crash still counts as complete.",
        ("I2", "I8"),
        planting(Patch(Database, "crash", _evidence_survives)),
        needs=("hold-apply", "crash-database", "crash-site"),
    ),
    Bug(
        "relay-log-discarded-at-promotion",
        "A promotion begins before the relay log is applied, and throws the rest away.",
        ("I2",),
        planting(Patch(Database, "_activate", _relay_log_discarded)),
        needs=("hold-apply", "isolate-site"),
    ),
    Bug(
        "diverged-taken-for-clean",
        "A site that comes back with writes of its own is said to be clean.",
        ("I8",),
        planting(Patch(Database, "assess", _diverged_taken_for_clean)),
        needs=("isolate-site", "flap-link"),
    ),
    Bug(
        "semi-sync-falls-back",
        "A write that waits for too long is acknowledged without the sites that it waits for.",
        ("I2",),
        planting(Patch(Database, "look", _waits_for_one_heartbeat)),
        needs=("flap-link",),
    ),
    Bug(
        "semi-sync-never-on-again",
        "A driver does not look whether synchronous replication is still on.",
        ("I8",),
        planting(Patch(Database, "look", _never_on_again)),
        needs=("semi-sync-off",),
    ),
    Bug(
        "rebuilt-from-a-site-that-is-not-active",
        "A site that comes back copies its data from whoever can be reached.",
        ("I2",),
        planting(Patch(Database, "rebuild", _rebuilt_from_anybody)),
        needs=("crash-site", "isolate-site", "flap-link"),
    ),
    Bug(
        "driver-without-epoch-guard",
        "Drivers take a call of a lower epoch than one they have seen.",
        ("I1", "I4", "I5"),
        planting(Patch(Database, "_admits", _takes_any_epoch), Patch(Gate, "_admits", _takes_any_epoch)),
        needs=("isolate-site", "crash-controller"),
    ),
)

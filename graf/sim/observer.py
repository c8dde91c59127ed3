"""What can be seen of a world from outside: who was answered what and when, and how the group stands now.

Conditions of scenario files are read here, in the words of docs/reference/scenarios.md and as the lab reads them:
who is active from what clients were answered, the rest from what the sites say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graf.api.timing import MILLISECOND_NS, SECOND_NS
from graf.api.values import Role
from graf.core.messages import Release
from graf.sim.manager import FINAL
from graf.sim.world import USERS, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.scenario.steps import After
    from graf.sim.controller import Controller
    from graf.sim.database import Database
    from graf.sim.kernel import Process
    from graf.sim.settings import Settings

# A reason's code at the beginning of its text.
CODE = re.compile(r"\b([A-Z][A-Za-z]+)(?=:|;|$)")
READ_GAP_NS = 10 * MILLISECOND_NS
SERVING_WRITES = 25
QUIET_NS = SECOND_NS
ACTIVE_WITHIN_NS = SECOND_NS // 2


class ConditionError(Exception):
    """A condition that can never hold any more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An acknowledgement that a client got.

    Attributes:
        by_right: The site was the newest that had won the group when it was asked, not one that had been replaced.
    """

    at_ns: int
    site: str
    number: int
    by_right: bool


class ObservedWorld(World):
    """A world with an observer: it reads everywhere all the time, and remembers what clients were told.

    Attributes:
        answers: Every acknowledgement, protected by semi-synchronous replication or not: the client cannot know.
        dual_served_ns: When two sites answered a read at once.
        handed_over: By epoch of the old active: to whom it gave the group in a planned move, and of which operation.
    """

    def __init__(self, settings: Settings, story: list[str] | None = None) -> None:
        self.answers: list[Answer] = []
        self.dual_served_ns: list[int] = []
        self.handed_over: dict[int, tuple[str, str]] = {}
        self._asked_too_late: set[int] = set()
        super().__init__(settings, story)
        self.kernel.at(1, None, self._read)

    def _read(self) -> None:
        answering = [
            site
            for site, gate in self.gates.items()
            if gate.is_open and self.databases[site].process.runs and self.network.both_ways(USERS, site)
        ]
        if len(answering) > 1:
            self.dual_served_ns.append(self.kernel.now)
        self.kernel.at(self.kernel.now + READ_GAP_NS, None, self._read)

    def client_writes(self, site: str, number: int) -> None:
        """Notes whether the site has been replaced; a late answer to an old question is no second service."""
        newest = max(self.monitors.won_epochs, default=0)
        if self.monitors.won_epochs.get(newest) != site:
            self._asked_too_late.add(number)

    def answer_client(self, database: Database, number: int, *, protected: bool) -> None:
        """A write is acknowledged, if its answer still gets out."""
        site = database.site
        if self.gates[site].is_open and self.network.open(site, USERS):
            self.answers.append(Answer(self.kernel.now, site, number, number not in self._asked_too_late))
        super().answer_client(database, number, protected=protected)

    def send(self, src: Process, dst: str, handler: str, *message: Any) -> None:
        """Notes a planned hand-over on its way to the voters."""
        for part in message:
            if isinstance(part, Release) and part.operation:
                self.handed_over[part.epoch] = (part.successor, part.operation)
        super().send(src, dst, handler, *message)


class Sight:
    """Conditions on a world. Each gives an empty text when it holds, else what is missing.

    Attributes:
        since_ns: When the step before began: what counts as new.
        operation: The planned move that was asked for last.
    """

    def __init__(self, world: ObservedWorld, names: dict[str, tuple[str, ...]]) -> None:
        self._world = world
        self._kernel = world.kernel
        self._names = names
        self._counts_before: dict[str, int] = {}
        self._begun_ns = 0
        self.since_ns = 0
        self.operation = ""

    def begin(self) -> None:
        """What is said from now on counts."""
        self._counts_before = dict(self._kernel.counts)
        self._begun_ns = self.since_ns = self._kernel.now

    def missing(self, after: After) -> str:
        """What is missing for the condition of a step."""
        checks: list[tuple[object, Callable[[], str]]] = [
            (after.active_is, lambda: self.active(after.active_is or "")),
            (after.serving, lambda: self.served() if after.serving else self.silent()),
            (after.set_is, lambda: self._set_is(after.set_is or ())),
            (after.standby_promotable, lambda: self._promotable(self._site(after.standby_promotable or ""))),
            (after.operation_ended, lambda: self._ended(after.operation_ended or "")),
            (after.holds_because, lambda: self._said(after.holds_because or "")),
        ]
        return next((lacking for given, check in checks if given is not None and (lacking := check())), "")

    def _site(self, role: str) -> str:
        return self._names[role][0]

    def _answers(self, within_ns: int) -> list[Answer]:
        since_ns = self._kernel.now - within_ns
        found: list[Answer] = []
        for answer in reversed(self._world.answers):
            if answer.at_ns < since_ns:
                break
            found.append(answer)
        return found

    def active(self, role: str) -> str:
        """The site with this role acknowledges writes now, alone; `nobody`: none has for a second."""
        if role == "nobody":
            sites = sorted({answer.site for answer in self._answers(QUIET_NS)})
            return f"{', '.join(sites)} acknowledged a write within the last second" if sites else ""
        now = {answer.site for answer in self._answers(ACTIVE_WITHIN_NS) if answer.at_ns >= self.since_ns}
        return "" if now == {self._site(role)} else f"{', '.join(sorted(now)) or 'nobody'} acknowledges writes"

    def served(self) -> str:
        """Writes sent since the step before are acknowledged."""
        number = len(self._answers(self._kernel.now - self.since_ns))
        return "" if number >= SERVING_WRITES else f"{number} of {SERVING_WRITES} writes acknowledged"

    def silent(self) -> str:
        """No write has been acknowledged for a second."""
        recent = len(self._answers(QUIET_NS))
        return f"{recent} writes acknowledged within the last second" if recent else ""

    def holder(self) -> Controller | None:
        """The site that says that it is active."""
        active = [c for c in self._world.controllers.values() if c.process.runs and c.role is Role.ACTIVE]
        return max(active, key=lambda c: c.epoch, default=None)

    def members(self) -> frozenset[str]:
        """The synchronous set that the active site tells."""
        holder = self.holder()
        held = holder.part.held if holder is not None else None
        return held.current.members if held is not None else frozenset()

    def _set_is(self, roles: tuple[str, ...]) -> str:
        wanted, members = {self._site(role) for role in roles}, self.members()
        return "" if members == wanted else f"the synchronous set is {', '.join(sorted(members)) or 'unknown'}"

    def _promotable(self, site: str) -> str:
        controller = self._world.controllers[site]
        if not controller.process.runs:
            return f"{site} is down"
        if controller.role is not Role.STANDBY:
            return f"{site} is {controller.role}"
        if not controller.status()[2]:
            return f"{site} is not promotable"
        return "" if site in self.members() else f"{site} is not in the synchronous set"

    def settled(self, active: str, standby: str) -> str:
        """One site is active and another, if named, could take over."""
        holder = self.holder()
        if holder is None or holder.name != self._site(active):
            return f"active is {holder.name if holder is not None else 'nobody'}"
        return self._promotable(self._site(standby)) if standby else ""

    def _ended(self, wanted: str) -> str:
        operation = self._world.managers.api.operations.get(self.operation)
        if operation is None:
            return "nothing has been asked for"
        if operation.state == wanted:
            return ""
        if operation.state in FINAL:
            raise ConditionError(f"the switchover ended as {operation.state}, not {wanted}: {operation.message}")
        return f"the switchover is {operation.state}"

    def _said(self, code: str) -> str:
        return "" if code in self.told() else f"no reason {code} has been told"

    def told(self) -> tuple[str, ...]:
        """Reason codes of decisions and of refused moves since the steps began."""
        found: set[str] = set()
        for key, number in self._kernel.counts.items():
            kind, _, code = key.rpartition(" ")
            if kind in ("reason", "switchover refused") and number > self._counts_before.get(key, 0):
                found.add(code)
        for operation in self._world.managers.api.operations.values():
            if operation.created_ns >= self._begun_ns and operation.state in FINAL:
                found.update(CODE.findall(operation.message))
        return tuple(sorted(found))

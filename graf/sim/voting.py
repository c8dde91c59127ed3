"""A voter of the simulator: the functions of `graf.core.voter`, a disk that takes time, and a crash at every step."""

from __future__ import annotations

from collections import deque
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from graf.api.values import Electorate, Role, SyncSet
from graf.core import messages as m
from graf.core import voter as core

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.core.voter import Promise, VoterState
    from graf.sim.kernel import Process
    from graf.sim.world import World

GROUP = "vnf"

# What a site tells its peers: role, epoch, promotable, ready, the newest set and the voters that it knows; and, where
# no write waits for a copy, for how much longer its own lacks no more than declared.
Told = tuple[Role | None, int, bool, bool, SyncSet, Electorate | None, int | None]


class SimVoter:
    """The voter part of a process.

    Invariant: an answer leaves only after the promise behind it is on the disk; requests are taken one after the other;
    a claim that comes while a promise is being written is not accepted.

    Attributes:
        disk: Durable: survives the process, is lost with the fault `lose-disk`.
        crash_next: `before` or `after`: where in its next durable step the process dies.
    """

    def __init__(self, world: World, process: Process) -> None:
        self._world = world
        self._process = process
        self.disk: dict[str, Promise] = {}
        self.disk_full = False
        self.slow = 1
        self.crash_next = ""
        self.released_at: int | None = None
        self._queue: deque[tuple[str, Any, Callable[[Any], None]]] = deque()
        self._writing = False
        self.on_change: Callable[[], None] = lambda: None
        self.on_release: Callable[[str, m.Release], None] = lambda _site, _release: None
        self.state: VoterState
        self.start()

    @property
    def name(self) -> str:
        """Name of the voter."""
        return self._process.name

    def start(self) -> None:
        """A new incarnation reads its disk."""
        self._queue.clear()
        self._writing = False
        self.state = core.VoterState(
            self.name,
            self._process.clock(),
            self._world.settings.timing.drift_ppm,
            promises=MappingProxyType(dict(self.disk)),
        )
        promise = self.promise
        self.released_at = self.state.started_ns if promise is not None and promise.released else None

    @property
    def promise(self) -> Promise | None:
        """What it has promised."""
        return self.state.promises.get(GROUP)

    def claim(self, site: str, claim: m.Claim) -> m.ClaimAnswer:
        """Answers a heartbeat at once."""
        if self._writing:
            return m.ClaimAnswer(claim.group, claim.epoch, accepted=False, reason="Busy")
        step = core.on_claim(self.state, site, claim, self._process.clock())
        self.state = step.state
        return step.answer

    def ask(self, site: str, request: Any, reply: Callable[[Any], None]) -> None:
        """Takes a request in turn; `reply` is called once what it rests on is durable."""
        self._queue.append((site, request, reply))
        if not self._writing:
            self._next()

    def _next(self) -> None:
        while self._queue and not self._writing:
            site, request, reply = self._queue.popleft()
            step = self._judge(site, request)
            if step.durable is None:
                self.state = step.state
                self._answer(site, request, step, reply)
                continue
            self._writing = True
            if self.disk_full:
                # Nothing was promised, so nothing is answered; the process goes on with the next request.
                self._process.after(self._world.disk_ns(), self._skip, reply)
                return
            if self.crash_next == "before":
                self.crash_next = ""
                self._world.faults.crash_in_step(self._process, "before the disk")
                return
            self._process.after(self._world.disk_ns() * self.slow, self._written, site, request, step, reply)

    def _judge(self, site: str, request: Any) -> core.VoterStep[Any]:
        now_ns = self._process.clock()
        match request:
            case m.Campaign():
                step: core.VoterStep[Any] = core.on_campaign(self.state, site, request, now_ns)
                self._world.monitors.campaign_judged(self, site, request, step)
            case m.Release():
                step = core.on_release(self.state, site, request)
            case m.SetUpdate():
                step = core.on_set_update(self.state, site, request)
            case _:
                step = core.on_settle(self.state, site, request)
        return step

    def _skip(self, reply: Callable[[Any], None]) -> None:
        self._writing = False
        reply(None)
        self._next()

    def _written(self, site: str, request: Any, step: core.VoterStep[Any], reply: Callable[[Any], None]) -> None:
        self._store(step)
        if self.crash_next == "after":
            self.crash_next = ""
            self._world.faults.crash_in_step(self._process, "after the disk, before the answer")
            return
        self._writing = False
        self.state = step.state
        self._answer(site, request, step, reply)
        self.on_change()
        self._next()

    def _store(self, step: core.VoterStep[Any]) -> None:
        promise = step.durable
        if promise is None:
            return
        self._world.monitors.promise_stored(self.name, self.disk.get(GROUP), promise)
        self.disk[GROUP] = promise
        if promise.released:
            self.released_at = self._process.clock()
        kernel = self._world.kernel
        kernel.mark(promise.epoch * 1_000 + promise.stored_set.version.counter)
        if kernel.story is not None:
            whose = f"epoch {promise.epoch} of {promise.site}{' released' if promise.released else ''}"
            what = f"set {promise.stored_set.describe()}, voters {promise.voters.describe()}"
            kernel.tell(self.name, f"promise on disk: {whose}, {what}")

    def _answer(self, site: str, request: Any, step: core.VoterStep[Any], reply: Callable[[Any], None]) -> None:
        answer = step.answer
        kernel = self._world.kernel
        reason = getattr(answer, "reason", "")
        if reason:
            kernel.count(f"refusal {type(request).__name__} {reason}")
            if kernel.story is not None:
                kernel.tell(self.name, f"refuses {type(request).__name__} {request.epoch} of {site}: {reason}")
        reply(answer)
        if isinstance(request, m.Release):
            self.on_release(site, request)


class SimWitness:
    """A location that votes and runs no function."""

    def __init__(self, world: World, process: Process) -> None:
        self.world = world
        self.process = process
        self.voter = SimVoter(world, process)

    def start(self) -> None:
        """After a restart."""
        self.voter.start()

    def on_beat(self, src: str, claim: m.Claim | None, sent_ns: int, _status: object) -> None:
        """Answers a heartbeat."""
        answer = self.voter.claim(src, claim) if claim is not None else None
        self.world.reply(self.process, src, "on_beat_answer", answer, sent_ns, self.record(src))

    def record(self, to: str) -> Told | None:
        """What it tells a voter of that group, as a site tells its part: no role, and nothing to be promoted."""
        promise = self.voter.promise
        if promise is None or to not in promise.voters.members:
            return None
        return (None, promise.epoch, False, False, promise.stored_set, promise.voters, None)

    def on_request(self, src: str, request: Any) -> None:
        """Answers a campaign, release, set update or settle."""
        self.voter.ask(src, request, lambda answer: self.world.reply(self.process, src, "on_answer", answer))

    def on_resume(self) -> None:
        """Nothing to notice."""

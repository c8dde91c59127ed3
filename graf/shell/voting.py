"""The voter at work: the pure voter of graf.core, its disk, and the order between the two."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from graf.core import messages, voter
from graf.core.voter import Promise, VoterState, VoterStep
from graf.shell.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.shell.promises import PromiseStore
    from graf.shell.wire import Answer, Request

LOG = logging.getLogger("graf.voter")


# Promises of different groups reach the disk together when a site is lost, and the disk takes several at once.
DISK_WRITERS = 4


@dataclass
class _Turn:
    """The requests of one group, one after the other."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Voting:
    """Answers a group's requests one after the other; a promise is on the disk before its answer leaves.

    Groups know nothing of each other: while one group's promise is being written, the others' holders are answered, or
    the loss of one site would cost the leases of groups that are at home at another one.

    All methods belong to one event loop. Disk writes run in threads of their own, so a slow disk delays answers
    to campaigns and never the heartbeats of this process.
    """

    def __init__(self, name: str, store: PromiseStore, drift_ppm: int = 10_000) -> None:
        self.name = name
        self._store = store
        self._blank = VoterState(name, time.monotonic_ns(), drift_ppm)
        self._states = {
            group: replace(self._blank, promises=MappingProxyType({group: promise}))
            for group, promise in store.load().items()
        }
        self._turns: dict[str, _Turn] = {}  # of groups that ask just now
        self._asking: set[asyncio.Task[Answer]] = set()
        self._disk = ThreadPoolExecutor(DISK_WRITERS, thread_name_prefix="promise-disk")
        self._released_at: dict[str, int] = {}
        self.on_change: Callable[[str], None] = lambda _group: None

    def state(self, group: str) -> VoterState:
        """The state that a group's decisions may read."""
        return self._states.get(group, self._blank)

    def promise(self, group: str) -> Promise | None:
        """The stored promise of a group."""
        return self.state(group).promises.get(group)

    def promises(self) -> list[Promise]:
        """All stored promises."""
        return [promise for state in self._states.values() for promise in state.promises.values()]

    def released_at_ns(self, group: str) -> int | None:
        """When this voter learned that the promise was given back (its start, for one read from disk)."""
        promise = self.promise(group)
        if promise is None or not promise.released:
            return None
        return self._released_at.get(group, self._blank.started_ns)

    def claim(self, site: str, claim: messages.Claim) -> messages.ClaimAnswer:
        """Answers a claim at once: nothing has to be written.

        A claim that arrives while a promise is being written is judged by the state before it; the answer to the
        new holder leaves only after the write, so the two can never overlap in time.
        """
        if claim.group in self._turns:
            # The promise on its way to disk may already bind this voter to another site: no answer is the safe one.
            return messages.ClaimAnswer(claim.group, claim.epoch, accepted=False, reason="Busy")
        step = voter.on_claim(self.state(claim.group), site, claim, time.monotonic_ns())
        self._keep(claim.group, step.state)
        return step.answer

    async def ask(self, site: str, request: Request) -> Answer:
        """Answers a campaign, a release, a set update or the end of a change of voters, as asked by `site`.

        What has begun ends within its turn, whoever stops waiting for it: a promise that is on its way to the disk must
        not land on a later one.
        """
        asking = asyncio.create_task(self._in_turn(site, request))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        return await asyncio.shield(asking)

    async def _in_turn(self, site: str, request: Request) -> Answer:
        turn = self._turns.setdefault(request.group, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                return await self._answer(site, request)
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[request.group]

    async def _answer(self, site: str, request: Request) -> Answer:
        state = self.state(request.group)
        step: (
            VoterStep[messages.CampaignAnswer]
            | VoterStep[messages.ReleaseAnswer]
            | VoterStep[messages.SetAnswer]
            | VoterStep[messages.SettleAnswer]
        )
        match request:
            case messages.Campaign():
                step = voter.on_campaign(state, site, request, time.monotonic_ns())
            case messages.Release():
                step = voter.on_release(state, site, request)
            case messages.SetUpdate():
                step = voter.on_set_update(state, site, request)
            case messages.Settle():
                step = voter.on_settle(state, site, request)
        if step.durable is not None:
            await asyncio.get_running_loop().run_in_executor(self._disk, self._store.save, step.durable)
            if step.durable.released:
                self._released_at[request.group] = time.monotonic_ns()
        self._keep(request.group, step.state)
        if step.durable is not None:
            promise = step.durable
            event(
                LOG,
                "promise stored",
                group=promise.group,
                epoch=promise.epoch,
                site=promise.site,
                released=promise.released,
                set=promise.stored_set.describe(),
                voters=promise.voters.describe(),
            )
            self.on_change(request.group)
        elif isinstance(step.answer, messages.CampaignAnswer) and not step.answer.granted:
            event(
                LOG, "campaign refused", group=request.group, site=site, epoch=request.epoch, reason=step.answer.reason
            )
        return step.answer

    def _keep(self, group: str, state: VoterState) -> None:
        if state is not self._blank:  # who asks for a group that this voter has no promise of leaves nothing behind
            self._states[group] = state

    def close(self) -> None:
        """Ends the disk threads."""
        self._disk.shutdown(wait=True)

"""The voter at work: the pure voter of graf.core, its disk, and the order between the two."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
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


class Voting:
    """Answers requests one after the other; a promise is on the disk before its answer leaves.

    All methods belong to one event loop. Disk writes run in a thread of their own, so a slow disk delays answers
    to campaigns and never the heartbeats of this process.
    """

    def __init__(self, name: str, store: PromiseStore, drift_ppm: int = 10_000) -> None:
        self.name = name
        self._store = store
        self._state = VoterState(name, time.monotonic_ns(), drift_ppm, promises=MappingProxyType(store.load()))
        self._turn = asyncio.Lock()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="promise-disk")
        self._released_at: dict[str, int] = {}
        self.on_change: Callable[[str], None] = lambda _group: None

    @property
    def state(self) -> VoterState:
        """The state that decisions may read."""
        return self._state

    def promise(self, group: str) -> Promise | None:
        """The stored promise of a group."""
        return self._state.promises.get(group)

    def released_at_ns(self, group: str) -> int | None:
        """When this voter learned that the promise was given back (its start, for one read from disk)."""
        promise = self.promise(group)
        if promise is None or not promise.released:
            return None
        return self._released_at.get(group, self._state.started_ns)

    def claim(self, site: str, claim: messages.Claim) -> messages.ClaimAnswer:
        """Answers a claim at once: nothing has to be written.

        A claim that arrives while a promise is being written is judged by the state before it; the answer to the
        new holder leaves only after the write, so the two can never overlap in time.
        """
        if self._turn.locked():
            # The promise on its way to disk may already bind this voter to another site: no answer is the safe one.
            return messages.ClaimAnswer(claim.group, claim.epoch, accepted=False, reason="Busy")
        step = voter.on_claim(self._state, site, claim, time.monotonic_ns())
        self._state = step.state
        return step.answer

    async def ask(self, site: str, request: Request) -> Answer:
        """Answers a campaign, a release, a set update or the end of a change of voters, as asked by `site`."""
        async with self._turn:
            step: (
                VoterStep[messages.CampaignAnswer]
                | VoterStep[messages.ReleaseAnswer]
                | VoterStep[messages.SetAnswer]
                | VoterStep[messages.SettleAnswer]
            )
            match request:
                case messages.Campaign():
                    step = voter.on_campaign(self._state, site, request, time.monotonic_ns())
                case messages.Release():
                    step = voter.on_release(self._state, site, request)
                case messages.SetUpdate():
                    step = voter.on_set_update(self._state, site, request)
                case messages.Settle():
                    step = voter.on_settle(self._state, site, request)
            if step.durable is not None:
                await asyncio.get_running_loop().run_in_executor(self._disk, self._store.save, step.durable)
                if step.durable.released:
                    self._released_at[request.group] = time.monotonic_ns()
            self._state = step.state
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

    def close(self) -> None:
        """Ends the disk thread."""
        self._disk.shutdown(wait=True)

"""The active side: watches the live copy, makes generations of it, and lets the other sites have them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.errors import DriverError
from graf_driver_sdk.logs import event

from graf_driver_pv import hooks
from graf_driver_pv.events import Changes, Watcher
from graf_driver_pv.manifest import Manifest, changed_in
from graf_driver_pv.outlet import Outlet
from graf_driver_pv.parameters import Mode, Parameters
from graf_driver_pv.position import Position
from graf_driver_pv.problems import told
from graf_driver_pv.seal import seal
from graf_driver_pv.store import Store, StoreError

_LOG = logging.getLogger("graf_driver_pv.active")
_RETRY_S = 1.0
_QUIET_NS = 50_000_000
_LONGEST_WAIT_NS = 500_000_000  # a file that is written without a pause is not waited for
_MEND_S = 5.0
_COMPARE_S = 300.0
_REMEMBERED = 1000
# Of the time between two comparisons of the whole tree, one takes a twentieth at most.
_COMPARISON_SHARE = 20


class Active:
    """What runs while a component is ACTIVE. It never touches the live copy, so it can be ended at any point.

    The kernel does not tell what is written through a mapping of a file before that is let go, nor what another machine
    writes on a file system that both have. So the tree is compared as a whole now and then, and for the last
    generation.
    """

    def __init__(
        self,
        store: Store,
        parameters: Parameters,
        epoch: int,
        peers: Mapping[str, str],
        opened: Position | None,
        on_change: Callable[[], None],
        outlet: Callable[[Active], Outlet],
    ) -> None:
        self._store = store
        self._parameters = parameters
        self._on_change = on_change
        self._epoch = epoch
        self._loop = asyncio.get_running_loop()
        self._dirty = asyncio.Event()
        self._loaded = asyncio.Event()
        self._looked = asyncio.Event()
        self._opened = opened  # the newest generation when the volume was opened
        self._made = asyncio.Condition()
        self._sealing = asyncio.Lock()
        self._sealing_since_ns = 0
        self._known: Manifest | None = None
        self._base: Manifest | None = None
        self._compared_wall_ms = 0  # when the newest comparison began that found nothing new
        self._compare_at_s = 0.0
        self._mend_at_s = 0.0
        self._made_ns: dict[str, int] = {}  # when the making of generations began, CLOCK_MONOTONIC; the newest last
        self.watcher: Watcher | None = None
        self.outlet = outlet(self)
        self.outlet.allowed = dict(peers)
        self._problem = ""
        self.seals = 0
        self.full_scans = 0
        self.last_seal_s = 0.0
        self.last_comparison_s = 0.0
        self._begun_ns = time.monotonic_ns()
        self._last_begun_s = float("-inf")
        self._tasks = [
            asyncio.create_task(self._seal_for_ever(), name="pv-seal"),
            asyncio.create_task(self._serve(), name="pv-serve"),
        ]

    async def stop(self) -> None:
        """Ends all of it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.outlet.stop()
        if self.watcher is not None:
            await run_blocking(self.watcher.close)

    @property
    def problem(self) -> str:
        """Why no generation is made, or none can be had; empty for nothing."""
        return self._problem or self.outlet.problem

    # -- what the outlet asks ----------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Of the role."""
        return self._epoch

    def go_on(self, epoch: int, peers: Mapping[str, str]) -> None:
        """The same role in a newer epoch, or with other peers."""
        self._epoch = epoch
        self.outlet.allowed = dict(peers)

    @property
    def manifest(self) -> Manifest | None:
        """The newest generation."""
        return self._known

    @property
    def base(self) -> Manifest | None:
        """What the live copy descends from; None when it was never a generation, or nobody has looked yet."""
        return self._known or self._base

    def newest(self) -> tuple[str, int]:
        """Its name and when it was begun."""
        return (str(self._known.position), self._known.begun_wall_ms) if self._known else ("", 0)

    def generation(self, name: str) -> Manifest | None:
        """Manifest of a complete generation; None when it is gone. Blocking."""
        position = Position.parse(name)
        try:
            return self._store.manifest(position)
        except StoreError:
            return None

    @property
    def position(self) -> str:
        """The newest generation's name, also before its manifest has been read."""
        known = self._known.position if self._known else self._opened
        return str(known or "")

    async def looked(self, timeout_s: float) -> None:
        """Waits until what the volume had when it was opened is in a generation, or cannot be."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._looked.wait()

    def ancestry(self) -> dict[str, Any]:
        """What the live copy descends from."""
        known = self.base
        return {"position": str(known.position), "lineage": sorted(known.lineage.items())} if known else {}

    def behind_s(self, have: str, begun_wall_ms: int) -> float:
        """Age of the oldest change that a generation lacks; negative when unknown."""
        known, now_ns = self._known, time.monotonic_ns()
        if known is None or not have:
            return -1.0
        if have == str(known.position) and self.watcher is not None and not self.watcher.problem:
            since = [at for at in (self.watcher.since_ns, self._sealing_since_ns) if at]
            return (now_ns - min(since)) / 1e9 if since else 0.0
        if have == str(known.position):
            begun_wall_ms = max(begun_wall_ms, self._compared_wall_ms)
        elif have in self._made_ns:
            return (now_ns - self._made_ns[have]) / 1e9
        # Of another process or site. A time that is still to come tells that a clock was set: the age is not known.
        age_s = time.time_ns() / 1e9 - begun_wall_ms / 1e3
        return age_s if age_s >= 0 else -1.0

    async def complete_until(self) -> int:
        """A time on the wall clock, ms: whatever was written before it is in the newest generation; 0 when unknown."""
        asked_ms = time.time_ns() // 1_000_000
        if not await run_blocking(self._store.layout.tree.is_dir):
            return 0  # nobody hears what is written into a lost volume
        await self.pending()  # what was written before this call has been heard of
        known = self._known
        behind_s = self.behind_s(str(known.position), known.begun_wall_ms) if known is not None else -1.0
        return min(asked_ms, time.time_ns() // 1_000_000 - int(behind_s * 1000)) if behind_s >= 0 else 0

    async def pending(self) -> bool:
        """Whether there are changes, made before this call, that are in no generation yet.

        Where no events are heard (Scheduled, or the kernel cannot watch all) nobody knows before the next comparison,
        and generations are all that counts.
        """
        if self._parameters.mode is Mode.SCHEDULED:
            return False
        watcher = self.watcher
        if watcher is None:
            return True  # not looked at since the activation
        if watcher.problem:
            return False
        await run_blocking(watcher.settle)
        return bool(watcher.since_ns or self._sealing_since_ns)

    async def wait_newer(self, have: str, timeout_s: float) -> None:
        """Waits for a generation other than this one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._made:
                await self._made.wait_for(lambda: self._known is not None and str(self._known.position) != have)

    # -- making generations ------------------------------------------------------------------------------------

    async def final(self) -> Manifest:
        """Makes the last generation of a volume to which nothing is written any more.

        Raises:
            DriverError: it could not be made.
        """
        if self.watcher is not None:
            await run_blocking(self.watcher.settle)
        # Whole: what is written through a mapping that is still there has not been heard.
        await self._seal(still=True, whole=True)
        if self._known is None:
            raise DriverError("no generation could be made", reason="no-generation")
        made = self._known
        await self.outlet.delivered(made)
        return made

    async def _serve(self) -> None:
        # Not before it is known what the live copy descends from: a verdict against nothing would be wrong.
        await self._loaded.wait()
        while True:
            try:
                await self.outlet.start()
                return
            except (DriverError, OSError) as error:
                self._tell(f"the other sites cannot get generations: {error}")
            await asyncio.sleep(_RETRY_S)

    async def _seal_for_ever(self) -> None:
        while True:
            try:
                if not self._loaded.is_set():
                    self._known = await run_blocking(self._store.newest)
                    self._base = await run_blocking(self._store.base)
                    self._loaded.set()
                if self.watcher is None and self._parameters.mode is Mode.CONTINUOUS:
                    self.watcher = await run_blocking(Watcher, self._store.layout.tree, self._heard)
                    self._dirty.set()
                await self._seal_with_hooks()
                self._tell("")
                self._looked.set()
                await self._wait_due()
            except OSError as error:
                self._tell(f"no generation can be made: {told(error, self._store.layout.root)}")
                await asyncio.sleep(_RETRY_S)
            except (StoreError, DriverError, ValueError) as error:
                self._tell(f"no generation can be made: {error}")
                await asyncio.sleep(_RETRY_S)
            except Exception as error:
                _LOG.exception("making a generation failed")
                self._tell(f"no generation can be made: {type(error).__name__}")
                await asyncio.sleep(_RETRY_S)

    async def _wait_due(self) -> None:
        if self._parameters.mode is Mode.CONTINUOUS:
            if self.watcher is not None and self.watcher.problem:
                self.watcher.give_back(Changes(everything=True, since_ns=time.monotonic_ns()))
            else:
                await self._wait_change()
        left_s = self._parameters.interval_s - (self._loop.time() - self._last_begun_s)
        await asyncio.sleep(max(left_s, 0.0))
        await self._wait_quiet()

    async def _wait_change(self) -> None:
        """Waits for something that was heard, or for a comparison that finds something else."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(max(self._compare_at_s, self._loop.time())):
                    await self._dirty.wait()
            if self._loop.time() >= self._compare_at_s and await self._differs_unheard() and self.watcher is not None:
                self.watcher.give_back(Changes(everything=True, since_ns=time.monotonic_ns()))
                return
            if self._dirty.is_set():
                return

    async def _differs_unheard(self) -> bool:
        """Compares the whole tree, without the application's knowing."""
        begun_s, watcher, known = self._loop.time(), self.watcher, self._known
        if watcher is None or known is None:
            return False
        found = await run_blocking(changed_in, os.fspath(self._store.layout.tree), known.entries)
        self._compared(begun_s)
        if not found:
            return False
        await run_blocking(watcher.settle)  # what the comparison saw and the kernel told is no news
        return bool(await run_blocking(watcher.unheard, found))

    def _compared(self, begun_s: float) -> None:
        self.last_comparison_s = self._loop.time() - begun_s
        pause_s = max(min(self._parameters.rpo_s / 2, _COMPARE_S), _COMPARISON_SHARE * self.last_comparison_s)
        self._compare_at_s = self._loop.time() + pause_s

    async def _wait_quiet(self) -> None:
        """One generation of what is written together, instead of one that begins with its first file."""
        ends_ns = time.monotonic_ns() + _LONGEST_WAIT_NS
        while self.watcher is not None and not self.watcher.problem:
            until_ns = min(self.watcher.heard_ns + _QUIET_NS, ends_ns)
            left_s = (until_ns - time.monotonic_ns()) / 1e9
            if left_s <= 0:
                return
            await asyncio.sleep(left_s)

    async def _seal_with_hooks(self) -> None:
        commands = self._parameters.hooks
        if not commands.freeze:
            await self._seal(still=False)
            return
        try:
            await hooks.run(commands.freeze, commands.timeout_s)
            if self.watcher is not None:
                await run_blocking(self.watcher.settle)
            await self._seal(still=True)
        finally:
            await asyncio.shield(hooks.run(commands.thaw, commands.timeout_s))

    async def _seal(self, *, still: bool, whole: bool = False) -> None:
        async with self._sealing:
            self._dirty.clear()
            self._last_begun_s = self._loop.time()
            begun_ns, begun_wall_ms = time.monotonic_ns(), time.time_ns() // 1_000_000
            watcher = self.watcher
            if not await run_blocking(self._store.layout.tree.is_dir):
                raise StoreError(f"{self._store.layout.tree} is gone: nothing is made of what is not there")
            if watcher is not None and watcher.problem and self._loop.time() >= self._mend_at_s:
                # What was written where nobody listened is found by looking. Said before: else, with nothing in the way
                # any more and before the look, nothing would seem to be missing.
                watcher.give_back(Changes(everything=True, since_ns=begun_ns))
                await run_blocking(watcher.mend)
                self._mend_at_s = self._loop.time() + _MEND_S
            changes = watcher.take() if watcher is not None else Changes(everything=True, since_ns=begun_ns)
            if self._known is None or self.seals + self.full_scans == 0 or whole:
                changes.everything = True  # what was written before it was watched is found by looking
            if not changes:
                return
            self._sealing_since_ns = changes.since_ns or begun_ns
            try:
                again = watcher_again(watcher) if watcher is not None else None
                put_back = watcher.give_back if watcher is not None else _nobody
                made = await run_blocking(seal, self._store, self._epoch, changes, again, put_back, still=still)
            except BaseException as error:
                if watcher is not None:
                    watcher.give_back(changes)
                if isinstance(error, OSError):
                    # What was copied so far fills a disk that the application needs.
                    await run_blocking(self._store.abandon)
                raise
            finally:
                self._sealing_since_ns = 0
            if changes.everything:
                self._compare_at_s = self._loop.time() + min(self._parameters.rpo_s / 2, _COMPARE_S)
            self.full_scans += changes.everything and not (whole and watcher is not None)
            if made is None:
                if changes.everything:
                    self._compared_wall_ms = begun_wall_ms
                return
            self._known = made
            self._made_ns = dict(list(self._made_ns.items())[-_REMEMBERED:]) | {str(made.position): begun_ns}
            self.seals += 1
            self.last_seal_s = (time.monotonic_ns() - begun_ns) / 1e9
            async with self._made:
                self._made.notify_all()
            self._on_change()
            pinned = self.outlet.pinned
            await run_blocking(self._store.prune, self._parameters.keep, pinned)
            await run_blocking(self._store.prepare, made)

    def _heard(self) -> None:
        """From the watcher's thread."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._dirty.set)

    def _tell(self, problem: str) -> None:
        if problem:
            self._looked.set()
        if problem != self._problem:
            self._problem = problem
            if problem:
                event(_LOG, "volume is not copied", logging.WARNING, cause=problem)
            self._on_change()


def watcher_again(watcher: Watcher) -> Callable[[], Changes]:
    """What changed while a generation was made, after everything has been read from the kernel."""

    def again() -> Changes:
        watcher.settle()
        return watcher.take()

    return again


def _nobody(_: Changes) -> None:
    """Without a watcher the next comparison finds it again."""

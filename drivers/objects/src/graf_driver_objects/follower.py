"""The standby's part: asks the active for generations, keeps each one whole on the disk, then applies it.

Invariants: nothing is applied that did not arrive whole, that is of a lower epoch than any seen here, or that comes
from another site than the active that the controller named; nothing is written after `stop` has returned true; a site
that has diverged is compared and left as it is: it ends by itself, and says why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from graf_driver_objects.applying import Applier, Pass, Stopped, divergence, listed
from graf_driver_objects.cluster import ClusterError
from graf_driver_objects.exchange import Answer, Asker, ExchangeError
from graf_driver_objects.ledger import LedgerError, Store
from graf_driver_objects.model import Generation, Position

_WAIT_S: Final = 1.0
_GATHER_S: Final = 0.2  # what the active gathers before it makes a generation, and the way of a watch's event
_RETRY_S: Final = 1.0
_FRESH_S: Final = 15.0
_AGAIN_S: Final = 5.0
_VERIFY_S: Final = 30.0
_SLICE_S: Final = 0.5  # of a look at everything again: the active is asked in between, so that no change waits for it
_log = logging.getLogger(__name__)


class Follower:
    """One thread; its facts are read by `status` without a lock, each is replaced whole."""

    def __init__(
        self, site: str, epoch: int, asker: Asker, applier: Applier, store: Store, notify: Callable[[], None]
    ) -> None:
        self.site = site
        self.epoch = epoch
        self.problem = "not yet in contact with the active"
        self.joined = threading.Event()  # compared, or the active could not be asked
        self.diverged = ""
        self._compared = False
        self.work: Pass | None = None
        self.known = Position()
        self.source_stale_s = 0.0
        self._asker = asker
        self._applier = applier
        self._store = store
        self._notify = notify
        self._stop = threading.Event()
        self._answered_at = 0.0
        self._current_at = 0.0
        self._last: Generation | None = None
        self._verified_at = 0.0
        self._look: Pass | None = None  # at everything again
        self._thread = threading.Thread(target=self._run, name="objects-follow", daemon=True)

    def start(self) -> None:
        """Begins to follow."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Asks it to end; true when it has ended, and so nothing more is written."""
        self._stop.set()
        self._asker.interrupt()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def answered(self) -> bool:
        """Whether the active answered lately."""
        return bool(self._answered_at) and time.monotonic() - self._answered_at < _FRESH_S

    @property
    def lag_s(self) -> float:
        """Everything that the active had this many seconds ago is applied here; negative when that was never so."""
        return max(0.0, time.monotonic() - self._current_at) if self._current_at else -1.0

    @property
    def behind(self) -> int:
        """Objects that are not as at the active; negative when that is not known."""
        if not self.answered:
            return -1
        if self.work is not None:
            return self.work.open
        return len(self._store.ledger.waiting) if self._current_at or self._last else -1

    @property
    def conflicts(self) -> str:
        """What was not applied, and why."""
        return listed(self.work.waiting.items()) if self.work else ""

    def _run(self) -> None:
        while not self._stop.is_set():
            before = self.problem
            try:
                self._step()
                self.problem = ""
            except Stopped:
                self.joined.set()
                break
            except (ExchangeError, ClusterError, LedgerError) as error:
                self.problem = str(error)
            except Exception as error:
                self.problem = f"following failed ({type(error).__name__})"
                _log.exception("following failed")
            self.joined.set()
            if self._stop.is_set():
                break
            if before != self.problem:
                self._notify()
            if self.problem:
                self._stop.wait(_RETRY_S)
        self._asker.close()

    def _step(self) -> None:
        kept = self._store.kept()
        if kept is not None and kept.epoch >= self._store.ledger.floor:
            self._apply(kept)  # an older one stays, in case this site is promoted before it gets a newer one
        asked_at = time.monotonic()
        ledger = self._store.ledger
        applied = Position() if ledger.waiting else ledger.position
        known = self._last.position if self._last else Position()
        wait_s = _WAIT_S if self._last and not self.problem and self._look is None else 0.0
        answer, generation = self._asker.ask(max(self.epoch, ledger.floor), known, applied, wait_s)
        if self._stop.is_set():
            raise Stopped
        self._hear(answer)
        # Sent no earlier than this: an active that has nothing newer answers when the wait is over.
        sent_at = asked_at + (wait_s if generation is None else 0.0)
        current_at = sent_at - answer.stale_s - _GATHER_S
        if generation is not None:
            self._take(generation, current_at)
            return
        if self._last is not None and self._verified_at + (_AGAIN_S if ledger.waiting else _VERIFY_S) < asked_at:
            self._look_again(self._last)
        if not self._store.ledger.waiting:
            self._current_at = current_at

    def _hear(self, answer: Answer) -> None:
        self._answered_at = time.monotonic()
        self.source_stale_s = answer.stale_s
        if answer.position:
            self.known = Position.parse(answer.position) or self.known

    def _take(self, generation: Generation, current_at: float) -> None:
        floor = max(self.epoch, self._store.ledger.floor)
        if generation.epoch < floor:
            raise ExchangeError(
                f"{self.site} offers a generation of epoch {generation.epoch}, but epoch {floor} has been seen here: "
                f"refused; it is deposed"
            )
        if generation.site != self.site:
            raise ExchangeError(f"a generation of {generation.site} came from {self.site}: refused; check its endpoint")
        if not self._compared and not self._agrees(generation):
            self._notify()
            raise Stopped
        self.joined.set()
        self._store.keep(generation)
        self._apply(generation)
        if not self._store.ledger.waiting:
            self._current_at = current_at

    def _agrees(self, generation: Generation) -> bool:
        """Whether this site has nothing that the active has not, but conflicts that came up while it followed."""
        applier = self._applier
        if not applier.parameters.force:
            told = set(self._store.ledger.waiting)
            here = [finding for finding in applier.survey(generation) if finding.live is not None]
            found = divergence(here, applier.extras(generation))
            self.diverged = listed((ref, why) for ref, why in found.items() if ref not in told)
        self._compared = True
        return not self.diverged

    def _look_again(self, generation: Generation) -> None:
        """What stood in the way may be gone; something may have been changed here. In slices; told when it is done."""
        work = self._look = self._look or Pass(generation)
        ends = time.monotonic() + _SLICE_S
        force = self._applier.parameters.force
        try:
            self._applier.run(work, force=force, stop=lambda: self._stop.is_set() or time.monotonic() >= ends)
        except Stopped:
            if self._stop.is_set():
                raise
            return
        self._applier.finish(work)
        self.work, self._look = work, None
        self._verified_at = time.monotonic()
        self._notify()

    def _apply(self, generation: Generation) -> None:
        work = Pass(generation)
        self.work, self._look = work, None
        force = self._applier.parameters.force
        self._applier.run(work, force=force, stop=self._stop.is_set)
        self._applier.finish(work)
        self._last = generation
        self._verified_at = time.monotonic()
        self._notify()

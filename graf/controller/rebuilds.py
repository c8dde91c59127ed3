"""Rebuilds that are under way at this site, on its disk: what is to be told at their end outlives this process."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from graf.api.values import Reason
from graf.shell.disk import remove_durably, write_durably
from graf.shell.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


LOG = logging.getLogger("graf.rebuilds")

# A short one is told at its end; of a long one that it is under way, and then how far it is.
FIRST_TOLD_S = 60.0
TOLD_AGAIN_S = 3600.0


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What was here is archived, and the active site's data comes instead.

    Attributes:
        code, detail: Why.
        what: The same, after the name of the component.
        began_s, told_s: When it began, and when it was last told of, by the wall clock: they outlive a boot.
        archive: Where what was here is, once the driver has told.
    """

    group: str
    component: str
    code: str
    detail: str
    what: str
    began_s: float
    told_s: float = 0.0
    archive: str = ""


class Rebuilds:
    """One per component at most. Invariant: of each that is kept here the end is told once, or that it became moot."""

    def __init__(
        self,
        directory: Path,
        site: str,
        add_record: Callable[..., None],
        spool: Callable[[Callable[[], None]], None],
    ) -> None:
        self._directory = directory
        self._site = site
        self._add_record = add_record
        self._spool = spool
        self._known: dict[tuple[str, str], Rebuild] = {}
        for path in sorted(directory.glob("*.rebuild")):
            try:
                rebuild = Rebuild(**json.loads(path.read_bytes()))
            except (OSError, ValueError, TypeError) as error:
                event(LOG, "unreadable record set aside", logging.ERROR, file=str(path), error=str(error))
                path.rename(path.with_suffix(".damaged"))
                continue
            self._known[rebuild.group, rebuild.component] = rebuild

    def get(self, group: str, component: str) -> Rebuild | None:
        """The one that is under way."""
        return self._known.get((group, component))

    def begin(self, group: str, component: str, why: Reason, what: str) -> None:
        """A rebuild is about to be asked for. One that is under way goes on: it keeps its reason and its beginning."""
        if (group, component) not in self._known:
            self._keep(Rebuild(group, component, why.code, why.detail, what, time.time()))

    def under_way(self, group: str, component: str, epoch: int, message: str, archive: str = "") -> None:
        """The driver tells how far it is, or why it cannot go on now; now and then that is worth a record."""
        rebuild = self.get(group, component)
        if rebuild is None:
            return
        if archive and archive != rebuild.archive:
            rebuild = replace(rebuild, archive=archive)
            self._keep(rebuild)
        now_s = time.time()
        due_s = rebuild.told_s + TOLD_AGAIN_S if rebuild.told_s else rebuild.began_s + FIRST_TOLD_S
        # A clock that was set back tells too early, not never.
        if now_s < due_s and now_s >= max(rebuild.began_s, rebuild.told_s):
            return
        # ... and once: by the clock as it is now it cannot have begun later.
        rebuild = replace(rebuild, told_s=now_s, began_s=min(rebuild.began_s, now_s))
        self._keep(rebuild)
        age = _age(now_s - rebuild.began_s)
        told = f"{component} at {self._site} {rebuild.what}: being rebuilt for {age}: {message or 'nothing is told'}"
        self._tell(rebuild, epoch, told)

    def ended(self, group: str, component: str, epoch: int, active: str, archive: str | None) -> None:
        """This site's data is that of the active one; `archive` is None where that was so when it was looked at."""
        rebuild = self._known.pop((group, component), None)
        if rebuild is None:
            return
        rebuild = replace(rebuild, archive=archive or rebuild.archive)
        age = _age(time.time() - rebuild.began_s)
        done = f"archived and rebuilt from {active} in {age}"
        # It ended while no controller ran here, is not needed any more, or there was nothing to archive.
        if archive is None or not rebuild.archive:
            done = f"it has all that {active} has, {age} after its rebuild began"
        told = f"{component} at {self._site} {rebuild.what}: {done}"
        self._tell(rebuild, epoch, told)
        self._drop(group, component)

    def moot(self, group: str, epoch: int) -> None:
        """This site is active: what it has is what counts, whole or not."""
        for rebuild in [r for r in self._known.values() if r.group == group]:
            del self._known[group, rebuild.component]
            told = (
                f"{rebuild.component} at {self._site} {rebuild.what}: not rebuilt to the end, as {self._site} is active"
            )
            self._tell(rebuild, epoch, told)
            self._drop(group, rebuild.component)

    def _tell(self, rebuild: Rebuild, epoch: int, message: str) -> None:
        where = f"; archived at {rebuild.archive}" if rebuild.archive else ""
        reason = Reason(rebuild.code, f"{rebuild.detail}{where}")
        self._add_record(
            rebuild.group, epoch, "Event", "Resync", (reason,), from_site=self._site, message=message, evidence_json=""
        )

    def _keep(self, rebuild: Rebuild) -> None:
        self._known[rebuild.group, rebuild.component] = rebuild
        path, content = self._path(rebuild.group, rebuild.component), json.dumps(asdict(rebuild)).encode()
        self._spool(lambda: write_durably(path, content))

    def _drop(self, group: str, component: str) -> None:
        path = self._path(group, component)
        self._spool(lambda: remove_durably(path))

    def _path(self, group: str, component: str) -> Path:
        return self._directory / f"{group}.{component}.rebuild"


def _age(seconds: float) -> str:
    return f"{max(seconds, 0.0):.0f} s"

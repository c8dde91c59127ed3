"""Keeps the binary log bounded: removes the oldest files once nobody needs them, at the active and at a standby.

The server's own expiry is off, as it would know nothing of the sites. Every look asks each site anew what it has
applied, and nothing of that is kept over a restart. A site that does not answer is taken to have what it had when it
last did; what is not known is needed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from graf_driver_sdk import logs
from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.types import Peer

from graf_driver_mysql import expiry, tools
from graf_driver_mysql.backend import Mode
from graf_driver_mysql.component import Component
from graf_driver_mysql.copies import Copies
from graf_driver_mysql.expiry import Limits, LogFile, Need, Plan
from graf_driver_mysql.history import History
from graf_driver_mysql.looking import Looking
from graf_driver_mysql.methods import AUTO, MIB, Method
from graf_driver_mysql.observe import positions, replica
from graf_driver_mysql.parameters import Endpoint, peer_endpoint
from graf_driver_mysql.sql import Session, SqlError, quoted

log = logging.getLogger("graf.driver.mysql")

INTERVAL_S = 10.0
ASK_TIMEOUT_S = 2.0
AWAY_S = 600.0  # who was here within this is expected back: it is not left behind
BOOTSTRAP_S = 86400.0  # how long a site that has nothing is taken to be getting the data
AT_ONCE = 8  # files of one statement: the server commits nothing that begins another file meanwhile
NEARLY = 0.8  # of the limit of size: from here on it is told who will be left behind


@dataclass(slots=True)
class _Site:
    """What is known of another site."""

    expected_until_s: float  # of the loop's clock
    has: History | None = None
    reached: bool = False  # by the last look
    takes_part: bool = False  # so did it tell then: it serves, or it follows or tries to
    empty_s: float | None = None  # since when it has nothing
    since: str = ""


@dataclass(frozen=True, slots=True)
class _Own:
    """This site's log."""

    files: tuple[LogFile, ...]
    gone: History
    logged: History


@dataclass(slots=True)
class _Heads:
    """What was before each file, which never changes in one run of the server."""

    run: int = -1
    before: dict[str, History | None] = field(default_factory=dict)


class Purge:
    """Invariant: a file goes only after a look that found it needed by no site that is expected to follow."""

    def __init__(self, component: Component, copies: Copies) -> None:
        self.component = component
        self.copies = copies
        self.facts: dict[str, str] = {}
        self.message = ""  # what people should know now, "" when nothing
        self._looking = Looking(log, component.site, INTERVAL_S, "log not looked at", "binary log")
        self._sites: dict[str, _Site] = {}
        self._heads = _Heads()
        self._newest = ""  # file of the last look

    def start(self) -> None:
        """Begins."""
        self._looking.start(self.look)

    async def stop(self) -> None:
        """Ends. A purge under way is the server's affair: it finishes it after a crash too."""
        await self._looking.stop()

    async def look(self) -> None:
        """One look, and what follows from it. Raises SqlError, OSError."""
        backend = self.component.backend
        if not self._in_role():
            self.facts, self.message = {}, ""
            return
        side = await backend.side_session("purge")
        try:
            own = await self._own(side)
            parameters = backend.parameters
            limits = Limits(parameters.binlog_keep_hours * 3600.0, parameters.binlog_max_mib * MIB)
            off = await run_blocking(why_off, self.component)
            await self._ask_sites(own)
            if not own.files or not self._in_role():
                return
            needs = self._needs(asyncio.get_running_loop().time())
            plan = expiry.plan(own.files, own.gone, own.logged, needs, time.time(), limits)
            self._tell(own, plan, needs, off, limits)
            self._newest = own.files[-1].name
            if not off and plan.first:
                await self._purge(side, own, plan)
        finally:
            side.close()

    def _in_role(self) -> bool:
        """Only in a role that is settled: what a site that is between two roles needs is not decided yet."""
        backend = self.component.backend
        if backend.mode is Mode.STANDBY:
            return not self.component.standby.held
        return backend.mode is Mode.ACTIVE

    async def _own(self, side: Session) -> _Own:
        engine, run = self.component.backend.engine, self.component.backend.run
        if self._heads.run != run:  # the log may be another one, and with it the names of its files
            self._heads, self._sites, self._newest = _Heads(run), {}, ""
        gone = await engine.gone(side)
        rows = await side.rows("SHOW BINARY LOGS")
        names = [str(row["Log_name"]) for row in rows]
        known = self._heads.before
        before = {name: known.get(name) or await engine.before(side, name) for name in names}
        self._heads = _Heads(run, before)
        _, logged, _ = await positions(side)
        ended = await run_blocking(self._ended, names)
        files = tuple(
            LogFile(name, int(row["File_size"]), None if head is None or gone is None else head.merged(gone), at_s)
            for name, row, head, at_s in zip(names, rows, (before[name] for name in names), ended, strict=True)
        )
        return _Own(files if gone is not None else (), gone or engine.history(""), logged)

    def _ended(self, names: Sequence[str]) -> list[float]:
        data = self.component.backend.server.layout.data
        return [(data / name).stat().st_mtime for name in names]

    async def _ask_sites(self, own: _Own) -> None:
        peers = {peer.site: peer for peer in self.component.peers}
        now = asyncio.get_running_loop().time()
        self._sites = {site: self._sites.get(site) or _Site(now + AWAY_S) for site in peers}
        await asyncio.gather(*(self._ask(peer, self._sites[site], own) for site, peer in peers.items()))

    async def _ask(self, peer: Peer, site: _Site, own: _Own) -> None:
        try:
            takes_part, has = await self._asked(peer_endpoint(peer.site, peer.parameters))
        except SqlError:
            site.reached = False
            return
        now = asyncio.get_running_loop().time()
        if not site.reached or takes_part:  # who comes back has some time to begin to follow
            site.expected_until_s = now + AWAY_S
        if has:
            site.empty_s, site.since = None, ""
        elif site.empty_s is None:
            # A copy may have begun since the last look: then it is of that look's newest file, or a later one.
            site.empty_s = now
            oldest = own.files[0].name if own.files else ""
            site.since = self._newest if own.gone and self._newest else oldest
        site.has, site.reached, site.takes_part = has, True, takes_part

    async def _asked(self, endpoint: Endpoint) -> tuple[bool, History]:
        session = await self.component.backend.remote_session(endpoint, timeout_s=ASK_TIMEOUT_S)
        try:
            read_only, _, has = await positions(session)
            now = await replica(session)
        finally:
            session.close()
        return not read_only or (now is not None and now.receiver != "No"), has

    def _needs(self, now_s: float) -> list[Need]:
        backend = self.component.backend
        here = {*self.component.active.in_force, self.copies.to}
        here.update(backend.seen.followers if backend.mode is Mode.ACTIVE and backend.seen is not None else ())
        strange = {*self.component.active.in_force} - {*self._sites, backend.site}  # nobody said where it is
        return [Need(name, None, present=True) for name in sorted(strange)] + [
            Need(
                name,
                # It may have been rebuilt since its last answer, where it is here all the same.
                site.has if site.reached or name not in here else None,
                name in here
                or now_s < site.expected_until_s
                or (site.reached and site.empty_s is not None and now_s - site.empty_s < BOOTSTRAP_S),
                site.since,
            )
            for name, site in sorted(self._sites.items())
        ]

    async def _purge(self, side: Session, own: _Own, plan: Plan) -> None:
        """Some files at a time; the next look goes on, after a crash too."""
        first = own.files[min(plan.first, AT_ONCE)]
        if plan.left:
            logs.event(
                log, "left behind", logging.WARNING, site=self.component.site, who=plan.left, log_begins_with=first.name
            )
        await side.run(f"PURGE BINARY LOGS TO {quoted(first.name)}", timeout_s=60.0)
        logs.event(log, "log purged", site=self.component.site, to=first.name)

    def _tell(self, own: _Own, plan: Plan, needs: Sequence[Need], off: str, limits: Limits) -> None:
        sizes = [file.size for file in own.files]
        total = sum(sizes)
        kept = []
        for need in needs:
            first = plan.needs[need.site]
            if first < len(own.files) - 1:
                since = f"{own.files[first].name} on ({sum(sizes[first:]) / MIB:.1f} MiB)"
                kept.append(f"{need.site}{'' if need.present else ', which is away'}: from {since}")
        empty = {need.site for need in needs if not need.has}  # it gets a copy, and was left behind by nobody
        behind = [site for site in plan.behind if site not in empty]
        oldest = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(own.files[0].ended_s))
        self.facts = {
            "binlog": f"{len(own.files)} files, {total / MIB:.1f} MiB, the oldest one ended {oldest}",
            "binlog_expiry": f"off: {off}" if off else told(limits),
            "binlog_kept_for": "; ".join(kept),
            "binlog_left_behind": ", ".join(behind),
        }
        words = []
        if plan.kept and not off:
            words.append(
                f"the binary log has {total / MIB:.1f} MiB, more than binlogMaxMiB, and is kept for"
                f" {', '.join(plan.kept)}, which is not away and has not applied it (or does not answer)"
            )
        away = [need.site for need in needs if not need.present and plan.needs[need.site] < len(own.files) - 1]
        if away and limits.most_bytes and total > NEARLY * limits.most_bytes and not off:
            words.append(
                f"{', '.join(away)} is away, and needs {total / MIB:.1f} MiB of the binary log: what is above"
                f" {limits.most_bytes / MIB:.0f} MiB (binlogMaxMiB) is purged, and it is rebuilt by a copy then"
            )
        if behind:
            words.append(f"{', '.join(behind)} lacks what the binary log has no more: it is rebuilt by a copy")
        self.message = "; ".join(words)


def told(limits: Limits) -> str:
    """For the fact."""
    age = f"what is older than {limits.keep_s / 3600:g} h and nobody needs" if limits.keep_s else ""
    size = f"what is above {limits.most_bytes / MIB:g} MiB" if limits.most_bytes else ""
    return ", and ".join(part for part in (age, size) if part)


def why_off(component: Component) -> str:
    """Why nothing is purged, "" when the parameters decide. Blocking."""
    parameters = component.backend.parameters
    only_log = tools.no_copy(parameters)
    if not parameters.binlog_keep_hours and not parameters.binlog_max_mib:
        return only_log or "binlogKeepHours and binlogMaxMiB are 0"
    for peer in component.peers:
        if peer.parameters.get("bootstrap", AUTO) == Method.LOG:
            return f"{peer.site} is bootstrapped by the log alone (bootstrap: log)"
    return only_log

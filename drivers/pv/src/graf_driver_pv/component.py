"""One volume and its role: what is open, who makes generations, who follows."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from graf_driver_sdk.blocking import run_blocking
from graf_driver_sdk.errors import InvalidParametersError, NeedsResyncError, NotActiveError
from graf_driver_sdk.logs import event
from graf_driver_sdk.types import ComponentKey, EnsureRole, Peer, Progress, Role

from graf_driver_pv import durable, hooks, owner
from graf_driver_pv.active import Active
from graf_driver_pv.deposit import Deposit
from graf_driver_pv.follow import Follower
from graf_driver_pv.layout import Layout
from graf_driver_pv.manifest import Manifest, changed_in
from graf_driver_pv.outlet import Outlet
from graf_driver_pv.parameters import Parameters, Repository, parse
from graf_driver_pv.position import Position
from graf_driver_pv.problems import FULL, told
from graf_driver_pv.record import Mark, Record, RecordFile, this_boot
from graf_driver_pv.repository import FromRepository
from graf_driver_pv.restic import Restic
from graf_driver_pv.server import Server
from graf_driver_pv.store import Store
from graf_driver_pv.upstream import Upstream
from graf_driver_pv.wire import Wire

_LOG = logging.getLogger("graf_driver_pv.component")
_QUIESCE_CALL_S = 1.5
_STANDBY_CALL_S = 1.5
_LOOK_S = 1.0
_OWN = "goes on with its own live copy"
_DEAD_DISK = frozenset({errno.EIO, errno.ENXIO, errno.ENODEV})


@dataclass(frozen=True, slots=True)
class LocalData:
    """What this site has.

    Attributes:
        newest: the newest generation here, be it complete or what the live copy was made of.
        changes: paths of the live copy that are in no generation here.
        has_live: there is a live copy.
    """

    newest: Manifest | None
    changes: tuple[str, ...]
    has_live: bool


class Component:
    """Invariants: `current` is there only while the role is ACTIVE and not quiesced; the record says so first;
    whatever is opened was one complete generation, or this site's own live copy, or was never anybody's data.
    """

    def __init__(
        self,
        key: ComponentKey,
        parameters: Parameters,
        on_change: Callable[[], None],
        state_dir: Path | None = None,
    ) -> None:
        self.key = key
        self.parameters = parameters
        self.on_change = on_change
        self.layout = Layout(parameters.directory)
        self.store = Store(self.layout)
        self.record = Record()
        self.active: Active | None = None
        self.follower: Follower | None = None
        self.quiescing: asyncio.Task[Manifest] | None = None
        self._file = RecordFile(self.layout.record)
        self._mark = Mark.of(state_dir, key.group, key.component)
        # Not in the volume: restic would make a lost one anew, for its cache.
        name = f"{key.group}_{key.component}.restic"
        self._restic_folder = state_dir / name if state_dir is not None else self.layout.restic
        self._replaced = False  # this volume is not the one that was served here
        self._opened = False
        self._lock = asyncio.Lock()

    async def open(self) -> None:
        """Reads the record, once. Whatever was started anew serves nothing until it is given a role."""
        async with self._lock:
            if not self._opened:
                self.record = await run_blocking(self._open)
                self._opened = True
                if self.record.quiesced:
                    await self._thaw()

    def _open(self) -> Record:
        self.layout.make()
        owner.take(self.layout.owner, self.key)
        self._file.keep_room()  # before anything else takes what is left
        self._replaced = not self.layout.record.exists() and self._mark.is_set()
        record = self._file.load()
        if self._replaced:
            record = replace(record, followed=True)  # whatever it has now, it is not the group's data
        if not record.stays_open:
            self.withdraw()
        durable.discard(self.layout.clone, self.layout.trash)
        if record.boot:
            record = replace(record, boot="")
            try:
                self._save_in_no_room(record)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                # Only a crash before the next change of role tells the difference; a refusal would keep the fence off.
                event(_LOG, "the record is not replaced", logging.WARNING, cause=told(error, self.layout.root))
        self._file.keep_room()
        return record

    async def close(self) -> None:
        """Ends what runs. A volume that is open stays open: its driver comes back, or the machine starts anew."""
        async with self._lock:
            await self._stop_quiescing()
            await self._stop()
            if self._opened and self.record.role is Role.ACTIVE:
                await run_blocking(self._file.save, replace(self.record, boot=this_boot()))

    async def save(self, record: Record) -> None:
        """Makes a record durable, if it is another one."""
        if record != self.record:
            await run_blocking(self._file.save, record)
            self.record = record

    def _save_in_no_room(self, record: Record) -> None:
        """As `save`, while nothing is made or received here: also where a full disk has no file kept for it."""
        try:
            self._file.save(record)
            return
        except OSError as error:
            if error.errno not in FULL:
                raise
        with contextlib.suppress(OSError):
            self.store.abandon()
        try:
            self._file.save(record)
        except OSError as error:
            if error.errno not in FULL:
                raise
            self._file.save_in_place(record)

    # -- roles ---------------------------------------------------------------------------------------------------

    async def ensure_role(self, request: EnsureRole) -> Progress:
        """Begins or continues giving the volume its role."""
        async with self._lock:
            await self._stop_quiescing()
            if request.role is Role.ACTIVE:
                return await self._activate(request)
            if request.role is Role.STANDBY:
                return await self._stand_by(request)
            await self.shut(request.role, request.epoch)
            return Progress.done("nothing is open, nobody is followed")

    async def shut(self, role: Role, epoch: int) -> None:
        """Closed first, then written down."""
        await run_blocking(self.withdraw)
        await self._stop()
        shut = replace(self.record, role=role, epoch=epoch, quiesced=False)
        if shut != self.record:
            await run_blocking(self._save_in_no_room, shut)
            self.record = shut
        self.on_change()

    async def _activate(self, request: EnsureRole) -> Progress:
        await self._stop_following()
        if not self.layout.tree.is_dir():
            await self._stop_active()  # the live copy was lost under it
        # Not beside a generation that is being made: what is in its way there would be taken from under it.
        message, opened = (_OWN, None) if self.active is not None else await run_blocking(self._take_up)
        await self.save(
            replace(self.record, role=Role.ACTIVE, epoch=request.epoch, served_epoch=request.epoch, quiesced=False)
        )
        await run_blocking(self._mark.set, self.parameters.directory)
        await run_blocking(self._publish)
        names = peer_names(request.peers)
        if self.active is None:
            self.active = Active(
                self.store, self.parameters, request.epoch, names, opened, self.on_change, self._outlet
            )
            if opened is None or message == _OWN:
                # The position is told by generations: it would move at once by what is there already. Applications have
                # the volume meanwhile.
                await self.active.looked(_LOOK_S)
        else:
            self.active.go_on(request.epoch, names)
        self.on_change()
        return Progress.done(message)

    async def _stand_by(self, request: EnsureRole) -> Progress:
        await run_blocking(self.withdraw)
        await self._stop_active()
        peer = request.active_peer
        local = await run_blocking(self.look)
        if local.changes:
            raise NeedsResyncError(
                f"{self.key} has {len(local.changes)} changes that no other site has, e.g. {local.changes[0]}, so it "
                f"cannot follow; call Assess, then Resync"
            )
        await run_blocking(self.lay_down, local)
        followed = self.record.followed or peer is not None
        role = Role.FENCED if self.record.role is Role.ACTIVE else self.record.role
        await self.save(replace(self.record, role=role, epoch=request.epoch, followed=followed, quiesced=False))
        await self.follow(peer, request.epoch)
        follower = self.follower
        if follower is not None:
            await follower.wait_for(lambda: follower.confirmed or follower.diverged, _STANDBY_CALL_S)
            if follower.diverged:
                await self.shut(Role.FENCED if role is Role.STANDBY else role, request.epoch)
                raise NeedsResyncError(f"{self.key} cannot follow: {follower.problem}; call Assess, then Resync")
            if not follower.confirmed:
                return Progress.pending(f"waiting for {follower.peer_site}: {follower.problem or 'no answer'}", 100)
        await self.save(replace(self.record, role=Role.STANDBY))
        self.on_change()
        return Progress.done("follows" if peer is not None else "waits for an active site to follow")

    async def follow(self, peer: Peer | None, epoch: int) -> None:
        """Follows this peer, or nobody."""
        known = self.follower
        if known is not None and peer is not None and known.peer_site == peer.site:
            known.epoch = epoch
            return
        await self._stop_following()
        if peer is not None:
            upstream = self.upstream(peer)
            self.follower = Follower(self.store, self.parameters, peer.site, upstream, epoch, self.on_change)

    def upstream(self, peer: Peer) -> Upstream:
        """Where this peer's generations come from.

        Raises:
            InvalidParametersError: its parameters cannot be used.
        """
        theirs, own = peer_parameters(peer), self.parameters.repository
        if own is None or theirs.repository is None:
            return Wire(self.store, self.parameters, peer.site, theirs)
        return FromRepository(self._restic(own, theirs.repository.location), self._shared_name, peer.site)

    def _outlet(self, active: Active) -> Outlet:
        own = self.parameters.repository
        if own is None:
            return Server(self.parameters, self.layout, active, self.on_change)
        restic = self._restic(own, own.location)
        return Deposit(restic, self.layout, self._shared_name, self.key.site, active, self.on_change)

    def _restic(self, own: Repository, location: str) -> Restic:
        return Restic(own, location, self._restic_folder, self.parameters.bandwidth_kib)

    @property
    def _shared_name(self) -> str:
        """Of this component at every site."""
        return f"{self.key.group}/{self.key.component}"

    async def _stop(self) -> None:
        await self._stop_active()
        await self._stop_following()

    async def _stop_active(self) -> None:
        if self.active is not None:
            await self.active.stop()
            self.active = None

    async def _stop_following(self) -> None:
        if self.follower is not None:
            await self.follower.stop()
            self.follower = None

    # -- quiesce ---------------------------------------------------------------------------------------------------

    async def quiesce(self) -> Manifest | None:
        """Closes the volume and makes its last generation; None while that is going on.

        Raises:
            NotActiveError: it is not ACTIVE.
        """
        if self.active is None or self.record.role is not Role.ACTIVE:
            raise NotActiveError(f"Quiesce of {self.key} is refused: it is {self.record.role.name}, not ACTIVE")
        if self.quiescing is not None and self.quiescing.done() and self.quiescing.exception() is not None:
            self.quiescing = None
        if self.quiescing is None:
            self.quiescing = asyncio.create_task(self._quiesce(self.active), name="pv-quiesce")
        await asyncio.wait((self.quiescing,), timeout=_QUIESCE_CALL_S)
        return self.quiescing.result() if self.quiescing.done() else None

    async def _quiesce(self, active: Active) -> Manifest:
        await self.save(replace(self.record, quiesced=True))
        commands = self.parameters.hooks
        await hooks.run(commands.freeze, commands.timeout_s)
        await run_blocking(self.withdraw)
        final = await active.final()
        self.on_change()
        return final

    async def unquiesce(self) -> None:
        """Open as before.

        Raises:
            NotActiveError: it is not ACTIVE.
        """
        if self.active is None or self.record.role is not Role.ACTIVE:
            raise NotActiveError(f"Unquiesce of {self.key} is refused: it is {self.record.role.name}, not ACTIVE")
        async with self._lock:
            await self._stop_quiescing()
            await self.save(replace(self.record, quiesced=False))
            await run_blocking(self._publish)
            self.on_change()

    async def _stop_quiescing(self) -> None:
        """What was frozen is let go."""
        if self.quiescing is None:
            return
        self.quiescing.cancel()
        await asyncio.gather(self.quiescing, return_exceptions=True)
        self.quiescing = None
        await self._thaw()

    async def _thaw(self) -> None:
        """A hook that fails must not keep a volume from being fenced."""
        try:
            await hooks.run(self.parameters.hooks.thaw, self.parameters.hooks.timeout_s)
        except hooks.HookError as error:
            event(_LOG, "the application was not thawed", logging.WARNING, component=str(self.key), cause=str(error))

    # -- the files; blocking -----------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether applications find the volume."""
        return self.layout.current.is_symlink()

    @property
    def is_served(self) -> bool:
        """Whether applications find the volume, and something in it to open."""
        return self.is_open and self.layout.current.is_dir()

    def lost(self) -> str:
        """Why what was served here is proved to be gone; empty while it may be there."""
        if not self._replaced and self.record.role is not Role.ACTIVE:
            return ""
        try:
            # The copy before and after: a generation that is opened is in neither place for no moment, but moves.
            if self._has_tree() or self.store.positions() or self._has_tree():
                return ""
        except OSError as error:
            if error.errno not in _DEAD_DISK:
                raise
            return f"the volume in {self.layout.root} cannot be read: {error.strerror}"
        return f"the volume in {self.layout.root} is lost: neither a live copy nor a complete generation is in it"

    def _has_tree(self) -> bool:
        try:
            return stat.S_ISDIR(os.stat(self.layout.tree).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def withdraw(self) -> None:
        """Applications do not find the volume any more."""
        if os.path.lexists(self.layout.current):
            self.layout.current.unlink()
            durable.sync_folder(self.layout.root)

    def _publish(self) -> None:
        if self.is_open:
            return
        fresh = self.layout.root / ".current.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to("live/tree")
        fresh.replace(self.layout.current)
        durable.sync_folder(self.layout.root)

    def _take_up(self) -> tuple[str, Position | None]:
        """Sees to a live copy: this site's own, else the newest complete generation, else an empty one.

        Returns:
            What was done, and the newest generation that the live copy descends from.
        """
        if self.layout.tree.is_dir():
            base = self.store.base()
            if base is not None:
                self._drop_shared(base.position)
            newest = self.store.positions()[:1]
            return _OWN, newest[0] if newest else base.position if base is not None else None
        durable.discard(self.layout.live, self.layout.trash)  # without a tree it holds nothing
        for position in self.store.positions():
            manifest = self.store.manifest(position)
            folder = self.layout.generation(str(position))
            if changed_in(os.fspath(folder / "tree"), manifest.entries):
                durable.move(folder, self.layout.archive / f"damaged-{position}")
                continue
            durable.move(folder, self.layout.live)
            self._drop_shared(position)
            return f"opened generation {position}", position
        if self.record.followed or self.record.served_epoch:
            why = "was served and is lost" if self.record.served_epoch or self._replaced else "followed another site"
            raise NeedsResyncError(
                f"{self.key} {why}, and has no complete generation: an empty volume would be served. "
                f"Let it follow until it has one, or make another site active"
            )
        self.layout.tree.mkdir(parents=True)
        durable.sync_folder(self.layout.live)
        return "opened an empty volume", None

    def _drop_shared(self, base: Position) -> None:
        """What shares files (hard links) with the live copy would change with it."""
        for path in (self.layout.incoming, self.layout.clone):
            durable.discard(path, self.layout.trash)
        for position in self.store.positions():
            if position <= base:
                self.store.drop(position)

    def look(self) -> LocalData:
        """What this site has; compares the live copy, if there is one, with the generation it belongs to."""
        newest = self.store.newest()
        if not self.layout.tree.is_dir():
            return LocalData(newest, (), False)
        base = self.store.base()
        if base is not None and (newest is None or base.position > newest.position):
            newest = base
        known = newest.entries if newest is not None else {}
        return LocalData(newest, tuple(sorted(changed_in(os.fspath(self.layout.tree), known))), True)

    def lay_down(self, local: LocalData) -> None:
        """The live copy, unchanged, becomes the generation that it is; or goes, where that one is here already."""
        if not local.has_live:
            return
        if local.newest is None or self.layout.generation(str(local.newest.position)).exists():
            durable.discard(self.layout.live, self.layout.trash)
        else:
            durable.move(self.layout.live, self.layout.generation(str(local.newest.position)))


def peer_parameters(peer: Peer) -> Parameters:
    """A peer's parameters.

    Raises:
        InvalidParametersError: they cannot be used.
    """
    parameters, problems = parse(peer.parameters)
    if parameters is None:
        raise InvalidParametersError(problems, f"parameters of the peer {peer.site}")
    return parameters


def peer_names(peers: tuple[Peer, ...]) -> Mapping[str, str]:
    """Who may ask for generations: names in certificates by site."""
    names = {}
    for peer in peers:
        parameters, _ = parse(peer.parameters)
        if parameters is not None:
            names[peer.site] = parameters.tls.name
    return names

"""Faults: when they begin, whom they hit, how they heal. Everything is drawn from the stream of faults."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.api.values import Electorate, Role, VoterList
from graf.sim.network import Modes

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf.sim.controller import Controller
    from graf.sim.kernel import Process
    from graf.sim.world import World

USERS = "users"


def _both_ways(site: str, others: list[str]) -> list[tuple[str, str]]:
    """The directions between a location and others."""
    return [*((site, other) for other in others), *((other, site) for other in others)]


class Faults:
    """Begins faults at random and heals each after a while; at the end of the active time everything is healed.

    Attributes:
        injected: What was begun: (number, when, name, target), for stories and for shrinking.
        lost_disks: Voters that have lost their disk and were not admitted anew yet.
        came_or_went_ns: When a location last died or was started again.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._draw = world.streams.faults
        self.injected: list[tuple[int, int, str, str]] = []
        self.misses_events = False
        self.crashes_winner = False
        self.isolates_winner: Callable[[str], None] | None = None
        self.git_conflicts = False
        self.lost_disks: set[str] = set()
        self.came_or_went_ns = 0
        self._heals: dict[int, Callable[[], None]] = {}
        self._number = 0
        self._end_ns = 0
        self._version = 1
        # The draws of a run do not depend on which settings a shrunk copy of it leaves out.
        self._draw.random()

    # -- the schedule --------------------------------------------------------------------------------------------------

    def schedule(self, begin_ns: int, end_ns: int) -> None:
        """Plans the beginning of the first fault."""
        if self._world.settings.seed % 32 == 5:
            self._world.managers.create(self._world.settings.sites[-1], "Switchover")  # before anything was active
        self._end_ns = end_ns
        heartbeat_ns = self._world.settings.timing.heartbeat_ns
        for number, planned in enumerate(self._world.settings.script):
            when_ns, lasts_ns = begin_ns + int(planned.at * heartbeat_ns), int(planned.lasts * heartbeat_ns)
            self._world.kernel.at(when_ns, None, self._begin, number, planned.fault, planned.draw, lasts_ns)
        if not self._world.settings.script:
            self._world.kernel.at(begin_ns, None, self._next)

    def _next(self) -> None:
        world, draw = self._world, self._draw
        kernel = world.kernel
        name = draw.choice(world.settings.faults)
        target_draw, length_draw = draw.random(), draw.random()
        heartbeat = world.settings.timing.heartbeat_ns
        lasts = int(heartbeat * (0.3 * (100**length_draw)))  # 0.3 to 30 heartbeats
        number, self._number = self._number, self._number + 1
        if number not in world.settings.skip:
            self._begin(number, name, target_draw, lasts)
        gap = int(world.settings.fault_gap_ns * (0.1 + 1.8 * draw.random())) + 1
        if kernel.now + gap < self._end_ns:
            kernel.at(kernel.now + gap, None, self._next)

    def _begin(self, number: int, name: str, target_draw: float, lasts_ns: int) -> None:
        begun = getattr(self, "_" + name.replace("-", "_"))(target_draw)
        if begun is None:
            return
        target, heal = begun
        world = self._world
        world.kernel.count(f"fault {name}")
        self.injected.append((number, world.kernel.now, name, target))
        if world.kernel.story is not None:
            world.kernel.tell("FAULT", f"#{number} {name} {target} for {lasts_ns / 1e6:.0f} ms")
        if heal is not None:
            self._heals[number] = heal
            world.kernel.at(world.kernel.now + lasts_ns, None, self._heal, number)

    def _heal(self, number: int) -> None:
        heal = self._heals.pop(number, None)
        if heal is not None:
            heal()
            if self._world.kernel.story is not None:
                self._world.kernel.tell("HEAL", f"#{number}")

    def heal_all(self) -> None:
        """Everything that is still broken is repaired now."""
        for number in sorted(self._heals):
            self._heal(number)
        for name in sorted(self.lost_disks):
            self._readmit(name)
        world = self._world
        if not world.automatic and len(world.voters.members) >= 3:
            # What a manual policy leaves to people is done by them now.
            world.automatic = True
            world.managers.declare(world.voters, automatic=True)

    # -- whom ----------------------------------------------------------------------------------------------------------

    def _pick(self, among: list[str], draw: float) -> str | None:
        return among[int(draw * len(among))] if among else None

    def _sites(self) -> list[str]:
        return list(self._world.settings.sites)

    def _active(self) -> Controller | None:
        active = [c for c in self._world.controllers.values() if c.process.alive and c.role is Role.ACTIVE]
        return max(active, key=lambda c: c.epoch, default=None)

    def any_site(self) -> str:
        """A site to which a manager with an old view sends its order: often the right one, with the wrong wish."""
        active = self._active()
        if active is not None and self._draw.random() < 0.5:
            return active.name
        return self._draw.choice(self._world.settings.sites)

    def _witnesses(self) -> list[str]:
        return [*self._world.settings.witnesses, *self._world.settings.spare_witnesses]

    def _voters(self) -> list[str]:
        return [*self._sites(), *self._witnesses()]

    # -- processes and machines ----------------------------------------------------------------------------------------

    def _kill(self, name: str) -> None:
        self._world.processes[name].die()
        self.came_or_went_ns = self._world.kernel.now

    def _restart(self, name: str) -> None:
        process = self._world.processes[name]
        if not process.alive:
            process.born()
            self._world.member(name).start()
            self.came_or_went_ns = self._world.kernel.now

    def _kill_site(self, site: str) -> None:
        self._kill(site)
        self._world.databases[site].crash()
        self._world.gates[site].reboot()

    def _crash_controller(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        site = self._pick([s for s in self._sites() if self._world.processes[s].alive], draw)
        if site is None:
            return None
        self._kill(site)
        return site, lambda: self._restart(site)

    def _crash_site(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        site = self._pick([s for s in self._sites() if self._world.processes[s].alive], draw)
        if site is None:
            return None
        self._kill_site(site)
        return site, lambda: self._restart(site)

    def _standby_loss(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        active = self._active()
        names = [s for s in self._sites() if self._world.processes[s].alive and (active is None or s != active.name)]
        site = self._pick(names, draw)
        if site is None:
            return None
        self._kill_site(site)
        return site, lambda: self._restart(site)

    def _all_sites_lost(self, _draw: float) -> tuple[str, Callable[[], None]] | None:
        for site in self._sites():
            self._kill_site(site)

        def back() -> None:
            for site in self._sites():
                self._restart(site)

        return "every site", back

    def _manager_and_active(self, _draw: float) -> tuple[str, Callable[[], None]] | None:
        active = self._active()
        if active is None:
            return None
        managers = self._world.managers.managers
        self._kill_site(active.name)
        for manager in managers:
            manager.process.die()

        def back() -> None:
            self._restart(active.name)
            for manager in managers:
                if not manager.process.alive:
                    manager.process.born()
                    manager.start()

        return f"{active.name} and every manager", back

    def _crash_database(self, draw: float) -> tuple[str, None] | None:
        site = self._pick([s for s in self._sites() if self._world.databases[s].process.alive], draw)
        if site is None:
            return None
        self._world.databases[site].crash()
        return site, None

    def _crash_witness(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        name = self._pick([w for w in self._witnesses() if self._world.processes[w].alive], draw)
        if name is None:
            return None
        self._kill(name)
        return name, lambda: self._restart(name)

    def _crash_at_durable_step(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        name = self._pick([v for v in self._voters() if self._world.processes[v].alive], draw)
        if name is None:
            return None
        voter = self._world.member(name).voter
        voter.crash_next = "before" if draw * 7 % 1 < 0.5 else "after"

        def back() -> None:
            voter.crash_next = ""
            self._restart(name)

        return name, back

    def _crash_at_promotion(self, _draw: float) -> tuple[str, Callable[[], None]] | None:
        """The active site is lost, and whoever wins next loses its database server at that very moment."""
        active = self._active()
        if active is None:
            return None
        self.crashes_winner = True
        self._kill_site(active.name)

        def back() -> None:
            self.crashes_winner = False
            self._restart(active.name)

        return f"{active.name}, and the next winner's database", back

    def _isolate_at_win(self, _draw: float) -> tuple[str, Callable[[], None]]:
        """Whoever wins next is heard by its users alone from then on; in scripts only, chance hits it too seldom."""
        cut: list[Callable[[], None]] = []

        def isolate(site: str) -> None:
            others = [o for o in self._locations() if o not in (site, USERS)]
            cut.append(self._cut(_both_ways(site, others), site)[1])

        def back() -> None:
            self.isolates_winner = None
            for mend in cut:
                mend()

        self.isolates_winner = isolate
        return "the next winner", back

    def won(self, site: str) -> None:
        """A site has won: what was planned for that moment happens now."""
        if self.isolates_winner is not None:
            isolate, self.isolates_winner = self.isolates_winner, None
            isolate(site)
        if self.crashes_winner:
            self.crashes_winner = False
            # At once, or a moment later: before the promotion, or between the told set and the promotion.
            world = self._world
            delay = int(self._draw.random() ** 3 * world.settings.timing.heartbeat_ns)
            world.kernel.at(world.kernel.now + delay, None, world.databases[site].crash)

    def crash_in_step(self, process: Process, where: str) -> None:
        """The planned crash of a voter in a durable step happens now."""
        self._world.kernel.count(f"crashed {where}")
        process.die()

    def _lose_disk(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        world = self._world
        if self.lost_disks or len(world.voters.members) < 3:
            return None
        if any(not world.member(v).voter.disk for v in world.voters.members):
            return None
        holder, lone = self._active(), world.monitors.committed.members
        spared = {holder.name} if holder is not None else set()
        if len(lone) == 1:
            spared |= lone  # what only one site has is gone with its disk: nothing can be promised then
        name = self._pick([v for v in world.voters.members if v not in spared and self._can_lose(v)], draw)
        if name is None:
            return None
        if not self._change_is_over():
            world.kernel.count("disk lost during a change of voters")
        if name in world.databases:
            self._kill_site(name)
            whole = [s for s in lone if s != name and world.databases[s].promotable and world.databases[s].process.runs]
            if whole and draw * 11 % 1 < 0.5:
                world.databases[name].wipe()
        else:
            self._kill(name)
        member = world.member(name)
        member.voter.disk.clear()
        self.lost_disks.add(name)

        def back() -> None:
            self._restart(name)
            self._readmit(name)

        return name, back

    def _can_lose(self, name: str) -> bool:
        """Whether every list in force or on its way is carried by voters with a record of old, without this one.

        Whom a list on its way admits anew has none of old; with more records lost than that a group is for people.
        """
        world = self._world
        known = [world.monitors.in_force, Electorate(world.voters)]
        known += [p.voters for v in self._voters() for p in world.member(v).voter.disk.values()]
        lists = {voters for electorate in known for voters in electorate.lists}
        weak = {name}.union(*(voters.readmitted for voters in lists if voters != world.monitors.in_force.current))
        return all(
            sum(v not in weak and bool(world.member(v).voter.disk) for v in voters.members) >= voters.majority
            for voters in lists
        )

    def _change_is_over(self) -> bool:
        """Whether the list in force is the declared one."""
        return self._world.monitors.in_force == Electorate(self._world.voters)

    def _readmit(self, name: str) -> None:
        """An operator declares the voter anew."""
        if name in self.lost_disks and name in self._world.voters.members:
            self._declare(self._world.voters.members, frozenset({name}))
            self._world.kernel.count("voter admitted anew")
        self.lost_disks.discard(name)

    def _pause_controller(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        name = self._pick([v for v in self._voters() if self._world.processes[v].runs], draw)
        if name is None:
            return None
        self._pause(name)
        return name, lambda: self._resume(name)

    def _pause(self, name: str) -> None:
        self._world.processes[name].pause()

    def _resume(self, name: str) -> None:
        process = self._world.processes[name]
        if process.paused:
            process.resume()
            self._world.member(name).on_resume()

    def _freeze_site(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        site = self._pick([s for s in self._sites() if self._world.processes[s].runs], draw)
        if site is None:
            return None
        database = self._world.databases[site].process
        self._pause(site)
        database.pause()

        def back() -> None:
            database.resume()
            self._resume(site)

        return site, back

    def _pause_machine(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        """A virtual machine stands still with its clocks: the assumption on clock rates does not hold."""
        site = self._pick([s for s in self._sites() if self._world.processes[s].runs], draw)
        if site is None or self._world.clocks[site].stopped:
            return None
        return site, self.stop_machine(site)

    def stop_machine(self, site: str) -> Callable[[], None]:
        """Stops a site, or a witness, with its clock; returns what lets it go on."""
        world = self._world
        clock, database = world.clocks[site], world.databases.get(site)
        self._pause(site)
        if database is not None:
            database.process.pause()
        clock.stop()
        world.monitors.machine_paused[site] = began = world.kernel.now

        def back() -> None:
            clock.go_on()
            if database is not None:
                database.process.resume()
            self._resume(site)
            # Stale service may last for less than one lease after it wakes; then the excuse ends.
            world.kernel.at(world.kernel.now + world.settings.timing.ttl_ns, None, over)

        def over() -> None:
            if world.monitors.machine_paused.get(site) == began:
                del world.monitors.machine_paused[site]

        return back

    def _pause_manager(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        managers = [m for m in self._world.managers.managers if m.process.runs]
        if not managers:
            return None
        manager = managers[int(draw * len(managers))]
        manager.process.pause()
        return manager.process.name, manager.process.resume

    def _manager_crash(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        managers = [m for m in self._world.managers.managers if m.process.alive]
        if not managers:
            return None
        manager = managers[int(draw * len(managers))]
        manager.process.die()

        def back() -> None:
            if not manager.process.alive:
                manager.process.born()
                manager.start()

        return manager.process.name, back

    # -- the network ---------------------------------------------------------------------------------------------------

    def _locations(self) -> list[str]:
        managers = [manager.process.name for manager in self._world.managers.managers]
        return [*self._voters(), *managers, USERS]

    def _cut(self, pairs: list[tuple[str, str]], what: str) -> tuple[str, Callable[[], None]]:
        network = self._world.network
        network.cut(pairs)
        return what, lambda: network.mend(pairs)

    def _isolate_site(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        site = self._pick(self._sites(), draw)
        if site is None:
            return None
        others = [o for o in self._locations() if o != site]
        return self._cut(_both_ways(site, others), site)

    def _cut_one_way(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        locations = self._voters()
        src = locations[int(draw * len(locations))]
        others = [o for o in locations if o != src]
        dst = others[int(draw * 997 % 1 * len(others))]
        pairs = [(src, o) for o in others] if draw * 31 % 1 < 0.3 else [(src, dst)]
        return self._cut(pairs, f"{src} -> {'everybody' if len(pairs) > 1 else dst}")

    def _cut_pair(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        locations = self._voters()
        one = locations[int(draw * len(locations))]
        others = [o for o in locations if o != one]
        other = others[int(draw * 997 % 1 * len(others))]
        return self._cut([(one, other), (other, one)], f"{one} - {other}")

    def _flap_link(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        site = self._pick(self._sites(), draw)
        if site is None:
            return None
        world = self._world
        others = [o for o in self._voters() if o != site]
        pairs = _both_ways(site, others)
        state = {"on": True, "cut": False}
        down = int(world.settings.timing.ttl_ns * (0.5 + draw))

        def toggle() -> None:
            if not state["on"]:
                return
            if state["cut"]:
                world.network.mend(pairs)
            else:
                world.network.cut(pairs)
            state["cut"] = not state["cut"]
            world.kernel.at(world.kernel.now + (down if state["cut"] else down // 2), None, toggle)

        def stop() -> None:
            state["on"] = False
            if state["cut"]:
                world.network.mend(pairs)

        toggle()
        return site, stop

    def _mode(
        self, change: Callable[[Modes], None], undo: Callable[[Modes], None], what: str
    ) -> tuple[str, Callable[[], None]]:
        modes = self._world.network.modes
        change(modes)
        return what, lambda: undo(modes)

    def _delay(self, draw: float) -> tuple[str, Callable[[], None]]:
        factor = 2 + int(draw * 8)
        return self._mode(lambda m: setattr(m, "slower", factor), lambda m: setattr(m, "slower", 1), f"x{factor}")

    def _loss(self, draw: float) -> tuple[str, Callable[[], None]]:
        share = 0.02 + 0.4 * draw
        return self._mode(lambda m: setattr(m, "loss", share), lambda m: setattr(m, "loss", 0.0), f"{share:.0%}")

    def _duplicate(self, draw: float) -> tuple[str, Callable[[], None]]:
        return self._mode(lambda m: setattr(m, "duplicate", 0.5 * draw), lambda m: setattr(m, "duplicate", 0.0), "")

    def _reorder(self, _draw: float) -> tuple[str, Callable[[], None]]:
        return self._mode(lambda m: setattr(m, "reorder", True), lambda m: setattr(m, "reorder", False), "")

    def _hold_replication(self, _draw: float) -> tuple[str, Callable[[], None]]:
        network, sites = self._world.network, self._sites()
        pairs = [(one, other) for one in sites for other in sites if one != other]
        network.cut(pairs, network.replication_cuts)
        return "between the sites", lambda: network.mend(pairs, network.replication_cuts)

    # -- data and drivers ----------------------------------------------------------------------------------------------

    def _hold_apply(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        site = self._pick(self._sites(), draw)
        if site is None:
            return None
        database = self._world.databases[site]
        database.hold_apply = True

        def back() -> None:
            database.hold_apply = False

        return site, back

    def _mute_standby(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        """A standby receives and acknowledges nothing."""
        site = self._pick(self._sites(), draw)
        if site is None:
            return None
        database = self._world.databases[site]
        database.mute = True

        def back() -> None:
            database.mute = False

        return site, back

    def _semi_sync_off(self, draw: float) -> tuple[str, None] | None:
        active = self._active()
        if active is None:
            return None
        active.db.semi_sync_off = True
        return active.name, None

    def _slow_disk(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        name = self._pick(self._voters(), draw)
        if name is None:
            return None
        voter = self._world.member(name).voter
        voter.slow = 20 + int(draw * 200)

        def back() -> None:
            voter.slow = 1

        return name, back

    def _disk_full(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        name = self._pick(self._voters(), draw)
        if name is None:
            return None
        voter = self._world.member(name).voter
        voter.disk_full = True

        def back() -> None:
            voter.disk_full = False

        return name, back

    def _driver_stuck(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        site = self._pick(self._sites(), draw)
        if site is None:
            return None
        database = self._world.databases[site]
        database.stuck = True

        def back() -> None:
            database.stuck = False

        return site, back

    def _gate_stuck(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        site = self._pick(self._sites(), draw)
        if site is None:
            return None
        gate = self._world.gates[site]
        gate.stuck = True
        active = self._active()
        if active is not None and draw * 23 % 1 < 0.4:
            # The worst moment: the database of the active site dies while nobody can prove that its gate is shut.
            gate.stuck = False
            site, gate = active.name, active.gate
            gate.stuck = True
            active.db.crash()

        def back() -> None:
            gate.stuck = False

        return site, back

    def _driver_lies(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        site = self._pick(self._sites(), draw)
        if site is None:
            return None
        database = self._world.databases[site]
        database.lies = "promotable" if draw * 13 % 1 < 0.5 else "dead"

        def back() -> None:
            database.lies = ""
            database.lied_ns = self._world.kernel.now

        return f"{site} ({database.lies})", back

    def _missed_event(self, _draw: float) -> tuple[str, Callable[[], None]]:
        self.misses_events = True

        def back() -> None:
            self.misses_events = False

        return "", back

    # -- manager, Git, people ------------------------------------------------------------------------------------------

    def _api_down(self, _draw: float) -> tuple[str, Callable[[], None]]:
        api = self._world.managers.api
        api.up = False

        def back() -> None:
            api.up = True

        return "", back

    def _git_down(self, _draw: float) -> tuple[str, Callable[[], None]]:
        git = self._world.managers.git
        git.up = False

        def back() -> None:
            git.up = True

        return "", back

    def _git_conflict(self, _draw: float) -> tuple[str, Callable[[], None]]:
        self.git_conflicts = True

        def back() -> None:
            self.git_conflicts = False

        return "", back

    def _stale_manager(self, draw: float) -> tuple[str, Callable[[], None]]:
        """Managers act on what was so a while ago, also on a wish that fits no longer."""
        managers = self._world.managers
        managers.stale = True
        site = self._pick(self._sites(), draw)
        if site is not None:
            managers.create(site, "Switchover")

        def back() -> None:
            managers.stale = False

        return "", back

    def _git_early(self, draw: float) -> tuple[str, None] | None:
        """One site learns what was declared before anybody else does."""
        site = self._pick([s for s in self._sites() if self._world.processes[s].runs], draw)
        if site is None:
            return None
        world = self._world
        world.controllers[site].on_assignment("git", world.voters, world.automatic)
        return site, None

    def _operator_switchover(self, draw: float) -> tuple[str, Callable[[], None]] | None:
        """A planned move; sometimes the controller that carries it out dies in the middle."""
        site = self._pick(self._sites(), draw)
        active = self._active()
        if site is None or active is None:
            return None
        world = self._world
        world.managers.create(site, "Switchover")
        if draw * 41 % 1 < 0.2:  # and another one who does not know of it
            world.managers.create(world.settings.sites[0], "Switchover")
        if draw * 19 % 1 < 0.4:
            return f"to {site}", lambda: None
        when = world.kernel.now + int(world.settings.timing.heartbeat_ns * (0.8 + draw * 37 % 1))
        over = [False]

        def die() -> None:
            if not over[0]:
                self._kill(active.name)

        def back() -> None:
            over[0] = True
            self._restart(active.name)

        world.kernel.at(when, active.process, die)
        return f"to {site}, {active.name} dies on the way", back

    def _operator_wrong(self, draw: float) -> tuple[str, None] | None:
        """A person asks for a move to a site that may lack acknowledged writes."""
        active = self._active()
        held = active.part.held if active is not None else None
        if held is None:
            return None
        outside = [s for s in self._sites() if s not in held.current.members]
        site = self._pick(outside, draw)
        if site is None:
            return None
        self._world.managers.create(site, "Switchover")
        return f"to {site}, outside the set", None

    def _declare(self, members: tuple[str, ...], readmitted: frozenset[str] = frozenset()) -> None:
        self._version += 1
        world = self._world
        world.voters = VoterList(self._version, members, readmitted)
        world.managers.declare(world.voters, world.automatic)

    def _change_voters(self, draw: float) -> tuple[str, None] | None:
        world = self._world
        if not world.settings.spare_witnesses or self.lost_disks or len(world.voters.members) < 3:
            return None
        if draw * 29 % 1 < 0.5 and not self._change_is_over():
            return None  # half of the time an operator waits for the end of one change before the next
        sites = world.settings.sites
        before = world.voters
        witnesses = [v for v in before.members if v not in sites]
        spare = [w for w in self._witnesses() if w not in witnesses]
        kind = draw * 17 % 1
        if witnesses and spare and kind < 0.6:  # replace one
            witnesses[int(draw * len(witnesses))] = spare[0]
        elif len(spare) >= 2 and kind < 0.85:
            witnesses += spare[:2]
        elif len(witnesses) >= 2 and len(sites) + len(witnesses) - 2 >= 3:
            witnesses = witnesses[2:]
        else:
            return None
        members = (*sites, *witnesses)
        # `graf status` names those that abstain, and how to admit them anew.
        anew = frozenset(v for v in members if v in before.members and not world.member(v).voter.disk)
        self._declare(members, anew)
        return world.voters.describe(), None

    def _change_policy(self, _draw: float) -> tuple[str, Callable[[], None]]:
        world = self._world
        before = world.automatic
        world.automatic = not before
        world.managers.declare(world.voters, world.automatic)

        def back() -> None:
            world.automatic = before
            world.managers.declare(world.voters, world.automatic)

        return "manual" if before else "automatic", back

"""Liveness: from every state, once all faults are over, a fair turn of contests ends with a winner.

The worst is assumed first: everything in the network is lost, every lease is given up, every contest has timed out.
Then the sites ask in turn, every message arrives, and time passes between two turns. A state from which nobody wins in
`TURNS` of them is taken to be stuck for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.sim.explore.clocks import GROUP
from graf.sim.explore.values import Win
from graf.sim.explore.world import NO_ANSWER

if TYPE_CHECKING:
    from collections.abc import Iterable

    from graf.sim.explore.world import State, World

TURNS = 6


class Recovery:
    """Remembers which states of the nodes recover."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.sites = [world.index[site] for site in world.setting.sites]
        self._known: dict[tuple[int, ...], bool] = {}
        self._quiet: dict[tuple[int, ...], tuple[int, ...]] = {}

    def stuck(self, states: Iterable[State]) -> State | None:
        """The first state from which nobody wins any more; None when there is none."""
        for state in states:
            nodes = state[: self.world.width]
            quiet = self._quiet.get(nodes)
            if quiet is None:
                quiet = self._quiet[nodes] = self._quieted([*nodes])
            wins = self._known.get(quiet)
            if wins is None:
                wins = self._known[quiet] = self._somebody_wins([*quiet])
            if not wins:
                return state
        return None

    def _quieted(self, nodes: list[int]) -> tuple[int, ...]:
        for i in self.sites:
            for event in (("fence",), ("time out",)):
                if event in self.world.events_of(nodes[i]):
                    for _, number, *_ in self.world.stepped(nodes[i], event):
                        nodes[i] = number
        return self._time_passes(nodes)

    def _time_passes(self, nodes: list[int]) -> tuple[int, ...]:
        before = None
        now = tuple(nodes)
        while now != before:
            before = now
            for _, after in self.world.promises_end(now):
                now = after
                break
        return now

    def _somebody_wins(self, nodes: list[int]) -> bool:
        for turn in range(TURNS):
            i = self.sites[turn % len(self.sites)]
            for event in self._decisions(nodes, i):
                for outcome, number, sent, _ in self.world.stepped(nodes[i], event):
                    nodes[i] = number
                    if any(isinstance(note, Win) for note in outcome.notes) or self._arrives(nodes, sent):
                        return True
            for _, number, sent, _ in self.world.stepped(nodes[i], ("time out",)):
                nodes[i] = number
                self._arrives(nodes, sent)
            nodes = [*self._time_passes(nodes)]
        return False

    def _decisions(self, nodes: list[int], i: int) -> Iterable[tuple[object, ...]]:
        yield ("decide",)
        if self.world.nodes[nodes[i]].disk is not None:
            return
        records = (self.world.nodes[n].voter.promises.get(GROUP) for n in nodes)
        for voters in dict.fromkeys(p.voters for p in records if p is not None):
            yield ("decide", voters)

    def _arrives(self, nodes: list[int], messages: Iterable[int]) -> bool:
        """Everything arrives, and what it brings about; whether somebody has won."""
        waiting = [*messages]
        while waiting:
            message = waiting.pop(0)
            i = self.world.receiver(message)
            for outcome, number, sent, answer in self.world.delivered(nodes[i], message):
                nodes[i] = number
                if any(isinstance(note, Win) for note in outcome.notes):
                    return True
                waiting.extend(sent)
                if answer != NO_ANSWER:
                    waiting.append(answer)
        return False

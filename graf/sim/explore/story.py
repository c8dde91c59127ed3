"""A way through the states, told as a numbered story with the times at which leases end."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from graf.core import messages as m
from graf.sim.explore.clocks import GROUP, NOW
from graf.sim.explore.values import Copy, Event, Message, Node

if TYPE_CHECKING:
    from graf.sim.explore.world import Follower, State, World

ALONE = {
    "fence": "{0} fences itself and gives its lease up",
    "hand over": "{0} shuts its gate and releases its epoch",
    "time out": "{0} gives its contest up",
    "crash": "{0} crashes and starts again with what is on its disk",
    "lose disk": "{0} crashes and starts again with an empty disk",
    "heartbeat": "{0} sends a heartbeat with its claim",
    "write": "a client's write reaches {0}",
    "replicate": "{0} sends its data to the other site",
    "shrink": "{0} tells the voters the set without the other site",
    "join": "{0} begins to wait for the other site's acknowledgements",
    "grow": "{0} tells the voters the set with the other site",
    "tell only": "{0} tells the voters the set with the other site and goes on acknowledging without it",
    "tell again": "{0} repeats what no majority has confirmed",
}


class Story:
    """Tells steps of one world; time is counted in ticks from the first state."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ticks = 0

    def of(self, way: list[State], last: Follower) -> tuple[str, ...]:
        """One sentence per step from the first state through `way`, then the step `last` and what it breaks."""
        steps = self.through(way)
        event, state, broken = last
        return (*steps, f"{len(steps) + 1}. {self._step(way[-1], event, state)}", f"=> {broken}")

    def through(self, way: list[State]) -> tuple[str, ...]:
        """One sentence per step from the first state through `way`."""
        steps = (self._step(before, self._event_between(before, after), after) for before, after in pairwise(way))
        return tuple(f"{i}. {text}" for i, text in enumerate(steps, 1))

    def _event_between(self, before: State, after: State) -> Event:
        for event, state, broken in self.world.followers(before):
            if state == after and not broken:
                return event
        raise RuntimeError("a state's parent does not lead to it")

    def _step(self, before: State, event: Event, after: State) -> str:
        world = self.world
        old = [world.nodes[n] for n in before[: world.width]]
        new = [world.nodes[n] for n in after[: world.width]]
        text = self._told(event, old, new)
        if event[0] == "tick":
            self.ticks += 1
        if world.setting.timed:
            text = f"[t={self.ticks}] {text}"
        leases = [left for node in new if (left := self._lease(node))]
        wins = [self._win(o, n) for o, n in zip(old, new, strict=True) if self._win(o, n)]
        acknowledged = world.pasts[after[-1]].acknowledged and not world.pasts[before[-1]].acknowledged
        more = [*wins, *(["the write is acknowledged"] if acknowledged else [])]
        if more:
            text += ": " + ", ".join(more)
        return f"{text}  ({'; '.join(leases) or 'nobody holds a lease'})"

    def _told(self, event: Event, old: list[Node], new: list[Node]) -> str:
        world = self.world
        heard = ", and the answer arrives" if event[-1] == "and its answer arrives" else ""
        match event[0]:
            case "tick":
                return "time passes"
            case "promise ends":
                return f"time passes until the promise of {event[1]} binds no more; no lease counts on it since before"
            case "renewal":
                return f"{event[1]} renews its lease with {event[2]}"
            case "deliver" | "deliver and crash":
                message: Message = event[1]
                i = world.index[message.dst]
                crash = event[0] != "deliver"
                return self._delivery(message, old[i], new[i], crash=crash) + heard
            case "decide" | "decide otherwise":
                name = event[2] if len(event) > 2 else event[1]
                i = world.index[name]
                return self._decision(name, old[i], new[i])
        text = ALONE[event[0]].format(event[1])
        if event[0] == "fence" and not world.setting.timed:
            text += "; time passes until nobody is bound to it"
        return text

    def _delivery(self, message: Message, old: Node, new: Node, *, crash: bool) -> str:
        src, dst, body, _ = message
        promise = new.voter.promises.get(GROUP)
        changed = promise != old.voter.promises.get(GROUP)
        died = f"; {dst} has it on disk, crashes before it answers and starts again" if crash else ""
        match body:
            case m.Campaign():
                asked = f"{src}'s campaign for epoch {body.epoch} of {body.voters.describe()} reaches {dst}"
                return f"{asked}, which {'grants it' if changed or crash else 'refuses'}{died}"
            case m.Claim():
                return f"{src}'s claim of epoch {body.epoch}, sent {message.age} ticks ago, reaches {dst}"
            case m.Release():
                return f"{src}'s release of epoch {body.epoch} reaches {dst}{died}"
            case m.SetUpdate():
                return f"{src}'s set {body.new_set.describe()} reaches {dst}, which stores it{died}"
            case m.Settle():
                return f"{src}'s word that {body.voters.describe()} is in force reaches {dst}{died}"
            case m.CampaignAnswer():
                word = "grant" if body.granted else f"refusal ({body.reason})"
                return f"the {word} of {src} for epoch {body.epoch} reaches {dst}"
            case m.ClaimAnswer():
                return f"the answer of {src} to a claim sent {message.age} ticks ago reaches {dst}"
            case Copy():
                what = "data with the write" if body.has else "data without the write"
                return f"{src}'s {what} (epoch {body.epoch}) reach {dst}"
        return f"{type(body).__name__} of {src} reaches {dst}"

    def _decision(self, name: str, old: Node, new: Node) -> str:
        contest = new.part.contest if new.part is not None else None
        if contest is not None and (old.part is None or old.part.contest is None):
            campaign = contest.campaign
            asked = ", ".join(sorted(contest.asked))
            return f"{name} asks {asked} for epoch {campaign.epoch} of {campaign.voters.describe()}"
        if new.part is not None and new.part.settling is not None and new.part.settling.begun:
            return f"{name} tells the voters that {new.part.settling.voters.newest.describe()} is in force"
        held = new.part.held if new.part is not None else None
        if held is not None and held.proposed is not None:
            return f"{name}, the new holder, tells the voters the set {held.proposed.describe()}"
        return f"{name} decides and carries it out at once"

    def _lease(self, node: Node) -> str:
        lease = node.part.lease if node.part is not None else None
        if not self.world.setting.timed:
            if lease is None or not lease.valid(NOW):
                return ""
            return f"{node.name} holds epoch {lease.epoch} by {', '.join(lease.supporters(NOW))}"
        left = self.world.setting.clocks.left(node.gate_ns)
        if not left:
            return ""
        if left > 1_000:
            return f"{node.name}'s gate is open"
        epoch = f" of epoch {lease.epoch}" if lease is not None else ""
        return f"{node.name}'s lease{epoch} ends at t={self.ticks + left}"

    @staticmethod
    def _win(old: Node, new: Node) -> str:
        before = old.part.lease.epoch if old.part is not None and old.part.lease is not None else 0
        lease = new.part.lease if new.part is not None else None
        return f"{new.name} wins epoch {lease.epoch}" if lease is not None and lease.epoch != before else ""

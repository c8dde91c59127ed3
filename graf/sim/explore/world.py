"""The states of a small group and what follows from each: nodes, network and past as small numbers.

A state is a tuple of numbers: one per node, one for the set of messages, one for the past. Equal values get equal
numbers, and what one event does at one node is worked out once, by the functions of `graf.core`, and remembered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graf.sim.explore import invariants, network
from graf.sim.explore.acting import Acting
from graf.sim.explore.clocks import GROUP
from graf.sim.explore.keys import node_key
from graf.sim.explore.values import Event, Message, Node, Outcome, Past

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from graf.sim.explore.setting import Setting

State = tuple[int, ...]
Follower = tuple[Event, State, str]
Done = tuple[Outcome, int, tuple[int, ...], int]
NO_ANSWER = -1


class World:
    """All tables of one search.

    Invariant: two states are equal exactly when their nodes, their messages and their past are.
    """

    def __init__(self, setting: Setting, nodes: Iterable[Node], past: Past) -> None:
        self.setting = setting
        self.acting = Acting(setting)
        self.index = {name: i for i, name in enumerate(setting.names)}
        self.width = len(setting.names)
        self.nodes: list[Node] = []
        self._node_numbers: dict[Any, int] = {}
        self.holds: list[bool] = []
        self._acknowledges: list[bool] = []
        self._events: list[tuple[Event, ...]] = []
        self._contends: list[bool] = []
        self._fresh: list[tuple[int, str | None] | None] = []
        self._counted: dict[tuple[int, bool, int, int], bool] = {}
        self.messages: list[Message] = []
        self._receivers: list[int] = []
        self._message_numbers: dict[Message, int] = {}
        self._kept: dict[tuple[int, int], int] = {}
        self.nets: list[frozenset[int]] = []
        self._net_numbers: dict[frozenset[int], int] = {}
        self.pasts: list[Past] = []
        self._past_numbers: dict[Past, int] = {}
        self._steps: dict[tuple[int, Event], tuple[Done, ...]] = {}
        self._deliveries: dict[tuple[int, int, str], tuple[Done, ...]] = {}
        self._ticks: dict[int, int] = {}
        self._freed: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._ends: dict[tuple[int, ...], tuple[tuple[str, tuple[int, ...]], ...]] = {}
        self._net_ticks: dict[int, tuple[int, ...]] = {}
        self.first: State = (
            *(self.node(self.acting.settled(n)) for n in nodes),
            self.net(frozenset()),
            self.past(past),
        )

    # -- numbers -------------------------------------------------------------------------------------------------------

    def node(self, node: Node) -> int:
        """The number of a node's state."""
        key = node_key(node)
        number = self._node_numbers.get(key)
        if number is None:
            number = self._node_numbers[key] = len(self.nodes)
            self.nodes.append(node)
            self.holds.append(invariants.holds(self.setting, node))
            self._acknowledges.append(invariants.acknowledges(self.acting, node))
            self._events.append(self.acting.events(node))
            self._contends.append(node.part is not None and node.part.contest is not None)
            self._fresh.append(self.acting.fresh(node))
        return number

    def message(self, message: Message) -> int:
        """The number of a message."""
        number = self._message_numbers.get(message)
        if number is None:
            number = self._message_numbers[message] = len(self.messages)
            self.messages.append(message)
            self._receivers.append(self.index[message.dst])
        return number

    def net(self, messages: frozenset[int]) -> int:
        """The number of a set of messages."""
        number = self._net_numbers.get(messages)
        if number is None:
            number = self._net_numbers[messages] = len(self.nets)
            self.nets.append(messages)
        return number

    def past(self, past: Past) -> int:
        """The number of a past."""
        number = self._past_numbers.get(past)
        if number is None:
            number = self._past_numbers[past] = len(self.pasts)
            self.pasts.append(past)
        return number

    # -- what follows --------------------------------------------------------------------------------------------------

    def followers(self, state: State) -> Iterator[Follower]:
        """Every event that can happen now, the state after it, and which invariant it breaks, if any."""
        past = self.pasts[state[-1]]
        if not self.setting.timed and not past.contests and not any(self._contends[n] for n in state[: self.width]):
            return  # no epoch can be won any more, so nothing that is checked can change
        for number in self.nets[state[-2]]:
            message = self.messages[number]
            i = self._receivers[number]
            for done in self.delivered(state[i], number):
                yield from self._after(state, past, i, ("deliver", message), done)
            if past.crashes:
                for done in self.delivered(state[i], number, "deliver and crash"):
                    yield from self._after(state, past, i, ("deliver and crash", message), done)
        for i in range(self.width):
            for event in (*self._events[state[i]], *self._told(state, i)):
                for done in self.stepped(state[i], event):
                    yield from self._after(state, past, i, (*event, self.setting.names[i]), done)
        if self.setting.timed:
            yield ("tick",), self._ticked(state), ""
        else:
            yield from self._untimed(state, past)

    def _told(self, state: State, i: int) -> Iterable[Event]:
        """A site without a record asks for an epoch once a peer has told it which voters are in force."""
        node = self.nodes[state[i]]
        if node.disk is not None or node.part is None or node.part.contest is not None:
            return ()
        others = (self.nodes[n].voter.promises.get(GROUP) for n in state[: self.width])
        return [("decide", v) for v in dict.fromkeys(p.voters for p in others if p is not None)]

    def events_of(self, number: int) -> tuple[Event, ...]:
        """What a node may do by itself."""
        return self._events[number]

    def receiver(self, message: int) -> int:
        """The node that a message goes to."""
        return self._receivers[message]

    def stepped(self, number: int, event: Event) -> tuple[Done, ...]:
        """What comes of an event at a node."""
        key = (number, event)
        done = self._steps.get(key)
        if done is None:
            done = self._steps[key] = self._numbered(number, self.acting.step(self.nodes[number], event))
        return done

    def delivered(self, node: int, message: int, how: str = "deliver") -> tuple[Done, ...]:
        """What comes of a message at a node."""
        key = (node, message, how)
        done = self._deliveries.get(key)
        if done is None:
            event = (how, self.messages[message])
            done = self._deliveries[key] = self._numbered(node, self.acting.step(self.nodes[node], event))
        return done

    def _numbered(self, before: int, outcomes: tuple[Outcome, ...]) -> tuple[Done, ...]:
        done = []
        for outcome in outcomes:
            number = self.node(outcome.node)
            if number != before or _more_than_a_node(outcome):
                sent = tuple(self.message(m) for m in outcome.sent)
                answer = NO_ANSWER if outcome.instant is None else self.message(outcome.instant)
                done.append((outcome, number, sent, answer))
        return tuple(done)

    def _after(self, state: State, past: Past, i: int, event: Event, done: Done) -> Iterator[Follower]:
        outcome, number, sent, instant = done
        if outcome.spent and not getattr(past, outcome.spent):
            return
        nodes = [*state[: self.width]]
        nodes[i] = number
        messages: Iterable[int] = self.nets[state[-2]]
        if outcome.crashed:
            name = self.setting.names[i]
            if not self.setting.patch.streams_outlive_processes:
                messages = [n for n in messages if name not in (self.messages[n].src, self.messages[n].dst)]
        messages = [*messages, *sent]
        broken = ""
        if outcome.notes or outcome.spent:
            past, broken = invariants.remembered(self, nodes, past, outcome)
        yield from self._completed(nodes, messages, past, event, broken)
        if instant != NO_ANSWER:
            # It arrives at once or never: later is the same as never, see the page on this check.
            j = self._receivers[instant]
            for answered, answered_number, more, _ in self.delivered(nodes[j], instant):
                heard = [*nodes]
                heard[j] = answered_number
                told = (*event, "and its answer arrives")
                after, wrong = invariants.remembered(self, heard, past, answered)
                yield from self._completed(heard, [*messages, *more], after, told, broken or wrong)

    def _completed(
        self, nodes: Sequence[int], messages: Iterable[int], past: Past, event: Event, broken: str
    ) -> Iterator[Follower]:
        if not broken:
            holders = [self.setting.names[i] for i in range(self.width) if self.holds[nodes[i]]]
            if len(holders) > 1:
                broken = f"I1: {' and '.join(holders)} both hold a valid lease"
        if not self.setting.timed:
            nodes = self._free(tuple(nodes))
        if not past.acknowledged and any(self._acknowledges[n] for n in nodes):
            past = past._replace(acknowledged=True)
        yield event, (*nodes, self.net(self._kept_of(nodes, messages)), self.past(past)), broken

    def _free(self, before: tuple[int, ...]) -> tuple[int, ...]:
        """Ends every promise that nothing counts on any more: such a voter can do all that it could do before."""
        after = self._freed.get(before)
        if after is not None:
            return after
        nodes = [*before]
        for i in range(self.width):
            fresh = self._fresh[nodes[i]]
            if fresh is None:
                continue
            epoch, site = fresh
            if any(self._counts_on(nodes[self.index[s]], s == site, epoch, i) for s in self.setting.sites):
                continue
            for _, number, *_ in self.stepped(nodes[i], ("promise ends", self.setting.names[i], "", 0)):
                nodes[i] = number
        after = self._freed[before] = tuple(nodes)
        return after

    def _counts_on(self, number: int, promised: bool, epoch: int, voter: int) -> bool:
        """Whether this site has a lease with that voter in it, or asks for the epoch that the voter has promised it."""
        key = (number, promised, epoch, voter)
        known = self._counted.get(key)
        if known is None:
            part = self.nodes[number].part
            lease, contest = (None, None) if part is None else (part.lease, part.contest)
            asks = promised and contest is not None and contest.campaign.epoch == epoch
            known = asks or (lease is not None and self.setting.names[voter] in lease.sent_ns)
            self._counted[key] = known
        return known

    def _kept_of(self, nodes: Sequence[int], messages: Iterable[int]) -> frozenset[int]:
        kept, waiting = [], []
        for number in messages:
            receiver = nodes[self._receivers[number]]
            verdict = self._kept.get((number, receiver))
            if verdict is None:
                verdict = self._kept[number, receiver] = self._judged(number, receiver)
            if verdict == 1:
                kept.append(number)
            elif verdict == 2:
                waiting.append(number)
        for number in waiting:
            src, dst, body, _ = self.messages[number]
            for other in kept:
                campaign = self.messages[other]
                if campaign.src == src and campaign.dst == dst and network.is_campaign_of(campaign, body.epoch):
                    kept.append(number)
                    break
        return frozenset(kept)

    def _judged(self, number: int, receiver: int) -> int:
        message, node = self.messages[number], self.nodes[receiver]
        if not network.alive(message, node, self.setting.clocks.ticks):
            return 0
        if network.is_claim_answer(message) and not network.renews(message, node, self.setting.clocks.slow):
            return 0
        return 2 if network.waits_for_its_campaign(message, node) else 1

    # -- time ----------------------------------------------------------------------------------------------------------

    def _ticked(self, state: State) -> State:
        nodes = []
        for number in state[: self.width]:
            after = self._ticks.get(number)
            if after is None:
                after = self._ticks[number] = self.node(self.acting.aged(self.nodes[number]))
            nodes.append(after)
        messages = self._net_ticks.get(state[-2])
        if messages is None:
            aged = (self.messages[n] for n in self.nets[state[-2]])
            older = (m._replace(age=m.age + 1) if network.ages(m) else m for m in aged)
            messages = self._net_ticks[state[-2]] = tuple(self.message(m) for m in older)
        return (*nodes, self.net(self._kept_of(nodes, messages)), state[-1])

    def _untimed(self, state: State, past: Past) -> Iterator[Follower]:
        """A voter's promise ends, and whatever counted on it has ended before; or a claim is answered at once."""
        before = state[: self.width]
        for name, nodes in self.promises_end(before):
            yield from self._completed(nodes, self.nets[state[-2]], past, ("promise ends", name), "")
        for j in range(self.width):
            if self.holds[state[j]]:
                for i in range(self.width):
                    yield from self._renewed(state, past, j, i)

    def promises_end(self, before: tuple[int, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Per voter whose promise may end, the nodes after it."""
        known = self._ends.get(before)
        if known is not None:
            return known
        found = []
        for i, name in enumerate(self.setting.names):
            promise = self.nodes[before[i]].voter.promises.get(GROUP)
            event = ("promise ends", name, *(("", 0) if promise is None else (promise.site, promise.epoch)))
            nodes = [*before]
            for j in range(self.width):
                for _, number, *_ in self.stepped(nodes[j], event):
                    nodes[j] = number
            if tuple(nodes) != before:
                found.append((name, tuple(nodes)))
        known = self._ends[before] = tuple(found)
        return known

    def _renewed(self, state: State, past: Past, holder: int, voter: int) -> Iterator[Follower]:
        nodes = [*state[: self.width]]
        names = self.setting.names
        sent: list[int] = [*self.nets[state[-2]]]
        for _, number, requests, _ in self.stepped(nodes[holder], ("claim", names[voter])):
            nodes[holder] = number
            for request in requests:
                for _, answered, accepted, refused in self.delivered(nodes[voter], request):
                    nodes[voter] = answered
                    for answer in (*accepted, *((refused,) if refused != NO_ANSWER else ())):
                        for _, heard, more, _ in self.delivered(nodes[holder], answer):
                            nodes[holder] = heard
                            sent.extend(more)
        event = ("renewal", names[holder], names[voter])
        yield from self._completed(nodes, sent, past, event, "")


def _more_than_a_node(outcome: Outcome) -> bool:
    return bool(outcome.sent or outcome.instant or outcome.notes or outcome.crashed or outcome.spent)

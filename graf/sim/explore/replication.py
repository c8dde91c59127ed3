"""The data of a site: one write on its way to the follower, and the synchronous set that it is acknowledged with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from graf.core import participant as protocol
from graf.sim.explore.clocks import NOW
from graf.sim.explore.values import Copy, Data, Event, Message, Node, Outcome

if TYPE_CHECKING:
    from graf.sim.explore.acting import Acting


def events(acting: Acting, node: Node) -> tuple[Event, ...]:
    """What a holder may do about data and set."""
    part = node.part
    if part is None or part.held is None or part.lease is None or part.held.counter == 0:
        return (("replicate",), ("write",))
    held, other = part.held, other_site(acting, node)
    found: list[Event] = [("replicate",), ("write",)]
    if part.contest is not None:
        return tuple(found)
    if held.proposed is None:
        if other in held.must_acknowledge:
            found.append(("shrink",))
        elif not held.joining:
            found.append(("join",))
            if acting.patch.told_before_required and node.data.has <= node.data.follower_has:
                found.append(("tell only",))
        if held.joining and (acting.patch.grown_before_caught_up or node.data.at_join <= node.data.follower_has):
            found.append(("grow",))
    return tuple(found)


def step(acting: Acting, node: Node, event: Event) -> Outcome | None:
    """One event of `events`."""
    part = node.part
    if part is None or part.held is None or part.lease is None:
        return None
    before = part.held
    config, other = acting.config(node), other_site(acting, node)
    match event:
        case ("write",):
            if node.data.has:
                return None
            return Outcome(replace(node, data=replace(node.data, has=True)), spent="writes")
        case ("replicate",):
            body = Copy(part.lease.epoch, node.data.has)
            return Outcome(node, sent=(Message(node.name, other, body),))
        case ("shrink",):
            part, _ = protocol.stop_joining(part, NOW) if part.held.joining else (part, ())
            return replace(propose(acting, replace(node, part=part), frozenset({node.name})), spent="changes")
        case ("join",):
            joined = acting.run(node, protocol.join(part, other, NOW))
            return replace(joined, node=replace(joined.node, data=replace(node.data, at_join=node.data.has)))
        case ("grow",):
            return replace(propose(acting, node, before.current.members | {other}), spent="changes")
        case ("tell only",):
            told = acting.run(node, protocol.propose_set(part, config, before.current.members | {other}, NOW))
            if told.node.part is None:
                return None
            forgets = replace(told.node.part, held=replace(before, counter=before.counter + 1))
            return replace(told, node=replace(told.node, part=forgets), spent="changes")
    return None


def propose(acting: Acting, node: Node, members: frozenset[str]) -> Outcome:
    """The holder tells a newer set."""
    if node.part is None:
        raise TypeError(f"{node.name} is no site")
    told = acting.run(node, protocol.propose_set(node.part, acting.config(node), members, NOW))
    part = told.node.part
    if part is None or part.held is None:
        return told
    if acting.patch.doubtful_forgotten:
        part = replace(part, held=replace(part.held, doubtful=frozenset()))
    if acting.patch.shrunk_before_stored and part.held is not None and part.held.proposed is not None:
        held = replace(part.held, current=part.held.proposed, proposed=None, doubtful=frozenset())
        part = replace(part, held=held)
    return replace(told, node=replace(told.node, part=part))


def on_copy(acting: Acting, node: Node, message: Message) -> Outcome | None:
    """A follower takes newer data, or a holder learns what its follower has."""
    body: Copy = message.body
    part, data = node.part, node.data
    if part is None:
        return None
    if body.answer:
        if part.held is None or body.epoch != part.held.epoch:
            return None
        return Outcome(replace(node, data=replace(data, follower_has=data.follower_has or body.has)))
    if part.lease is not None or body.epoch < data.epoch:
        return None
    # A newer active site's data replace what this one has; its own leftovers are archived.
    has = body.has if body.epoch > data.epoch else data.has or body.has
    taken = replace(node, data=replace(data, has=has, epoch=body.epoch))
    return Outcome(taken, instant=Message(node.name, message.src, Copy(body.epoch, has, answer=True)))


def won(data: Data, epoch: int) -> Data:
    """The data of a site that has won an epoch."""
    return Data(data.has, max(data.epoch, epoch))


def acknowledges(acting: Acting, node: Node) -> bool:
    """Whether the write would be acknowledged to its client now."""
    part = node.part
    if part is None or part.held is None or part.lease is None or not node.data.has or not part.lease.valid(NOW):
        return False
    required = protocol.must_acknowledge(part, acting.config(node))
    return node.data.follower_has or required <= {node.name}


def other_site(acting: Acting, node: Node) -> str:
    """The follower."""
    return next(site for site in acting.setting.sites if site != node.name)

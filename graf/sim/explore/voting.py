"""A node's voter: the functions of `graf.core.voter` with its disk, whole or broken."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from graf.core import messages as m
from graf.core import voter
from graf.core.participant import Participation
from graf.core.voter import VoterState
from graf.sim.explore.clocks import GROUP, NOW
from graf.sim.explore.values import Broken, Node

if TYPE_CHECKING:
    from graf.core.voter import Promise, VoterStep
    from graf.sim.explore.clocks import Clocks
    from graf.sim.explore.patches import Patch


class CrashedError(Exception):
    """The node died after its disk was written and before anything else happened."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.name)
        self.node = node


def judge(node: Node, asker: str, request: Any, patch: Patch) -> VoterStep[Any]:
    """What the voter makes of a request now; nothing is stored yet."""
    state = node.voter
    promise = state.promises.get(GROUP)
    match request:
        case m.Campaign():
            step: VoterStep[Any] = voter.on_campaign(state, asker, request, NOW, patch.rules)
            durable = step.durable
            if not step.answer.granted or durable is None:
                return step
            if patch.grant_is_no_answer:
                step = replace(step, state=replace(step.state, answered_ns=state.answered_ns))
            if patch.set_reset_by_grant:
                everybody = frozenset(v for v in request.voters.members if v in ("east", "west"))
                reset = replace(durable.stored_set, members=everybody)
                step = _with_promise(step, replace(durable, stored_set=reset))
            return step
        case m.Claim():
            if patch.released_still_claimed and promise is not None:
                unreleased = MappingProxyType({GROUP: replace(promise, released=False)})
                step = voter.on_claim(replace(state, promises=unreleased), asker, request, NOW)
                return replace(step, state=replace(step.state, promises=state.promises))
            return voter.on_claim(state, asker, request, NOW)
        case m.Release():
            step = voter.on_release(state, asker, request)
            durable = step.durable
            if patch.release_drops_any_change and durable is not None and durable.voters.joint:
                return _with_promise(step, replace(durable, voters=type(durable.voters)(durable.voters.current)))
            return step
        case m.SetUpdate():
            return voter.on_set_update(state, asker, request)
        case m.Settle():
            return voter.on_settle(state, asker, request)
    raise TypeError(f"no voter answers {request!r}")


def stored(node: Node, step: VoterStep[Any], patch: Patch) -> tuple[Node, tuple[Broken, ...]]:
    """The node once the step's promise is on disk."""
    disk = node.disk
    notes: tuple[Broken, ...] = ()
    if step.durable is not None:
        before = node.voter.promises.get(GROUP)
        if before is not None:
            notes = _never_back(node.name, before, step.durable)
        if not patch.promise_not_durable:
            disk = step.durable
    return replace(node, voter=step.state, disk=disk), notes


def _never_back(name: str, before: Promise, after: Promise) -> tuple[Broken, ...]:
    if after.epoch < before.epoch:
        return (Broken(f"I5: the epoch that {name} has promised falls from {before.epoch} to {after.epoch}"),)
    if after.epoch == before.epoch and after.site != before.site:
        return (Broken(f"I5: {name} grants epoch {after.epoch} to {before.site} and to {after.site}"),)
    if after.stored_set.version < before.stored_set.version:
        return (Broken(f"the set at {name} falls back to {after.stored_set.describe()}"),)
    if after.voters.current.version < before.voters.current.version:
        return (Broken(f"the list in force at {name} falls back to {after.voters.describe()}"),)
    return ()


def restarted(node: Node, disk: Promise | None, clocks: Clocks, patch: Patch) -> Node:
    """A new incarnation: it knows what is on the disk, and the kernel has kept the gate as it was."""
    promises = MappingProxyType({} if disk is None else {GROUP: disk})
    started = clocks.long_ago if patch.no_restart_silence else NOW
    state = VoterState(node.name, started, clocks.voter_drift_ppm, promises=promises)
    part = None if node.part is None else Participation()
    data = replace(node.data, follower_has=False, at_join=False)
    return replace(node, voter=state, disk=disk, part=part, data=data)


def _with_promise(step: VoterStep[Any], promise: Promise) -> VoterStep[Any]:
    promises = MappingProxyType({**step.state.promises, GROUP: promise})
    return replace(step, durable=promise, state=replace(step.state, promises=promises))

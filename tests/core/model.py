"""A small deterministic model of a group: three voters, two sites, a bad network, real `graf.core` functions.

One seed gives one run. Real time is counted in milliseconds; the clock of each node runs at its own rate within
the drift, in exact nanoseconds. After every step the invariants of the design are checked.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from graf.api.timing import MILLISECOND_NS, Timing
from graf.api.values import Electorate, SetVersion, SyncSet, VoterList
from graf.core import messages as m
from graf.core import voter
from graf.core.campaign import Contest, Outcome
from graf.core.lease import Lease
from graf.core.syncset import HolderSet
from graf.core.voter import CAMPAIGN_RULES, CampaignRule, Promise, VoterState

GROUP = "vcu-db"
SITES = ("east", "west")
NODES = ("east", "west", "witness")
DRIFT_PPM = 100_000  # large on purpose: a hold time that forgets it must show
TIMING = Timing(100 * MILLISECOND_NS, 700 * MILLISECOND_NS, DRIFT_PPM)
VOTERS = Electorate(VoterList(1, NODES))


class InvariantError(AssertionError):
    """An invariant of the design does not hold; the text begins with its id."""


@dataclass(frozen=True)
class Bugs:
    """What is planted into a run; the default is the code as it is."""

    rules: tuple[CampaignRule, ...] = CAMPAIGN_RULES
    voters: Electorate = VOTERS
    voter_drift_ppm: int = DRIFT_PPM
    lease_from_receive_time: bool = False
    no_restart_silence: bool = False
    promise_not_durable: bool = False
    shrunk_before_stored: bool = False
    grown_before_caught_up: bool = False
    told_before_required: bool = False
    set_reset_by_grant: bool = False
    doubtful_forgotten: bool = False
    contends_in_own_silence: bool = False
    epoch_asked_twice: bool = False
    adopted_without_doubt: bool = False
    visible_majority: bool = False
    own_vote_first: bool = False
    gate_open_after_release: bool = False


@dataclass
class Node:
    """A voter; at a site also the controller and the data. What a crash does not take is marked durable."""

    name: str
    rate_ppm: int
    voter: VoterState
    disk: dict[str, Promise] = field(default_factory=dict)  # durable
    data: frozenset[int] = frozenset()  # durable
    data_epoch: int = 0  # durable
    gate_end_ns: int = 0  # durable: the kernel keeps it open until then
    up: bool = True
    paused: bool = False
    cut_off: bool = False
    contest: Contest | None = None
    lease: Lease | None = None
    held: HolderSet | None = None
    follower_has: dict[str, frozenset[int]] = field(default_factory=dict)
    at_join: frozenset[int] = frozenset()
    highest_promised: int = 0

    @property
    def runs(self) -> bool:
        return self.up and not self.paused


@dataclass(frozen=True)
class Message:
    src: str
    dst: str
    body: Any
    sent_ns: int  # the asker's clock when the request left; an answer carries the request's


@dataclass(frozen=True)
class Copy:
    """The holder's data on the way to a follower, or what a follower says it has."""

    epoch: int
    data: frozenset[int]
    answer: bool = False


class Model:
    """One run; `step` does one thing and checks the invariants."""

    def __init__(self, seed: int, bugs: Bugs | None = None) -> None:
        self.random = random.Random(seed)
        self.bugs = bugs or Bugs()
        self.now_ms = 10_000
        self.bag: list[Message] = []
        self.acknowledged: frozenset[int] = frozenset()
        self.writes = 0
        self.wins: list[tuple[int, str]] = []
        self.may_lose_disk = seed % 4 == 0
        self.nodes = {
            name: Node(name, self.random.choice((1_000_000, 1_000_000 + DRIFT_PPM)), VoterState(name, 0, 0))
            for name in NODES
        }
        for node in self.nodes.values():
            self._start(node)
        self._bootstrap()
        self.actions: tuple[tuple[int, Callable[[], None]], ...] = (
            (20, self._pass_time),
            (45, self._deliver),
            (8, self._heartbeat),
            (8, self._write),
            (8, self._replicate),
            (6, self._change_set),
            (5, self._contend),
            (2, self._contest_times_out),
            (1, self._release),
            (1, self._crash_or_restart),
            (1, self._pause_or_resume),
            (1, self._cut_or_heal),
        )
        self._weights = [weight for weight, _ in self.actions]

    # -- time and disk

    def clock(self, node: Node) -> int:
        return self.now_ms * node.rate_ppm  # ms * ppm is exactly nanoseconds

    def _start(self, node: Node) -> None:
        started = 0 if self.bugs.no_restart_silence else self.clock(node)
        node.voter = VoterState(
            node.name, started, self.bugs.voter_drift_ppm, promises=MappingProxyType(dict(node.disk))
        )

    def _bootstrap(self) -> None:
        east = self.nodes["east"]
        known = SyncSet(SetVersion(1, 0), frozenset({"east"}))
        campaign = m.Campaign(GROUP, 1, TIMING.ttl_ns, self.bugs.voters, known, lossless=True)
        east.contest = Contest("east", campaign, TIMING, self.clock(east))
        for name in ("west", "witness"):  # the own voter is asked last, by the contest
            self._contest_answer(east, name, self._vote(self.nodes[name], "east", campaign))

    def _vote(self, node: Node, asker: str, request: Any) -> Any:
        """The voter's functions with its disk: durable before the answer."""
        before = node.voter.promises.get(GROUP)
        now_ns = self.clock(node)
        step: Any
        if isinstance(request, m.Campaign):
            step = voter.on_campaign(node.voter, asker, request, now_ns, self.bugs.rules)
            if step.answer.granted:
                self._check_grant(before, asker, request)
                if self.bugs.set_reset_by_grant:
                    reset = replace(step.durable, stored_set=replace(step.durable.stored_set, members=frozenset(SITES)))
                    promises = MappingProxyType({**step.state.promises, GROUP: reset})
                    step = replace(step, durable=reset, state=replace(step.state, promises=promises))
        elif isinstance(request, m.Claim):
            step = voter.on_claim(node.voter, asker, request, now_ns)
        elif isinstance(request, m.Release):
            step = voter.on_release(node.voter, asker, request)
        else:
            step = voter.on_set_update(node.voter, asker, request)
        first = GROUP not in node.disk
        if step.durable is not None and (first or not self.bugs.promise_not_durable):
            node.disk[GROUP] = step.durable
        node.voter = step.state
        return step.answer

    # -- invariants

    def _check_grant(self, before: Promise | None, site: str, campaign: m.Campaign) -> None:
        if before is None:
            return
        if campaign.epoch <= before.epoch:
            raise InvariantError(f"I5: epoch {campaign.epoch} granted after {before.epoch}")
        newest = max(before.stored_set, campaign.known_set, key=lambda s: s.version)
        if site not in newest.members:
            raise InvariantError(f"I11: {site} granted outside {newest.describe()}")

    def check(self) -> None:
        open_gates = [name for name in SITES if self.clock(self.nodes[name]) < self.nodes[name].gate_end_ns]
        if len(open_gates) > 1:
            raise InvariantError(f"I1: {open_gates} both hold a valid lease at {self.now_ms} ms, wins {self.wins}")
        for node in self.nodes.values():
            if node.held is not None and not node.held.current.members <= node.held.must_acknowledge:
                raise InvariantError(f"{node.name} acknowledges without a member of {node.held.current.describe()}")

    def _check_win(self, node: Node, contest: Contest) -> None:
        epoch = contest.campaign.epoch
        if any(epoch == won for won, _ in self.wins):
            raise InvariantError(f"I5: epoch {epoch} won twice, wins {self.wins}")
        if not self.acknowledged <= node.data:
            lost = sorted(self.acknowledged - node.data)
            raise InvariantError(f"I2: {node.name} won epoch {epoch} without acknowledged writes {lost}")

    # -- the run

    def step(self) -> None:
        action = self.random.choices(self.actions, self._weights)[0][1]
        action()
        self.check()

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    def _site(self) -> Node:
        return self.nodes[self.random.choice(SITES)]

    def _holder(self) -> Node | None:
        node = self._site()
        if not node.runs or node.lease is None:
            return None
        if node.lease.valid(self.clock(node)):
            return node
        node.lease = node.held = None
        return None

    def _send(self, src: Node, dst: str, body: Any, sent_ns: int | None = None) -> None:
        self.bag.append(Message(src.name, dst, body, self.clock(src) if sent_ns is None else sent_ns))

    def _pass_time(self) -> None:
        self.now_ms += self.random.choice((1, 5, 5, 20, 20, 60, 200))

    def _deliver(self) -> None:
        if not self.bag:
            return
        # Mostly young messages, sometimes very old ones; some come twice, some never.
        index = self.random.randrange(len(self.bag)) if self.random.random() < 0.4 else len(self.bag) - 1
        message = self.bag[index]
        if self.random.random() >= 0.05:
            del self.bag[index]
        node, src = self.nodes[message.dst], self.nodes[message.src]
        if self.random.random() < 0.03 or not node.up or node.cut_off or src.cut_off:
            return
        if node.paused:
            self.bag.append(message)
            return
        self._receive(node, message)

    def _receive(self, node: Node, message: Message) -> None:
        body, src = message.body, message.src
        if isinstance(body, m.Campaign | m.Claim | m.Release | m.SetUpdate):
            self._send(node, src, self._vote(node, src, body), message.sent_ns)
        elif isinstance(body, m.CampaignAnswer):
            self._contest_answer(node, src, body)
        elif isinstance(body, m.ClaimAnswer):
            if body.accepted and node.lease is not None and body.epoch == node.lease.epoch:
                sent = self.clock(node) if self.bugs.lease_from_receive_time else message.sent_ns
                self._renewed(node, node.lease.accepted(src, sent))
        elif isinstance(body, m.SetAnswer):
            if node.held is not None and body.epoch == node.held.epoch:
                node.held = node.held.answered(src, body)
        elif isinstance(body, Copy) and body.answer:
            if node.held is not None and body.epoch == node.held.epoch:
                node.follower_has[src] = node.follower_has.get(src, frozenset()) | body.data
                self._acknowledge(node)
        elif isinstance(body, Copy) and body.epoch >= node.data_epoch and node.lease is None:
            # A newer active site's data replace what this one has; its own leftovers are archived.
            node.data = body.data if body.epoch > node.data_epoch else node.data | body.data
            node.data_epoch = body.epoch
            self._send(node, src, Copy(body.epoch, node.data, answer=True))

    # -- contests

    def _contend(self) -> None:
        node = self._site()
        if not node.runs or node.lease is not None or node.contest is not None:
            return
        promise = node.voter.promises.get(GROUP)
        if promise is None:
            return
        # The contender's rule own-voter-is-silent: what an earlier life of this site held has ended by then.
        if self.clock(node) < node.voter.silent_until_ns(GROUP) and not self.bugs.contends_in_own_silence:
            return
        epoch = max(promise.epoch, node.highest_promised) + 1
        if not self.bugs.epoch_asked_twice:
            node.highest_promised = epoch
        campaign = m.Campaign(GROUP, epoch, TIMING.ttl_ns, self.bugs.voters, promise.stored_set, lossless=True)
        node.contest = Contest(node.name, campaign, TIMING, self.clock(node))
        for other in NODES:
            if other != node.name:
                self._send(node, other, campaign)
        if self.bugs.own_vote_first:
            self._contest_answer(node, node.name, self._vote(node, node.name, campaign))

    def _contest_answer(self, node: Node, src: str, answer: m.CampaignAnswer) -> None:
        node.highest_promised = max(node.highest_promised, answer.promised_epoch)
        if node.contest is None:
            return
        node.contest = contest = node.contest.answered(src, answer)
        if contest.own_vote_due and contest.outcome is Outcome.OPEN:
            own = self._vote(node, node.name, contest.campaign)
            node.contest = contest = contest.answered(node.name, own)
        won = contest.outcome is Outcome.WON
        if self.bugs.visible_majority:
            visible = sum(1 for n in self.nodes.values() if n.up and (n is node or not (n.cut_off or node.cut_off)))
            own = self._vote(node, node.name, contest.campaign) if node.name not in contest.answers else None
            contest = contest.answered(node.name, own) if own is not None else contest
            won = won or len(contest.grants) >= visible // 2 + 1
        if won:
            self._won(node, contest)
        elif contest.outcome is Outcome.LOST:
            self._lost(node)

    def _won(self, node: Node, contest: Contest) -> None:
        node.contest = None
        lease = contest.lease()
        if not lease.valid(self.clock(node)):
            return  # the answers came too late: the epoch is used up, the site asks for the next one
        self._check_win(node, contest)
        self.wins.append((contest.campaign.epoch, node.name))
        node.data_epoch = contest.campaign.epoch
        node.follower_has = {}
        sites = frozenset() if self.bugs.adopted_without_doubt else frozenset(SITES)
        node.held = HolderSet.adopted(contest.campaign.epoch, contest.campaign.voters, contest.newest_set, sites)
        self._renewed(node, lease)

    def _renewed(self, node: Node, lease: Lease) -> None:
        node.lease = lease
        node.gate_end_ns = lease.end_ns

    def _lost(self, node: Node) -> None:
        contest, node.contest = node.contest, None
        if contest is None:
            return
        promise = node.voter.promises.get(GROUP)
        others = [name for name in contest.grants if name != node.name]
        own_promise = promise is not None and (promise.epoch, promise.site) == (contest.campaign.epoch, node.name)
        if not others and own_promise:
            raise InvariantError(f"own vote first: {node.name} promised itself {contest.campaign.epoch} alone")
        self._give_back(node, contest.campaign.epoch)

    def _contest_times_out(self) -> None:
        node = self._site()
        if node.runs and node.contest is not None:
            self._lost(node)

    def _give_back(self, node: Node, epoch: int) -> None:
        release = m.Release(GROUP, epoch)
        for name in NODES:
            if name == node.name:
                self._vote(node, node.name, release)
            else:
                self._send(node, name, release)

    # -- the holder

    def _heartbeat(self) -> None:
        node = self._holder()
        if node is None or node.lease is None:
            return
        claim = m.Claim(GROUP, node.lease.epoch, VOTERS.newest.version)
        if self._vote(node, node.name, claim).accepted:
            self._renewed(node, node.lease.accepted(node.name, self.clock(node)))
        for name in NODES:
            if name != node.name:
                self._send(node, name, claim)

    def _release(self) -> None:
        node = self._holder()
        if node is None or node.lease is None or self.random.random() < 0.5:
            return
        epoch = node.lease.epoch
        node.lease = node.held = None
        if not self.bugs.gate_open_after_release:
            node.gate_end_ns = 0
        self._give_back(node, epoch)

    def _write(self) -> None:
        node = self._holder()
        if node is not None:
            self.writes += 1
            node.data |= {self.writes}
            self._acknowledge(node)

    def _acknowledge(self, node: Node) -> None:
        if node.held is None or node.lease is None or not node.lease.valid(self.clock(node)):
            return
        everywhere = node.data
        for site in node.held.must_acknowledge - {node.name}:
            everywhere &= node.follower_has.get(site, frozenset())
        self.acknowledged |= everywhere

    def _replicate(self) -> None:
        node = self._holder()
        if node is not None:
            other = "west" if node.name == "east" else "east"
            self._send(node, other, Copy(node.data_epoch, node.data))

    def _change_set(self) -> None:
        node = self._holder()
        if node is None or node.held is None:
            return
        held, own = node.held, frozenset({node.name})
        other = "west" if node.name == "east" else "east"
        dice = self.random.random()
        if held.counter == 0:
            self._propose(node, own)
        elif held.proposed is not None and dice < 0.7:
            self._tell(node)
        elif other in held.must_acknowledge and dice > 0.9:
            node.held = held.stop_joining()
            self._propose(node, own)
        elif (
            self.bugs.told_before_required
            and not held.joining
            and node.data <= node.follower_has.get(other, frozenset())
        ):
            self._tell_only(node, own | {other})
        elif other not in held.current.members and not held.joining:
            node.held, node.at_join = held.join(other), node.data
        elif held.joining and (
            self.bugs.grown_before_caught_up or node.at_join <= node.follower_has.get(other, frozenset())
        ):
            self._propose(node, own | {other})

    def _tell_only(self, node: Node, members: frozenset[str]) -> None:
        """Planted: voters are told a larger set that the holder does not acknowledge with."""
        assert node.held is not None
        before = node.held
        self._propose(node, members)
        node.held = replace(before, counter=before.counter + 1)

    def _propose(self, node: Node, members: frozenset[str]) -> None:
        assert node.held is not None
        node.held = node.held.propose(members)
        if self.bugs.doubtful_forgotten:
            node.held = replace(node.held, doubtful=frozenset())
        self._tell(node)
        if self.bugs.shrunk_before_stored and node.held is not None and node.held.proposed is not None:
            node.held = replace(node.held, current=node.held.proposed, proposed=None, doubtful=frozenset())
            self._acknowledge(node)

    def _tell(self, node: Node) -> None:
        if node.held is None or node.held.proposed is None:
            return
        update = m.SetUpdate(GROUP, node.held.epoch, node.held.proposed)
        node.held = node.held.answered(node.name, self._vote(node, node.name, update))
        for name in NODES:
            if name != node.name:
                self._send(node, name, update)

    # -- faults

    def _crash_or_restart(self) -> None:
        node = self.nodes[self.random.choice(NODES)]
        if node.up:
            node.up = node.paused = False
            node.contest, node.lease, node.held = None, None, None
            node.highest_promised = 0
            # Streams end with their process: what it had sent and not been read is gone.
            self.bag = [message for message in self.bag if node.name not in (message.src, message.dst)]
            if self.may_lose_disk and node.name == "witness" and self.random.random() < 0.3:
                node.disk.clear()
        if not node.up and self.random.random() < 0.9:
            node.up = True
            self._start(node)

    def _pause_or_resume(self) -> None:
        paused = [n for n in self.nodes.values() if n.paused]
        if paused:
            paused[0].paused = False
        elif self.random.random() < 0.3:
            node = self._site()
            node.paused = node.up

    def _cut_or_heal(self) -> None:
        cut = [n for n in self.nodes.values() if n.cut_off]
        if cut:
            cut[0].cut_off = False
        else:
            self.nodes[self.random.choice(NODES)].cut_off = True


def first_violation(bugs: Bugs, seeds: range, steps: int) -> tuple[int, str] | None:
    """The first seed whose run breaks an invariant, and what it says; None when all are green."""
    for seed in seeds:
        try:
            Model(seed, bugs).run(steps)
        except InvariantError as error:
            return seed, str(error)
    return None

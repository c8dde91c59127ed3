"""Mode ``dns``: the name's records point to the active site's own service address, which the gate guards.

Nothing is taken away when a site stands down: the next holder's update replaces the records, so the name always has an
answer (make before break). Who still has the old answer reaches a shut gate until its time to live is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

from graf_driver_network.announcer import Announcer, Held, Outcome, Seen
from graf_driver_network.dns_zone import Answer, DnsError, Holder, LostRaceError, ZoneClient
from graf_driver_network.observed import Observed
from graf_driver_network.parameters import Parameters
from graf_driver_network.parameters_dns import Dns, Server

_RETRY_MS: Final = 200


class DnsAnnouncer(Announcer):
    """Invariant: the name is written only over a lower epoch, or over this site's own; the server checks it."""

    wait_s: ClassVar[float] = 0.1

    def __init__(self, on_change: Callable[[], None], on_secret: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._on_secret = on_secret
        self._observed: dict[str, Observed] = {}

    def conflicts(self, parameters: Parameters, others: Sequence[Parameters]) -> list[str]:
        """A name belongs to one component."""
        mine = _dns(parameters).name
        return [f"{mine} is the name of another component of this site" for o in others if _dns(o).name == mine]

    async def announce(self, held: Held) -> Outcome:
        """Completed when a primary server has taken the update and shows it."""
        parameters, epoch = _dns(held.parameters), held.announced_epoch
        if epoch is None:
            return Outcome(False, "the gate has shut meanwhile", 50)
        client = ZoneClient(parameters, self._on_secret)
        mine = Holder(_component(held), epoch, held.key.site)
        problems: list[str] = []
        for server in parameters.servers:
            try:
                said = await self._write(client, server, mine)
            except LostRaceError as error:
                return Outcome(False, f"the gate is open, the name is not written: {error}", 50)
            except DnsError as error:
                problems.append(str(error))
                continue
            self._observe(held).forget()
            return said
        return Outcome(False, f"the gate is open, the name is not written: {'; '.join(problems)}", _RETRY_MS)

    async def withdraw(self, held: Held, why: str) -> Outcome:
        """Nothing is written: the next holder replaces the records."""
        self._observe(held).forget()
        return Outcome(True, f"{_dns(held.parameters).name} stays until the next holder writes it")

    async def observe(self, held: Held) -> Seen:
        """What the servers say, at most about a second old."""
        return await self._observe(held).get()

    async def close(self) -> None:
        """Ends what is being asked; the records stay."""
        for observed in self._observed.values():
            await observed.close()

    async def _write(self, client: ZoneClient, server: Server, mine: Holder) -> Outcome:
        before = await client.read(server)
        holder = before.holder
        if holder is not None and holder.component != mine.component:
            return Outcome(False, f"the gate is open, but the name belongs to {holder.component}", 1000)
        if holder is not None and (holder.epoch, holder.site != mine.site) > (mine.epoch, False):
            said = f"the name is held by {holder.site} for epoch {holder.epoch}, which is not older than {mine.epoch}"
            return Outcome(False, f"the gate is open, but {said}: it is not overwritten", 1000)
        wanted = client.wanted()
        if holder != mine or before.records != wanted:
            await client.replace(server, holder, mine)
            after = await client.read(server)
            if after.holder != mine or after.records != wanted:
                return Outcome(False, f"{server} took the update and does not show it yet", _RETRY_MS)
        return Outcome(True, f"written at {server} for epoch {mine.epoch}")

    def _observe(self, held: Held) -> Observed:
        """Made anew with changed parameters: the key of the dictionary has them."""
        name = f"{held.key} {held.parameters}"
        if name not in self._observed:
            self._observed[name] = Observed(lambda: self._look(held), self._on_change)
        return self._observed[name]

    async def _look(self, held: Held) -> Seen:
        parameters = _dns(held.parameters)
        client = ZoneClient(parameters, self._on_secret)
        servers = tuple(dict.fromkeys((*parameters.servers, *parameters.read_back)))
        answers = await asyncio.gather(*(_try(client, server) for server in servers))
        try:
            wanted = client.wanted()
        except DnsError as error:
            return Seen(False, str(error))
        facts = {
            "dns_name": parameters.name,
            "dns_ttl_ms": str(parameters.ttl_s * 1000),
        }
        # What resolvers keep is what the present holder has written, not what this site would write.
        lingers_ms = 1000 * max((answer.ttl_s for answer in answers if isinstance(answer, Answer)), default=0)
        seen: dict[Server, bool] = {}
        problems: list[str] = []
        for server, answer in zip(servers, answers, strict=True):
            if isinstance(answer, str):
                problems.append(answer)
                facts[f"dns_server_{server}"] = "no answer"
                continue
            holder = answer.holder
            ours = holder is not None and (holder.component, holder.site) == (_component(held), held.key.site)
            seen[server] = ours and answer.records == wanted
            whose = "nobody" if holder is None else f"{holder.site} epoch {holder.epoch}"
            facts[f"dns_server_{server}"] = whose if not ours or seen[server] else f"{whose}, with other records"
            if holder is not None:
                facts["dns_epoch"] = str(max(holder.epoch, int(facts.get("dns_epoch", "0"))))
        if not seen:
            return Seen(False, f"no DNS server answers: {'; '.join(problems)}", "not known", facts)
        announced = any(seen.get(server, False) for server in parameters.servers)
        told = sum(seen.values())
        detail = f"{parameters.name} points here at {told} of {len(servers)} servers"
        if not announced:
            detail = f"{parameters.name} does not point here"
        elif problems:
            detail += f" ({'; '.join(problems)})"
        return Seen(announced, detail=detail, facts=facts, lingers_ms=lingers_ms)


async def _try(client: ZoneClient, server: Server) -> Answer | str:
    try:
        return await client.read(server)
    except DnsError as error:
        return str(error)


def _dns(parameters: Parameters) -> Dns:
    assert isinstance(parameters.announcement, Dns)
    return parameters.announcement


def _component(held: Held) -> str:
    return f"{held.key.group}/{held.key.component}"

"""The zone: dynamic updates (RFC 2136) signed with TSIG (RFC 8945), and what its servers say. By dnspython.

Beside the records a TXT record keeps the epoch and its holder. Every update has it as its prerequisite, exactly as it
was read: the server itself refuses an update that was made from an older state, so of two sites that write at once one
is refused, and a lower epoch never replaces a higher one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.update

from graf_driver_network.parameters_dns import Dns, Record, Server

_HOLDER: Final = re.compile(r'"?graf component=(\S+) epoch=(\d+) site=(\S+?)"?')
_LOST: Final = (dns.rcode.YXRRSET, dns.rcode.NXRRSET, dns.rcode.YXDOMAIN, dns.rcode.NXDOMAIN)


class DnsError(Exception):
    """A server does not answer, refuses, or its answer cannot be trusted; the message says which and what to do."""


class LostRaceError(DnsError):
    """The name has changed since it was read: read it again."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the name, as the zone says."""

    component: str
    epoch: int
    site: str

    @property
    def text(self) -> str:
        """The TXT record's data."""
        return f'"graf component={self.component} epoch={self.epoch} site={self.site}"'


@dataclass(frozen=True, slots=True)
class Answer:
    """What one server has now: who holds the name, and its records with their greatest time to live."""

    holder: Holder | None
    records: frozenset[Record]
    ttl_s: int


class ZoneClient:
    """Talks to the servers of one component's zone. Every call has a time-out; the key is read anew each time."""

    def __init__(self, parameters: Dns, on_secret: Callable[[str], None]) -> None:
        """``on_secret`` is told each secret that was read, so that no log line has it."""
        self._dns = parameters
        self._on_secret = on_secret

    async def read(self, server: Server) -> Answer:
        """Asks one authoritative server.

        Raises:
            DnsError: it does not answer, or is not authoritative.
        """
        texts, _ = await self._rrset(server, self._dns.epoch_name, "TXT")
        if len(texts) > 1:
            raise DnsError(f"{self._dns.epoch_name} has {len(texts)} TXT records at {server}: keep the true one")
        holder = None
        for text in texts:
            match = _HOLDER.fullmatch(text)
            if match is None:
                raise DnsError(f"{self._dns.epoch_name} at {server} has a TXT record that is not ours: {text}")
            holder = Holder(match[1], int(match[2]), match[3])
        found: set[Record] = set()
        ttl = 0
        for name, kind in sorted(_sets(self._dns)):
            values, ttl_s = await self._rrset(server, name, kind)
            ttl = max(ttl, ttl_s)
            found |= {Record(name, kind, value) for value in values}
        return Answer(holder, frozenset(found), ttl)

    async def replace(self, server: Server, before: Holder | None, after: Holder) -> None:
        """Writes this site's records and ``after`` in one update, if the name is still held by ``before``.

        Raises:
            LostRaceError: it is not.
            DnsError: the update was refused, or there was no answer; it may have been carried out.
        """
        dns_, key = self._dns, self._key()
        zone = dns.name.from_text(dns_.zone)
        update = dns.update.UpdateMessage(zone, keyring=key)
        epoch_name = dns.name.from_text(dns_.epoch_name)
        if before is None:
            update.absent(epoch_name, "TXT")
        else:
            update.present(epoch_name, "TXT", before.text)
        try:
            for name, kind in sorted(_sets(dns_)):
                update.delete(dns.name.from_text(name), kind)
            for record in dns_.records:
                update.add(dns.name.from_text(record.name), dns_.ttl_s, record.kind, record.data)
            update.replace(epoch_name, dns_.ttl_s, "TXT", after.text)
        except (dns.exception.DNSException, ValueError) as error:
            raise DnsError(f"a record cannot be written: {_words(error)}; see dns.records") from error
        answer = await self._ask(update, server)
        code = answer.rcode()
        if code in _LOST:
            raise LostRaceError(f"{dns_.name} has changed at {server} meanwhile ({dns.rcode.to_text(code)})")
        if code != dns.rcode.NOERROR:
            raise DnsError(
                f"{server} refuses the update with {dns.rcode.to_text(code)}: may the key {dns_.tsig.name} update "
                f"{dns_.zone} there, and is it the primary server?"
            )

    def wanted(self) -> frozenset[Record]:
        """This site's records, written as a server writes them.

        Raises:
            DnsError: a record's data is wrong for its type.
        """
        return frozenset(Record(r.name, r.kind, _normal(r.kind, r.data)) for r in self._dns.records)

    async def _rrset(self, server: Server, name: str, kind: str) -> tuple[list[str], int]:
        query = dns.message.make_query(name, kind)
        query.flags &= ~dns.flags.RD
        query.use_tsig(self._key())
        answer = await self._ask(query, server)
        code = answer.rcode()
        if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise DnsError(f"{server} answers {dns.rcode.to_text(code)} about {name}: may the key read the zone there?")
        if not answer.flags & dns.flags.AA:
            raise DnsError(f"{server} is not authoritative for {name}: name the zone's own servers")
        wanted, kind_number = dns.name.from_text(name), dns.rdatatype.from_text(kind)
        for found in answer.answer:
            if found.name == wanted and found.rdtype == kind_number:
                return sorted(item.to_text() for item in found), found.ttl
        return [], 0

    async def _ask(self, message: dns.message.Message, server: Server) -> dns.message.Message:
        try:
            return await dns.asyncquery.tcp(
                message, str(server.address), timeout=self._dns.timeout_ms / 1000, port=server.port
            )
        except dns.exception.Timeout as error:
            raise DnsError(f"{server} gave no answer within {self._dns.timeout_ms} ms") from error
        except dns.tsig.PeerError as error:
            raise DnsError(
                f"{server} does not accept the key {self._dns.tsig.name} ({_words(error)}): is its secret the same "
                "there, and are both clocks right?"
            ) from error
        except (dns.exception.DNSException, ValueError) as error:
            raise DnsError(f"{server} answered what cannot be trusted or read: {_words(error)}") from error
        except (OSError, EOFError) as error:
            raise DnsError(f"{server} cannot be reached: {_words(error)}") from error

    def _key(self) -> dns.tsig.Key:
        """The key of now: a rotated Secret is used from the next message on."""
        tsig = self._dns.tsig
        try:
            secret = Path(tsig.secret_file).read_text(encoding="ascii").strip()
            self._on_secret(secret)
            return dns.tsig.Key(tsig.name, secret, tsig.algorithm)
        except OSError as error:
            raise DnsError(
                f"the key's secret {tsig.secret_file} cannot be read: {error.strerror}; is the Secret mounted?"
            ) from error
        except (ValueError, UnicodeError) as error:
            raise DnsError(f"the key's secret {tsig.secret_file} is not base64") from error


def _sets(parameters: Dns) -> set[tuple[str, str]]:
    """The record sets that belong to the name: those of the other family too, which another site may have written."""
    return {(r.name, r.kind) for r in parameters.records} | {(parameters.name, "A"), (parameters.name, "AAAA")}


def _normal(kind: str, data: str) -> str:
    try:
        return dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(kind), data).to_text()
    except (dns.exception.DNSException, ValueError) as error:
        raise DnsError(f"{data!r} is no data of a {kind} record: {_words(error)}; see dns.records") from error


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__

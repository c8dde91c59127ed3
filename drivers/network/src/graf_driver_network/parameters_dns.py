"""Parameters of mode ``dns``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
from graf_driver_sdk.types import FieldProblem

from graf_driver_network.fields import Address, Reader

KINDS: Final = ("A", "AAAA", "SRV", "NAPTR")
ALGORITHMS: Final = ("hmac-sha256", "hmac-sha384", "hmac-sha512")
_KNOWN: Final = frozenset({"zone", "name", "servers", "readBack", "ttlSeconds", "records", "tsig", "timeoutMs"})
_PATH: Final = re.compile(r"/[^\0]{1,4000}")
_SERVER: Final = re.compile(
    r"(?P<four>[^:\[\]]+)(:(?P<port>\d{1,5}))?|\[(?P<six>[^\[\]]+)\](:(?P<port6>\d{1,5}))?|(?P<plain>[^\[\]]+)"
)
_DATA: Final = re.compile(r"[ -~]{1,255}")
_EXAMPLE: Final = "e.g. {zone: example.org, name: db.example.org, servers: [198.18.0.40], ttlSeconds: 5, tsig: ...}"
_RECORD: Final = "e.g. {name: _db._tcp.example.org, type: SRV, data: 10 10 3306 db.example.org.}"


@dataclass(frozen=True, slots=True)
class Server:
    """An authoritative server."""

    address: Address
    port: int = 53

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the site; its data is in the zone file's notation."""

    name: str
    kind: str
    data: str


@dataclass(frozen=True, slots=True)
class Tsig:
    """The key that signs updates (RFC 8945). The secret itself stays in its file."""

    name: str
    algorithm: str
    secret_file: str


@dataclass(frozen=True, slots=True)
class Dns:
    """What is written into which zone. ``name`` also carries the epoch, in a TXT record beside it."""

    zone: str
    name: str
    servers: tuple[Server, ...]
    read_back: tuple[Server, ...]
    tsig: Tsig
    records: tuple[Record, ...]
    ttl_s: int = 5
    timeout_ms: int = 2000

    @property
    def epoch_name(self) -> str:
        """Where the epoch is kept: the records of one name change together with it."""
        return f"_graf-epoch.{self.name}"


def read_dns(raw: object, service: Address | None, reader: Reader) -> Dns | None:
    """Reads what belongs to this mode; None when there is a problem."""
    before = len(reader.problems)
    fields = reader.mapping(raw, "dns", _KNOWN, _EXAMPLE)
    if len(reader.problems) > before and not fields:
        return None
    zone = reader.domain(fields.get("zone"), "dns.zone", "the zone that is updated, e.g. example.org")
    name = reader.domain(fields.get("name"), "dns.name", "the name that users ask for, e.g. db.example.org")
    _inside(name, zone, "dns.name", reader)
    servers = _servers(fields.get("servers", []), "dns.servers", reader)
    if not servers:
        reader.problem("dns.servers", "is missing or empty", "the server that takes updates, e.g. [198.18.0.40]")
    read_back = _servers(fields.get("readBack", []), "dns.readBack", reader)
    ttl = reader.number(fields.get("ttlSeconds"), "dns.ttlSeconds", 0, 86_400, "seconds, e.g. 5", 5)
    timeout = reader.number(fields.get("timeoutMs"), "dns.timeoutMs", 100, 10_000, "milliseconds, e.g. 2000", 2000)
    records = _records(fields.get("records", []), zone, reader)
    if service is not None and name:
        own = Record(name, "A" if isinstance(service, IPv4Address) else "AAAA", str(service))
        records = tuple(sorted({own, *records}, key=lambda known: (known.name, known.kind, known.data)))
    tsig = _tsig(fields.get("tsig"), reader)
    if len(reader.problems) > before:
        return None
    return Dns(zone, name, servers, read_back, tsig, records, ttl, timeout)


def _inside(name: str, zone: str, field: str, reader: Reader) -> None:
    if name and zone and name != zone and not name.endswith(f".{zone}"):
        reader.problem(field, f"{name} is not in {zone}", "a name inside of the zone")


def _servers(value: object, field: str, reader: Reader) -> tuple[Server, ...]:
    fix = "a list of addresses, with a port where it is not 53: [198.18.0.40, 198.18.0.41:5353, '[2001:db8::1]:5353']"
    found: list[Server] = []
    for index, entry in enumerate(reader.sequence(value, field, fix)):
        where = f"{field}[{index}]"
        match = _SERVER.fullmatch(entry) if isinstance(entry, str) else None
        if match is None:
            reader.problem(where, f"{entry!r} is no address", fix)
            continue
        address = reader.address(match["six"] or match["plain"] or match["four"], where, fix)
        port = reader.number(int(match["port"] or match["port6"] or 53), where, 1, 65535, fix)
        if address is not None:
            found.append(Server(address, port))
    return tuple(dict.fromkeys(found))


def _records(value: object, zone: str, reader: Reader) -> tuple[Record, ...]:
    fix = _RECORD
    found: list[Record] = []
    for index, entry in enumerate(reader.sequence(value, "dns.records", f"a list, {fix}")):
        where = f"dns.records[{index}]"
        raw = reader.mapping(entry, where, frozenset({"name", "type", "data"}), fix)
        if not raw:
            continue
        name = reader.domain(raw.get("name"), f"{where}.name", fix)
        _inside(name, zone, f"{where}.name", reader)
        kind = raw.get("type")
        if kind not in KINDS:
            reader.problem(f"{where}.type", f"{kind!r} is not written by this driver", f"one of {', '.join(KINDS)}")
        found.append(Record(name, str(kind), reader.text(raw.get("data"), f"{where}.data", _DATA, fix)))
    return tuple(found)


def data_problems(raw: Mapping[str, object]) -> list[FieldProblem]:
    """Data of records that no server takes. Of parameters that can be read, and for Validate: no role depends on it.

    A group whose records were never written must all the same be renewed and fenced.
    """
    found: list[FieldProblem] = []
    fields = raw.get("dns")
    records = fields.get("records", []) if isinstance(fields, Mapping) else []
    for index, entry in enumerate(records):
        if cause := _unusable(str(entry["type"]), str(entry["data"])):
            found.append(FieldProblem(f"dns.records[{index}].data", cause, _RECORD))
    return found


def _unusable(kind: str, data: str) -> str:
    """Why no server could be given this; "" when one could."""
    try:
        found = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.from_text(kind), data)
    except (dns.exception.DNSException, ValueError) as error:
        return f"{data!r} is no data of a record of type {kind}: {str(error) or type(error).__name__}"
    for name in (getattr(found, "target", None), getattr(found, "replacement", None)):
        if isinstance(name, dns.name.Name) and not name.is_absolute():
            return f"{name} has no dot at its end, so the server would put the zone's name after it"
    return ""


def _tsig(value: object, reader: Reader) -> Tsig:
    fix = "{name: graf-key, algorithm: hmac-sha256, secretFile: /etc/graf/tsig/secret}"
    raw = reader.mapping(value, "dns.tsig", frozenset({"name", "algorithm", "secretFile"}), fix)
    if not raw:
        return Tsig("", "", "")
    algorithm = raw.get("algorithm", "hmac-sha256")
    if algorithm not in ALGORITHMS:
        reader.problem("dns.tsig.algorithm", f"{algorithm!r} is not offered", f"one of {', '.join(ALGORITHMS)}")
    return Tsig(
        reader.domain(raw.get("name"), "dns.tsig.name", "the key's name at the server"),
        str(algorithm),
        reader.text(raw.get("secretFile"), "dns.tsig.secretFile", _PATH, "the mounted Secret's file, from the root"),
    )

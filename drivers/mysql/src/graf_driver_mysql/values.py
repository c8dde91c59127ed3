"""What was observed of a server, as values."""

from __future__ import annotations

from dataclasses import dataclass

from graf_driver_mysql.history import History
from graf_driver_mysql.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Replica:
    """The state of a server that follows another."""

    host: str
    port: int
    receiving: bool  # the receiver thread is connected
    receiver: str  # Yes, No, Connecting, Preparing
    applying: bool
    received: History  # complete transactions in the relay log
    lag_s: float  # negative when unknown
    receive_error: str
    receive_errno: int
    apply_error: str
    apply_errno: int = 0
    delay_s: int = 0  # it applies this much later on purpose
    tls: TlsFiles | None = None  # what the connection verifies and shows; None: not verified
    user: str = ""  # by which account it is let in


@dataclass(frozen=True, slots=True)
class Account:
    """How an account of the database is let in."""

    several: bool  # more than one password is accepted
    x509: bool  # a certificate of the group's authority is needed besides
    hashes: tuple[str, ...] = ()  # of each password, where the product shows them


@dataclass(frozen=True, slots=True)
class SemiSync:
    """The source's side of semi-synchronous replication."""

    on: bool
    clients: int
    waiting: int  # commits that wait for an acknowledgement
    acknowledged: int  # acknowledgements so far: it rises with each


@dataclass(frozen=True, slots=True)
class Observation:
    """One look at a living server."""

    read_only: bool
    logged: History  # what is in the binary log
    applied: History  # everything that this server has, its own and its sources'
    semi_sync_enabled: bool
    semi_sync: SemiSync
    replica: Replica | None
    followers: tuple[str, ...]  # sites registered as replicas
    acknowledgers: frozenset[int] = frozenset()  # servers that acknowledge by a permit, where permits are used

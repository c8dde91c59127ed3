"""From observation to the contract's status. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from graf_driver_sdk.types import Follower, Health, Role, Status

from graf_driver_mysql import unconfirmed
from graf_driver_mysql.accounts import Account
from graf_driver_mysql.backend import Mode
from graf_driver_mysql.engine import Engine
from graf_driver_mysql.observe import Observation
from graf_driver_mysql.rate import ApplyRate
from graf_driver_mysql.record import DataRole, Record
from graf_driver_mysql.scope import Scope
from graf_driver_mysql.unconfirmed import Freshness

ACTIVE_FRESH_S = 1.0  # an answer of the active that is older tells no lag any more


def down(mode: Mode, wanted: Role, record: Record, reason: str, message: str) -> Status:
    """A server that is proved not to run, or that is only starting (read-only)."""
    complete = record.role is DataRole.ACTIVE
    return Status(
        role=Role.INVALIDATED if wanted is Role.INVALIDATED else Role.FENCED,
        health=Health.INITIALISING if mode is Mode.STARTING else Health.DEAD,
        # The data of a dead active is whole: nothing is cut off before another site was seen to be active.
        promotable=complete,
        promotable_reason="" if complete else reason,
        message=message,
        facts={"data_role": record.role.value, "recorded_set": ",".join(record.synchronous_set)},
    )


def role(mode: Mode, wanted: Role, seen: Observation, held: bool) -> Role:
    """What the server is, by what it does."""
    if not seen.read_only or mode is Mode.QUIESCED:
        return Role.ACTIVE
    if seen.replica is not None and mode is Mode.STANDBY and not held:
        return Role.STANDBY
    return Role.INVALIDATED if wanted is Role.INVALIDATED else Role.FENCED


def promotable(mode: Mode, record: Record, caught_up: bool, reason: str, seen: Observation) -> tuple[bool, str]:
    """This site's own evidence; the second is why not."""
    if mode in (Mode.ACTIVE, Mode.QUIESCED):
        return True, ""
    if seen.replica is not None and not seen.replica.applying:
        return False, f"the applier stands still: {seen.replica.apply_error or 'stopped'}"
    if seen.replica is not None and seen.replica.delay_s:
        return False, delayed(seen.replica.delay_s)
    if record.role is DataRole.ACTIVE:
        return True, ""
    if record.role is DataRole.REBUILDING:
        return False, "its scope is being rebuilt and is not whole"
    if record.role is DataRole.NONE:
        return False, "empty: it never followed an active site"
    return caught_up, "" if caught_up else reason


def delayed(seconds: int) -> str:
    """Why a standby that applies late on purpose is refused."""
    return f"somebody set it to apply {seconds} s late on purpose: a promotion would wait for that"


def health(seen: Observation, trouble: str) -> tuple[Health, str]:
    """Of a server that answers."""
    replica = seen.replica
    if trouble:
        return Health.UNHEALTHY, trouble
    if replica is not None and replica.delay_s:
        return Health.UNHEALTHY, delayed(replica.delay_s)
    if replica is not None and not replica.applying:
        return Health.UNHEALTHY, f"the applier stands still: {replica.apply_error or 'stopped'}"
    if replica is not None and not replica.receiving and replica.receive_error:
        broken = replica.receiver == "No"
        return (Health.UNHEALTHY if broken else Health.HEALTHY), f"not receiving: {replica.receive_error}"
    return Health.HEALTHY, ""


def lag(seen: Observation) -> tuple[float, int]:
    """Seconds and transactions behind what was received; unknown while nothing is received."""
    replica = seen.replica
    if replica is None or not replica.receiving:
        return -1.0, -1
    return replica.lag_s, replica.received.transactions_beyond(seen.applied)


def accepting(mode: Mode, seen: Observation, in_force: tuple[str, ...]) -> bool:
    """Whether a client's write would be acknowledged now."""
    if mode is not Mode.ACTIVE or seen.read_only:
        return False
    return seen.semi_sync.clients >= len(in_force) - 1


def scope_facts(scope: Scope, locked: Mapping[Account, str]) -> dict[str, str]:
    """What is replicated, and whom the driver has locked out."""
    return {
        "scope": str(scope),
        "locked_accounts": "; ".join(f"{user}@{host}: {why}" for (user, host), why in sorted(locked.items())),
    }


def facts(engine: Engine, seen: Observation, record: Record, rate: ApplyRate) -> dict[str, str]:
    """More for people."""
    found = {
        engine.position_fact: str(seen.logged),
        "read_only": str(seen.read_only).lower(),
        "data_role": record.role.value,
        "recorded_set": ",".join(record.synchronous_set),
        "semi_sync": "on" if seen.semi_sync_enabled else "off",
        "semi_sync_clients": str(seen.semi_sync.clients),
        "semi_sync_waiting": str(seen.semi_sync.waiting),
    }
    if seen.replica is not None:
        found["source"] = f"{seen.replica.host}:{seen.replica.port}"
        found["receiver"] = seen.replica.receiver
        found["received"] = str(seen.replica.received)
        predicted = promotion_s(seen, rate)
        found["apply_rate_tps"] = "unknown" if rate.per_second is None else f"{rate.per_second:.1f}"
        found["predicted_promotion_s"] = "unknown" if predicted is None else f"{predicted:.2f}"
    return found


def promotion_s(seen: Observation, rate: ApplyRate) -> float | None:
    """What a promotion of this replica would take; None when it cannot be told, or it is no replica."""
    if seen.replica is None or not seen.replica.applying:
        return None
    return rate.promotion_s(seen.replica.received.transactions_beyond(seen.applied))


def activation_ms(seen: Observation, rate: ApplyRate) -> int:
    """The same for the contract: 0 where there is nothing to apply first, negative when it cannot be told."""
    if seen.replica is None:
        return 0
    predicted = promotion_s(seen, rate)
    return -1 if predicted is None else math.ceil(predicted * 1000)


def asynchronous(status: Status, freshness: Freshness, seen: Observation, now_s: float, rpo_s: float | None) -> Status:
    """A standby that nothing waits for tells what it would lack; its lag is behind the active and not what it got."""
    text = unconfirmed.told(freshness.last, seen, now_s)
    behind = unconfirmed.lag(freshness.last, seen, now_s, ACTIVE_FRESH_S)
    age_s = freshness.age_s(now_s)
    too_old = unconfirmed.beyond_rpo(age_s, rpo_s)
    return replace(
        status,
        lag_transactions=-1 if behind is None else behind,
        lag_seconds=-1.0 if age_s is None else age_s,
        promotable=status.promotable and not too_old,
        promotable_reason=status.promotable_reason or too_old,
        message=status.message or f"asynchronous: a promotion now would go without {text}",
        facts={**status.facts, "may_lack": text},
    )


def running(
    engine: Engine,
    mode: Mode,
    wanted: Role,
    record: Record,
    seen: Observation,
    *,
    held: bool,
    caught_up: bool,
    reason: str,
    in_force: tuple[str, ...],
    followers: tuple[Follower, ...],
    trouble: str,
    rate: ApplyRate,
    more: Mapping[str, str],
) -> Status:
    """A server that answered just now."""
    what = role(mode, wanted, seen, held)
    condition, message = health(seen, trouble)
    can, why_not = promotable(mode, record, caught_up, reason, seen)
    lag_seconds, lag_transactions = lag(seen)
    return Status(
        role=what,
        health=condition,
        accepting=accepting(mode, seen, in_force),
        position=str(seen.applied),
        lag_seconds=lag_seconds,
        lag_transactions=lag_transactions,
        promotable=can,
        promotable_reason=why_not,
        synchronous_set=frozenset(in_force),
        followers=followers if what is Role.ACTIVE else (),
        message=message,
        facts={**facts(engine, seen, record, rate), **more},
        predicted_activation_ms=activation_ms(seen, rate),
    )

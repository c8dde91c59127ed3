"""Runs the checks, one after the other, and reports."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import grpc

from graf_driver_sanity.config import Config
from graf_driver_sanity.harness import Harness, HookError, Refused
from graf_driver_sanity.registry import CannotCheck, Check, Violation, all_checks
from graf_driver_sanity.requirements import REQUIREMENTS

STOPS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NOTHING_LEFT: Final = "what the kit itself promises: it leaves nothing behind"
_OWN_WORD: Final = (
    "no client was asked: that nobody is served while it is not ACTIVE is the driver's own word; configure hooks.write"
)
START: Final = "start"  # stands for the id of a check when the driver could not be reached


@dataclass(frozen=True, slots=True)
class Failure:
    """A broken requirement: which check, what it proves, what was seen, what to do."""

    id: str
    requirement: str
    seen: str
    fix: str


@dataclass(frozen=True, slots=True)
class Skip:
    """A check that was not run, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unproved:
    """A guarantee that the driver declares and this run did not look at: what a driver could do, and pass.

    Attributes:
        accepted: the configuration's own reason under `skip`; "" when nobody has decided to do without it.
    """

    id: str
    requirement: str
    passes: str
    reason: str
    accepted: str = ""


@dataclass(slots=True)
class Report:
    """The outcome of a run."""

    driver: str
    version: str = ""
    passed: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    unproved: list[Unproved] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def checks(self) -> int:
        """How many there are."""
        return len(self.passed) + len(self.failures) + len(self.skipped)

    @property
    def could_start(self) -> bool:
        """Whether there was a driver to check at all."""
        return all(failure.id != START for failure in self.failures)

    @property
    def kept(self) -> bool:
        """Whether nothing was broken, and all that is declared was looked at or is left out on purpose."""
        return not self.failures and all(one.accepted for one in self.unproved)

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "driver": self.driver,
            "version": self.version,
            "checks": self.checks,
            "passed": len(self.passed),
            "failed": len(self.failures),
            "kept": self.kept,
            "notes": list(self.notes),
            "unproved": [asdict(one) for one in self.unproved],
            "skipped": [asdict(skip) for skip in self.skipped],
            "failures": [asdict(failure) for failure in self.failures],
            "seconds": self.seconds,
        }


def in_words(report: Report) -> str:
    """What was broken, what is not proved, and the counts."""
    lines = [
        f"{failure.id} broke {failure.requirement}\n  seen: {failure.seen}\n  do:   {failure.fix}"
        for failure in report.failures
    ]
    if report.unproved:
        lines.append(f"NOT PROVED, {len(report.unproved)} guarantees that the driver declares:")
        lines += [
            f"  {one.passes} would have passed: {one.id} ({one.requirement}) was not run: {one.reason}"
            for one in report.unproved
        ]
        if any(not one.accepted for one in report.unproved):
            lines.append("  do:   configure what is missing, or say under `skip` why it cannot be looked at here")
    lines += [f"note: {note}" for note in report.notes]
    lines.append(
        f"{report.driver}: {report.checks} checks, {len(report.passed)} passed, {len(report.failures)} failed, "
        f"{len(report.skipped)} skipped"
        + (f", {len(report.unproved)} guarantees NOT PROVED" if report.unproved else "")
    )
    return "\n".join(lines)


def in_a_line(error: Exception) -> str:
    """An error for a report: what the kit raises is a sentence, anything else needs its kind too."""
    if isinstance(error, Violation | Refused | HookError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def reason_to_skip(one: Check, harness: Harness) -> str:
    """Why a check cannot be run with this driver and configuration; "" when it can."""
    config = harness.config
    if one.id in config.skip:
        return f"configuration: {config.skip[one.id]}"
    missing = sorted(capability.name for capability in one.capabilities - harness.capabilities)
    if missing:
        return f"the driver does not declare {', '.join(missing)}"
    has = {
        "process": config.site.startable,
        "peer": config.peer is not None,
        "invalid": bool(config.invalid),
        "secrets": bool(config.all_secrets),
        "unreachable": config.unreachable_peer is not None,
        "second": config.second is not None,
    }
    words = {
        "process": "the driver was not started by the kit: configure site.command",
        "peer": "there is no second driver: configure peer",
        "invalid": "no bad parameters are known: configure invalid",
        "secrets": "no secrets are known: configure secrets",
        "unreachable": "no parameters of a peer that is out of reach are known: configure unreachable_peer",
        "second": "the driver takes one component only, as far as is known: configure second",
    }
    for need in one.needs:
        if need.startswith("hook:") and need.removeprefix("hook:") not in config.hooks:
            return f"there is no hook: configure hooks.{need.removeprefix('hook:')}"
        if need in has and not has[need]:
            return words[need]
    return ""


async def run(
    config: Config, only: Collection[str] = (), told: Callable[[str, str], None] = lambda identity, outcome: None
) -> Report:
    """Runs all checks, or those whose id (or area) is in `only`.

    Args:
        config: the driver.
        only: ids, or their first word ("epoch").
        told: called with each check's id and its outcome.
    """
    report = Report(config.name)
    chosen = [one for one in all_checks() if not only or one.id in only or one.id.partition("-")[0] in only]
    harness = Harness(config)
    try:
        try:
            await harness.open()
        except Exception as error:
            report.failures.append(_not_started(error, config))
            return report
        finally:
            report.version = harness.version
        for one in chosen:
            began = time.monotonic()
            outcome = await _run_one(one, harness, report)
            report.seconds[one.id] = round(time.monotonic() - began, 3)
            _note_unproved(one, harness, report)
            told(one.id, outcome)
        if not only and "write" not in config.hooks:
            report.notes.append(_OWN_WORD)
    finally:
        try:
            await harness.close()
        except Exception as error:  # the findings so far are worth more than a clean end
            report.failures.append(Failure("end", _NOTHING_LEFT, in_a_line(error), "end by hand what is left of it"))
    return report


def _not_started(error: Exception, config: Config) -> Failure:
    if isinstance(error, Refused) and error.code is grpc.StatusCode.INVALID_ARGUMENT:
        fix = "the driver runs and refuses its parameters: correct those of site (and of peer) in the configuration"
        return Failure(START, "GD-VALID-001", str(error), fix)
    seen, fix = in_a_line(error), "start the command by hand and look at its output"
    if isinstance(error, OSError) and error.strerror:
        seen = f"{error.filename or 'the command'} cannot be started: {error.strerror}"
    if not config.site.startable:
        fix = "look whether a driver serves graf.driver.v1 there, with or without TLS as you say it does (--tls-dir)"
    return Failure(START, "GD-INFO-001", seen, fix)


def _note_unproved(one: Check, harness: Harness, report: Report) -> None:
    skip = report.skipped[-1] if report.skipped else None
    if skip is not None and skip.id == one.id and one.guards & harness.capabilities:
        accepted = harness.config.skip.get(one.id, "")
        report.unproved.append(Unproved(one.id, ", ".join(one.requirements), one.unproved, skip.reason, accepted))


async def _run_one(one: Check, harness: Harness, report: Report) -> str:
    reason = reason_to_skip(one, harness)
    if reason:
        report.skipped.append(Skip(one.id, reason))
        return f"skipped: {reason}"
    seen = ""
    limit_s = harness.budget.transition_s * 6 + harness.budget.start_s * 2 + 30
    try:
        async with asyncio.timeout(limit_s):
            await harness.recover()
            await one.body(harness)
    except CannotCheck as cannot:
        report.skipped.append(Skip(one.id, str(cannot)))
        return f"skipped: {cannot}"
    except (Violation, Refused) as error:
        seen = str(error)
    except HookError as error:
        seen = str(error)
    except TimeoutError as error:  # the kit's own has no words; a launcher's says what it waited for
        seen = str(error) or f"the check did not end within {limit_s:g} s"
    except Exception as error:
        # A launcher of the author's that raised, a disk that is full: one check's finding, not the end of the run,
        # which would take the outcome of all others with it.
        seen = f"the check could not be carried through: {in_a_line(error)}"
    if not seen:
        report.passed.append(one.id)
        return "passed"
    names = ", ".join(one.requirements)
    failure = Failure(one.id, names, seen, " ".join(REQUIREMENTS[name].fix for name in one.requirements))
    report.failures.append(failure)
    return f"failed: {seen}"


async def until_told_to_stop(work: Coroutine[Any, Any, Report]) -> Report:
    """Lets SIGTERM, SIGINT and SIGHUP end a run as its own end does: no driver and no folder is left behind.

    Raises:
        CancelledError: one of them came; all that the run had started was ended.
    """
    task = asyncio.ensure_future(work)

    def stop() -> None:
        # Once: a second one, of a hand without patience, would cut the clean end short and leave the drivers running.
        if not task.cancelling():
            sys.stderr.write("graf-driver-sanity: stopping; what it started is fenced and ended first\n")
            sys.stderr.flush()
            task.cancel()

    for number in STOPS:
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return await task


def run_sync(config: Config, only: Collection[str] = ()) -> Report:
    """As `run`, for callers without an event loop. A signal to stop ends it cleanly and is a KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(run(config, only))
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        return asyncio.run(until_told_to_stop(run(config, only)))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

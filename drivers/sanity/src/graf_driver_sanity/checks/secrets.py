"""Secrets never show. These run last: they look at everything that the driver said during the run."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from urllib.parse import quote

from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import CALLS, request_of, whatever
from graf_driver_sanity.checks.watch import read
from graf_driver_sanity.harness import Harness
from graf_driver_sanity.registry import CannotCheck, check, expect

SECRETS = ("secrets",)


def hidden(h: Harness, texts: list[str], where: str) -> None:
    """No secret is in any of the texts, as it is or in one of the usual disguises."""
    for secret in h.config.all_secrets:
        for how, form in disguises(secret):
            for text in texts:
                at = text.find(form)
                around = text[max(0, at - 60) : at].strip()
                expect(at < 0, f"a secret of {len(secret)} characters is in {where}{how}, after: {around!r}")


def disguises(secret: str) -> Iterator[tuple[str, str]]:
    """The secret as it is, escaped, in a URL, in hex and in base64 at any place of what was encoded."""
    yield "", secret
    for form in {repr(secret)[1:-1], json.dumps(secret)[1:-1]} - {secret}:
        yield ", escaped", form
    for form in {quote(secret), quote(secret, safe="")} - {secret}:
        yield ", as in a URL", form
    raw = secret.encode()
    if len(raw) < 8:  # what is left of it in base64 would be found by accident
        return
    yield ", in hex", raw.hex()
    for before in range(3):
        usable = (before + len(raw)) // 3 * 4
        yield ", in base64", base64.b64encode(bytes(before) + raw).decode()[4 if before else 0 : usable]


@check("secret-in-errors", "GD-SECRET-001", needs=SECRETS)
async def in_errors(h: Harness) -> None:
    """Calls that are refused do not tell a secret of their parameters."""
    await h.reach("FENCED")
    before = len(h.site.said)
    for call, needed in CALLS.items():
        if set(needed) <= h.capabilities:
            await whatever(h, call, request_of(h, call, 0))
            await whatever(h, call, request_of(h, call, max(0, h.epoch - 1)))
    hidden(h, h.site.said[before:], "an answer")


@check("secret-in-problems", "GD-SECRET-001", needs=SECRETS)
async def in_problems(h: Harness) -> None:
    """Parameters that hold a secret in the wrong place do not show it in the problems."""
    before = len(h.site.said)
    for secret in h.config.all_secrets:
        for name in h.config.site.parameters:
            spec = h.spec()
            spec.parameters.update({name: {"password": secret}})
            await whatever(h, "Validate", pb.ValidateRequest(spec=spec))
            request = h.request("FENCED", h.epoch)
            request.spec.CopyFrom(spec)
            await whatever(h, "EnsureRole", request)
    hidden(h, h.site.said[before:], "a problem")


@check("secret-in-status", "GD-SECRET-001", needs=SECRETS)
async def in_status(h: Harness) -> None:
    """Status and watch in each role show no secret, nor did any answer of this run."""
    for role in ("FENCED", "ACTIVE", "INVALIDATED"):
        await h.reach(role)
        await h.status()
        stream = h.site.watch(h.spec())
        try:
            await read(stream, "the present status", h.budget.status_s)
        finally:
            stream.cancel()
    for end in h.ends:
        hidden(h, end.said, f"an answer of {end.side.name} in this run")


@check("secret-in-log", "GD-SECRET-002", needs=(*SECRETS, "process"))
async def in_log(h: Harness) -> None:
    """The driver's output of the whole run shows no secret."""
    assert h.site.launcher is not None
    log = h.site.launcher.log()
    if not log:
        raise CannotCheck("the driver wrote nothing to its output")
    hidden(h, [log], "the driver's output")

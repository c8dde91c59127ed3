"""What holds for every call: one at a time, deadlines, cancellation, the wire."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
from typing import Any, Final

import grpc
from graf_driver_sdk.types import Capability
from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import (
    CALLS,
    FORBIDDEN,
    INVALID,
    MUTATING,
    ended,
    facts,
    request_of,
    second_components,
    slug,
)
from graf_driver_sanity.harness import ROLES, Harness, Refused, role_name
from graf_driver_sanity.registry import Violation, check, expect

LARGEST_ANSWER: Final = 256 * 1024


# Where a program was: of Python, Go, Java and Rust.
STACK: Final = re.compile(
    r"Traceback \(most recent|File \"[^\"]+\", line \d+|goroutine \d+ \[|\bat [\w.$]+\(\w+\.java:\d+\)|panicked at"
)


async def outcome(call: Any) -> grpc.StatusCode:
    """The status code of a call in flight."""
    code: grpc.StatusCode = await call.code()
    return code


async def at_once(h: Harness, name: str, requests: list[Any]) -> list[grpc.StatusCode]:
    """Calls begun together; their status codes."""
    calls = [h.site.begin(name, request) for request in requests]
    return list(await asyncio.gather(*(outcome(call) for call in calls)))


@check("call-same-role-at-once", "GD-CALL-001")
async def same_role(h: Harness) -> None:
    """Ten EnsureRole(FENCED) at once: each is done or refused as busy, and FENCED is reached."""
    await h.reach("ACTIVE")
    epoch = h.next_epoch()
    codes = set(await at_once(h, "EnsureRole", [h.request("FENCED", epoch) for _ in range(10)]))
    expect(codes <= {grpc.StatusCode.OK, grpc.StatusCode.ABORTED}, f"codes {sorted(code.name for code in codes)}")
    await h.ensure("FENCED", epoch=epoch)
    expect(not (await h.status()).accepting, "it accepts")


@check("call-rising-epochs-at-once", "GD-CALL-001", "GD-EPOCH-001")
async def rising_epochs(h: Harness) -> None:
    """ACTIVE and FENCED at once with rising epochs: the highest epoch that was answered wins."""
    await h.reach("FENCED")
    first = h.epoch
    requests = [h.request(role, h.next_epoch()) for role in ("ACTIVE", "FENCED") * 4]
    codes = await at_once(h, "EnsureRole", requests)
    allowed = {grpc.StatusCode.OK, grpc.StatusCode.ABORTED, FORBIDDEN}
    expect(set(codes) <= allowed, f"codes {sorted(code.name for code in codes)}")
    told = (await h.status()).epoch
    passed = [request.epoch for request, code in zip(requests, codes, strict=True) if code is grpc.StatusCode.OK]
    expect(told >= max(passed, default=first), f"epochs {passed} were admitted, the status says {told}")
    await h.ensure("FENCED")
    status = await h.status()
    expect(status.role == ROLES["FENCED"] and not status.accepting, f"it is {role_name(status.role)}")


@check("call-falling-epochs-at-once", "GD-CALL-001", "GD-EPOCH-001")
async def falling_epochs(h: Harness) -> None:
    """FENCED at once with ACTIVE in lower epochs: once it was admitted and completed none of those takes effect."""
    for _ in range(3):
        await h.reach("FENCED")
        lower = [h.request("ACTIVE", h.next_epoch()) for _ in range(7)]
        highest = h.next_epoch()
        fenced, *others = [
            h.site.begin("EnsureRole", request) for request in (h.request("FENCED", highest), *reversed(lower))
        ]
        codes = await asyncio.gather(*(outcome(call) for call in (fenced, *others)))
        allowed = {grpc.StatusCode.OK, grpc.StatusCode.ABORTED, FORBIDDEN}
        expect(set(codes) <= allowed, f"codes {sorted(code.name for code in codes)}")
        if codes[0] is not grpc.StatusCode.OK:
            continue
        if not (await fenced).progress.completed:  # an ACTIVE that came first is still being taken back
            await h.ensure("FENCED", epoch=highest)
        ends = time.monotonic() + 0.3
        while time.monotonic() < ends:
            status = await h.status()
            seen = f"the status tells {status.epoch}, accepting {status.accepting}"
            kept = status.epoch == highest and not status.accepting
            expect(kept, f"FENCED in epoch {highest} was completed; {seen}")
            await asyncio.sleep(0.02)


@check("call-quiesce-and-fence-at-once", "GD-CALL-001", capabilities=(Capability.POSITION,))
async def quiesce_and_fence(h: Harness) -> None:
    """Quiesce and FENCED at once: whatever the order, nothing is accepted afterwards."""
    await h.reach("ACTIVE")
    epoch = h.epoch
    quiesce = h.site.begin("Quiesce", pb.QuiesceRequest(spec=h.spec(), epoch=epoch))
    fence = h.site.begin("EnsureRole", h.request("FENCED", epoch))
    codes = {await outcome(quiesce), await outcome(fence)}
    allowed = {grpc.StatusCode.OK, grpc.StatusCode.ABORTED, FORBIDDEN}
    expect(codes <= allowed, f"codes {sorted(code.name for code in codes)}")
    await h.ensure("FENCED", epoch=epoch)
    expect(not (await h.status()).accepting, "it accepts")


def _deadline(call: str) -> None:
    @check(
        f"call-deadline-{slug(call)}",
        "GD-CALL-002",
        capabilities=CALLS[call],
        sentence=f"{call} with a deadline of 1 ms ends, and works when it is called again.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        request = request_of(h, call, h.epoch, "ACTIVE")
        for _ in range(3):
            handle = h.site.begin(call, request, 0.001)
            try:
                async with asyncio.timeout(h.budget.call_s):
                    await outcome(handle)
            except TimeoutError:
                raise Violation(f"{call} goes on {h.budget.call_s:g} s after its deadline of 1 ms") from None
        await _works(h, call)


def _cancel(call: str) -> None:
    @check(
        f"call-cancel-{slug(call)}",
        "GD-CALL-003",
        capabilities=CALLS[call],
        sentence=f"{call} that is cancelled half-way works when it is called again.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        for wait_s in (0.0, 0.001, 0.005):
            handle = h.site.begin(call, request_of(h, call, h.epoch, "ACTIVE"))
            await asyncio.sleep(wait_s)
            handle.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await outcome(handle)
        await _works(h, call)


async def stays_shut(h: Harness, seconds: float = 0.4) -> None:
    """The component is FENCED and stays so: nothing that was begun before takes effect."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        status = await h.status()
        shut = not status.accepting and status.role == ROLES["FENCED"]
        expect(shut, f"FENCED was completed, later it is {role_name(status.role)}, accepting {status.accepting}")
        await asyncio.sleep(0.02)


def _nothing_later(how: str) -> None:
    @check(
        f"call-{how}-active-opens-nothing-later",
        "GD-CALL-003" if how == "cancelled" else "GD-CALL-002",
        "GD-ROLE-013",
        sentence=f"An ACTIVE that was {how} takes no effect after a FENCED that was completed since.",
    )
    async def body(h: Harness) -> None:
        for pause_s in (0.002, 0.02, 0.06, 0.2):  # the last for a busy machine, where the others end before they arrive
            await h.reach("FENCED")
            request = h.request("ACTIVE", h.next_epoch())
            if how == "late":
                handle = h.site.begin("EnsureRole", request, pause_s)
                await asyncio.sleep(pause_s)
            else:
                handle = await h.site.begun("EnsureRole", request, h.budget.call_s, pause_s)
            await ended(handle)
            await h.ensure("FENCED")
            await stays_shut(h)


_nothing_later("cancelled")
_nothing_later("late")


@check("call-fenced-beside-active-wins", "GD-CALL-001", "GD-ROLE-013")
async def fenced_beside_active(h: Harness) -> None:
    """FENCED in a newer epoch beside an ACTIVE in flight: once both have ended it is FENCED."""
    for pause_s in (0.0, 0.005, 0.03):
        await h.reach("FENCED")
        request = h.request("ACTIVE", h.next_epoch())
        handle = await h.site.begun("EnsureRole", request, h.budget.call_s, pause_s)
        await h.ensure("FENCED")
        await outcome(handle)
        await stays_shut(h)


async def _works(h: Harness, call: str) -> None:
    """The call is answered again, in time, and the role can be changed."""
    epoch = h.epoch

    async def answered() -> bool:
        try:
            await h.site.call(call, request_of(h, call, epoch, "ACTIVE"), h.budget.transition_s)
        except Refused as refused:
            if refused.code is grpc.StatusCode.ABORTED:
                return False
            allowed = (FORBIDDEN, INVALID) if call in ("AwaitPosition", "Assess", "Resync") else ()
            expect(refused.code in allowed, f"after it was cut short: {refused}")
        return True

    await h.eventually(f"{call} is answered after it was cut short", answered)
    await h.ensure("FENCED")
    expect(not (await h.status()).accepting, "it accepts")


for _call in CALLS:
    _deadline(_call)
    _cancel(_call)

# A field of each message that no version of the contract has: number 15000, of bytes, with the text "sanity".
UNKNOWN_FIELD = bytes([0xC2, 0xA9, 0x07, 0x06]) + b"sanity"


def _unknown(call: str) -> None:
    @check(
        f"call-unknown-field-{slug(call)}",
        "GD-CALL-004",
        capabilities=CALLS[call],
        sentence=f"{call} ignores a field that it does not know.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        plain = request_of(h, call, h.epoch, "ACTIVE")
        known = await _code(h, call, plain)
        extended = type(plain).FromString(plain.SerializeToString() + UNKNOWN_FIELD)
        assert extended.ByteSize() > plain.ByteSize()
        told = await _code(h, call, extended)
        expect(told is known, f"without the field {known.name}, with it {told.name}")


async def _code(h: Harness, call: str, request: Any) -> grpc.StatusCode:
    try:
        await h.site.call(call, request)
    except Refused as refused:
        return refused.code
    return grpc.StatusCode.OK


for _call in CALLS:
    _unknown(_call)


@check("call-errors-have-words", "GD-CALL-005")
async def errors_have_words(h: Harness) -> None:
    """Refusals of several kinds have a message for people, without a traceback."""
    await h.reach("FENCED")
    requests: list[tuple[str, Any]] = [
        ("EnsureRole", h.request("FENCED", h.epoch - 1)),
        ("EnsureRole", pb.EnsureRoleRequest(spec=h.spec(), epoch=h.epoch)),
        ("GetStatus", pb.GetStatusRequest()),
        ("Validate", pb.ValidateRequest()),
    ]
    for name, request in requests:
        refused = await h.refusal(name, request, INVALID, FORBIDDEN)
        expect(len(refused.message) >= 10, f"{name}: the message is {refused.message!r}")
    said = next((text for text in h.site.said if STACK.search(text)), "")
    expect(not said, f"an answer of this run has a traceback: {said[:300]!r}")


@check("call-answers-are-small", "GD-CALL-008")
async def answers_are_small(h: Harness) -> None:
    """No answer of this run has more than 256 KiB, the status of each role among them."""
    await h.site.call("GetInfo", pb.GetInfoRequest())
    for role in ("FENCED", "ACTIVE", "INVALIDATED"):
        await h.reach(role)
        await h.status()
    size, call = max(end.biggest for end in h.ends)
    expect(size <= LARGEST_ANSWER, f"an answer of {call} has {size} bytes")


@check("call-many-components", "GD-CALL-006")
async def many_components(h: Harness) -> None:
    """Calls for other components at the same time do not change this one."""
    await h.reach("ACTIVE")
    before = await h.status()

    async def other(number: int) -> None:
        request = h.request("FENCED", 1)
        request.spec.component = f"sanity-{number}"
        try:
            await h.site.call("EnsureRole", request)
        except Refused as refused:
            busy = refused.code is grpc.StatusCode.ABORTED
            expect(not busy, f"the only call for sanity-{number}, beside those for others: {refused}")

    await asyncio.gather(*(other(number) for number in range(10)))
    after = await h.status()
    expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")


@check("call-components-are-told-apart", "GD-CALL-006", "GD-EPOCH-008", needs=("second",))
async def told_apart(h: Harness) -> None:
    """Another component, and one of the same name in another group, have a role of their own."""
    await h.reach("ACTIVE")
    before = await h.status()
    for spec in second_components(h):
        name = f"{spec.group}/{spec.component}"
        epoch = (await h.site.call("GetStatus", pb.GetStatusRequest(spec=spec), h.budget.status_s)).epoch + 1
        request = h.request("FENCED", epoch)
        request.spec.CopyFrom(spec)
        await h.finish("EnsureRole", functools.partial(_with_lease, h, request))
        told = await h.site.call("GetStatus", pb.GetStatusRequest(spec=spec), h.budget.status_s)
        fenced = told.role == ROLES["FENCED"] and not told.accepting
        expect(fenced, f"{name} is FENCED, it says {role_name(told.role)}, accepting {told.accepting}")
        after = await h.status()
        expect(facts(before) == facts(after), f"after FENCED of {name}: {facts(before)}, {facts(after)}")


@check(
    "call-cancelled-unquiesce-opens-nothing-later", "GD-CALL-003", "GD-ROLE-013", capabilities=(Capability.POSITION,)
)
async def cancelled_unquiesce(h: Harness) -> None:
    """An Unquiesce that was cancelled takes no effect after a FENCED that was completed since."""
    for pause_s in (0.002, 0.03):
        await h.reach("QUIESCED")
        handle = await h.site.begun("Unquiesce", request_of(h, "Unquiesce", h.epoch), h.budget.call_s, pause_s)
        await ended(handle)
        await h.ensure("FENCED")
        await stays_shut(h)


@check("call-second-component-is-independent", "GD-CALL-006", "GD-EPOCH-008", needs=("second",))
async def independent(h: Harness) -> None:
    """Another component that shares nothing with this one becomes ACTIVE and FENCED, and this one stays as it is."""
    await h.reach("ACTIVE")
    mine = facts(await h.status())
    for spec in second_components(h):
        group, component = spec.group, spec.component
        status = await h.site.call("GetStatus", pb.GetStatusRequest(spec=spec), h.budget.status_s)
        for role in ("ACTIVE", "FENCED"):
            request = h.request(role, status.epoch + 1)
            request.spec.CopyFrom(spec)
            await h.finish("EnsureRole", functools.partial(_with_lease, h, request))
            told = await h.site.call("GetStatus", pb.GetStatusRequest(spec=spec), h.budget.status_s)
            seen = f"{group}/{component} was given {role}, it says {role_name(told.role)}, accepting {told.accepting}"
            expect((told.role, told.accepting) == (ROLES[role], role == "ACTIVE"), seen)
            now = facts(await h.status())
            expect(now == mine, f"before {role} of {group}/{component} this one was {mine}, after it {now}")


def _with_lease(h: Harness, request: pb.EnsureRoleRequest) -> pb.EnsureRoleRequest:
    if request.lease_deadline_ns:
        request.lease_deadline_ns = h.deadline()
    return request


@check("call-empty-request", "GD-VALID-005", "GD-CALL-005")
async def empty_request(h: Harness) -> None:
    """Every call with an empty request is refused with INVALID_ARGUMENT or UNIMPLEMENTED."""
    for call in CALLS:
        request = type(request_of(h, call, 1))()
        await h.refusal(call, request, INVALID, grpc.StatusCode.UNIMPLEMENTED)


@check("call-mutating-need-no-order", "GD-CALL-005")
async def no_order(h: Harness) -> None:
    """Calls in an order that makes no sense are answered or refused by the table, never with INTERNAL."""
    for role in ("FENCED", "ACTIVE"):
        await h.reach(role)
        for call in MUTATING:
            if set(CALLS[call]) <= h.capabilities and call != "EnsureRole":
                try:
                    await h.site.call(call, request_of(h, call, h.epoch))
                except Refused as refused:
                    expect(refused.code in (FORBIDDEN, INVALID), f"as {role}: {refused}")

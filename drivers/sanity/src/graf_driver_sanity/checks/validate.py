"""Validate, and what is refused by every call alike."""

from __future__ import annotations

from typing import Any, Final

from graf_driver_sdk.v1 import driver_pb2 as pb

from graf_driver_sanity.checks.common import CALLS, INVALID, facts, request_of, slug
from graf_driver_sanity.config import Invalid
from graf_driver_sanity.harness import Harness, Refused, struct
from graf_driver_sanity.registry import CannotCheck, check, expect

BAD_NAMES: Final = ("", "../etc", "UPPER", "a_b", "a.b", "-a", "a-", "a\n", "\u00e4", "x" * 64)
# What people and programs write by mistake; each is put in the place of each parameter.
ODD_VALUES: Final[tuple[Any, ...]] = (None, -1, 1e300, float("inf"), [], {"a": 1}, "x" * 5000, "\x00")


def _bad(h: Harness, *samples: Invalid) -> pb.ComponentSpec:
    parameters: dict[str, Any] = dict(h.config.site.parameters)
    for sample in samples:
        parameters.update(sample.change)
        for name in sample.remove:
            parameters.pop(name, None)
    spec = h.spec()
    spec.parameters.CopyFrom(struct(parameters))
    return spec


async def _problems(h: Harness, spec: pb.ComponentSpec) -> list[Any]:
    return list((await h.site.call("Validate", pb.ValidateRequest(spec=spec))).problems)


@check("validate-good", "GD-VALID-001")
async def good(h: Harness) -> None:
    """Good parameters, with the peers, have no problem."""
    request = pb.ValidateRequest(spec=h.spec(), peers=h.request("FENCED", 1).peers)
    problems = (await h.site.call("Validate", request)).problems
    expect(not problems, f"problems {list(problems)}")


@check("validate-names-field", "GD-VALID-002", needs=("invalid",))
async def names_field(h: Harness) -> None:
    """Each bad parameter is reported under its field."""
    for sample in h.config.invalid:
        problems = await _problems(h, _bad(h, sample))
        fields = [problem.field for problem in problems]
        found = any(sample.field in field or (field and field in sample.field) for field in fields)
        expect(found, f"{dict(sample.change)} without {sample.remove}: wanted {sample.field}, problems at {fields}")


@check("validate-cause-and-fix", "GD-VALID-002", needs=("invalid",))
async def cause_and_fix(h: Harness) -> None:
    """Each problem has a cause and a fix."""
    for sample in h.config.invalid:
        for problem in await _problems(h, _bad(h, sample)):
            expect(bool(problem.cause and problem.fix), f"problem {problem}")


@check("validate-all-at-once", "GD-VALID-003", needs=("invalid",))
async def all_at_once(h: Harness) -> None:
    """Two bad parameters are both reported."""
    fields: dict[str, Invalid] = {}
    for sample in h.config.invalid:
        fields.setdefault(sample.field.partition(".")[0].partition("[")[0], sample)
    samples = list(fields.values())[:2]
    if len(samples) < 2:
        raise CannotCheck("fewer than two bad fields are configured")
    told = [problem.field for problem in await _problems(h, _bad(h, *samples))]
    for sample in samples:
        found = any(sample.field in field or (field and field in sample.field) for field in told)
        expect(found, f"{[one.field for one in samples]} are bad, told were {told}")


@check("validate-changes-nothing", "GD-VALID-004", "GD-EPOCH-007")
async def changes_nothing(h: Harness) -> None:
    """Validate ten times leaves role, epoch and position."""
    await h.reach("ACTIVE")
    before = await h.status()
    for _ in range(10):
        await h.site.call("Validate", pb.ValidateRequest(spec=h.spec()))
    for sample in h.config.invalid:
        await _problems(h, _bad(h, sample))
    after = await h.status()
    expect(facts(before) == facts(after), f"before {facts(before)}, after {facts(after)}")


@check("validate-odd-values", "GD-VALID-006", "GD-VALID-002")
async def odd_values(h: Harness) -> None:
    """A value of another kind or size in the place of any parameter is a problem or none, never an error."""
    names = {*h.config.site.parameters, *(name for sample in h.config.invalid for name in sample.change)}
    for name in sorted(names):
        for value in ODD_VALUES:
            for problem in await _problems(h, _bad(h, Invalid(name, {name: value}))):
                whole = bool(problem.field and problem.cause and problem.fix)
                expect(whole, f"{name} is {str(value)[:20]!r}, and a problem lacks field, cause or fix: {problem}")


@check("validate-longest-names", "GD-VALID-005")
async def longest_names(h: Harness) -> None:
    """A label of 63 characters that begins with a digit is a name."""
    spec = h.spec()
    spec.group, spec.component = "0" + "g" * 62, "0" + "c" * 62
    for call, request in (("Validate", pb.ValidateRequest(spec=spec)), ("GetStatus", pb.GetStatusRequest(spec=spec))):
        try:
            await h.site.call(call, request)
        except Refused as refused:
            expect(refused.code is not INVALID, f"{spec.group}/{spec.component}: {refused}")


@check("validate-bad-parameters-give-no-role", "GD-VALID-006", "GD-EPOCH-003", needs=("invalid",))
async def give_no_role(h: Harness) -> None:
    """FENCED that is refused for its parameters leaves the role."""
    await h.reach("ACTIVE")
    for sample in h.config.invalid:
        before = await h.status()
        request = h.request("FENCED", h.epoch)
        request.spec.CopyFrom(_bad(h, sample))
        try:
            await h.site.call("EnsureRole", request)
        except Refused as refused:
            expect(refused.code is INVALID, f"{sample}: {refused}")
            after = await h.status()
            expect(facts(before) == facts(after), f"{sample} was refused: before {facts(before)}, after {facts(after)}")
            continue
        await h.reach("ACTIVE")  # it went on with the parameters in force


def _name(call: str) -> None:
    @check(
        f"validate-bad-name-{slug(call)}",
        "GD-VALID-005",
        capabilities=CALLS[call],
        sentence=f"{call} refuses names that are no labels.",
    )
    async def body(h: Harness) -> None:
        for field in ("group", "component", "site"):
            for bad in BAD_NAMES:
                request = request_of(h, call, h.next_epoch())
                setattr(request.spec, field, bad)
                await h.refusal(call, request, INVALID)


def _parameters(call: str) -> None:
    @check(
        f"validate-bad-parameters-{slug(call)}",
        "GD-VALID-006",
        capabilities=CALLS[call],
        needs=("invalid",),
        sentence=f"{call} refuses bad parameters with INVALID_ARGUMENT, or goes on with those in force.",
    )
    async def body(h: Harness) -> None:
        await h.reach("ACTIVE")
        for sample in h.config.invalid:
            request = request_of(h, call, h.epoch, "ACTIVE")
            request.spec.CopyFrom(_bad(h, sample))
            try:
                await h.site.call(call, request)
            except Refused as refused:
                allowed = (INVALID,) if call in ("GetStatus", "EnsureRole", "RenewLease") else None
                forbidden = refused.code.name in ("INTERNAL", "UNAVAILABLE", "UNIMPLEMENTED")
                expect(not forbidden and (allowed is None or refused.code in allowed), f"{sample}: {refused}")


for _call in CALLS:
    _name(_call)
    if _call != "Validate":
        _parameters(_call)

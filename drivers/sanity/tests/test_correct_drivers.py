"""What keeps the contract in an unusual way is not told as broken."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from graf_driver_fake.driver import FakeDriver
from graf_driver_sanity import Config, run
from graf_driver_sanity.config import Side
from graf_driver_sdk.server import ComponentService
from graf_driver_sdk.types import EnsureRole, Peer, Progress, Resynced, ResyncStrategy, Role, Spec, Status

sys.path.insert(0, str(Path(__file__).parent))
from broken import Variant
from test_broken_variants import QUICK, configuration


class SlowFence(FakeDriver):
    """FENCED takes two calls, and what had been opened before is open until the second one."""

    async def ensure_role(self, request: EnsureRole) -> Progress:
        component = self.component(request.spec)
        if request.role is not Role.FENCED or component.quiesced:
            return await super().ensure_role(request)
        if component.memory != [str(request.epoch)]:
            component.memory = [str(request.epoch)]  # the writes are on the disk
            component.role, component.lease_deadline_ns = Role.ACTIVE, None
            return Progress.pending("the server is being stopped", 20)
        return await super().ensure_role(request)


async def test_a_fence_that_is_admitted_and_not_completed_may_still_be_open(tmp_path: Path) -> None:
    check = "call-falling-epochs-at-once"
    report = await run(configuration(tmp_path, Variant("slow fence", check, SlowFence)), only={check})
    assert (report.failures, report.passed) == ([], [check])


class SeldomLook(FakeDriver):
    """Looks at its lag each second and a half, and tells what it saw last."""

    def __init__(self) -> None:
        super().__init__()
        self._looked = (0.0, -1.0)

    async def status(self, spec: Spec) -> Status:
        seen = await super().status(spec)
        now = time.monotonic()
        if seen.lag_seconds == 0 or now - self._looked[0] > 1.5:
            self._looked = (now, seen.lag_seconds)
        known = self._looked[1]
        return dataclasses.replace(seen, lag_seconds=known, lag_transactions=int(known))


async def test_a_lag_that_is_looked_at_each_few_seconds_is_told_at_the_next_look(tmp_path: Path) -> None:
    check = "resync-behind-is-no-lag-of-0"
    report = await run(configuration(tmp_path, Variant("seldom look", check, SeldomLook)), only={check})
    assert (report.failures, report.passed) == ([], [check])


class StandsStill(FakeDriver):
    """Whose server is stopped when it is quiesced, and then has no position to tell."""

    async def status(self, spec: Spec) -> Status:
        seen = await super().status(spec)
        return dataclasses.replace(seen, position="") if self.component(spec).quiesced else seen


async def test_a_component_that_stands_still_need_not_tell_its_position(tmp_path: Path) -> None:
    check = "watch-tells-quiesce"
    report = await run(configuration(tmp_path, Variant("stands still", check, StandsStill)), only={check})
    assert (report.failures, report.passed) == ([], [check])


class OneResource(FakeDriver):
    """What is fenced is what the parameters name, whichever component names it."""

    async def ensure_role(self, request: EnsureRole) -> Progress:
        progress = await super().ensure_role(request)
        mine = self.component(request.spec)
        for component in list(self._components.values()):
            if request.role is Role.FENCED and component.parameters.data_dir == mine.parameters.data_dir:
                component.role = Role.FENCED
        return progress


@pytest.mark.parametrize("check", ["call-components-are-told-apart", "watch-beside-another-component"])
async def test_another_component_is_fenced_with_parameters_of_its_own_alone(check: str, tmp_path: Path) -> None:
    report = await run(configuration(tmp_path, Variant("one resource", check, OneResource)), only={check})
    assert (report.failures, report.passed) == ([], [check])
    (tmp_path / "again").mkdir()
    without = dataclasses.replace(configuration(tmp_path / "again"), second=None)
    report = await run(without, only={check})
    assert [skip.id for skip in report.skipped] == [check]


class LongRebuild(FakeDriver):
    """A Resync goes on for as long as its caller waits."""

    async def resync(self, spec: Spec, active: Peer, strategy: ResyncStrategy, epoch: int) -> Resynced:
        await asyncio.sleep(3600)
        return Resynced(Progress.pending("still copying", 20))


async def test_a_resync_that_uses_all_of_its_time_lets_the_promotion_in_when_it_ends(tmp_path: Path) -> None:
    check = "resync-beside-a-promotion"
    budget = dataclasses.replace(QUICK, transition_s=3.0)
    report = await run(configuration(tmp_path, Variant("long rebuild", check, LongRebuild), budget), only={check})
    assert (report.failures, report.passed) == ([], [check])


@pytest.mark.parametrize(
    ("call", "check"), [("EnsureRole", "gate-shuts-by-itself"), ("RenewLease", "gate-renew-keeps-open")]
)
async def test_a_machine_that_stands_still_until_a_short_lease_is_over_is_no_fault_of_the_driver(
    call: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: Any = getattr(ComponentService, call)
    stalls = [0.5]

    async def stalled(self: ComponentService, request: Any, context: Any) -> Any:
        if stalls and request.lease_deadline_ns:
            await asyncio.sleep(stalls.pop())
        return await whole(self, request, context)

    monkeypatch.setattr(ComponentService, call, stalled)
    report = await run(configuration(tmp_path, Variant("stalled", check)), only={check})
    assert (report.failures, report.passed, stalls) == ([], [check], [])


@pytest.mark.parametrize(
    ("parameters", "secrets"),
    [
        ({"passwordFile": "/run/secrets/application"}, ()),
        ({"tls": {"keyFile": "/etc/graf/tls.key", "SECRET_FILE": "/etc/graf/secret"}}, ()),
        ({"mover": {"keySecret": "files-mover-key", "secretName": "files-mover", "tokenRef": {"key": "the-name"}}}, ()),
        ({"password": "correct-horse", "peers": [{"clientSecret": "battery-staple"}]},
         ("battery-staple", "correct-horse")),
        ({"secret": {"keyFile": "below-a-secret"}}, ("below-a-secret",)),
    ],
)  # fmt: skip
def test_a_parameter_that_names_a_secret_is_none(parameters: dict[str, Any], secrets: tuple[str, ...]) -> None:
    assert Config(Side("east", parameters=parameters)).all_secrets == secrets

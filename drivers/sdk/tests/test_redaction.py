"""Secrets of parameters stay out of the log, of errors and of every message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from graf_driver_sdk.client import DriverCallError
from graf_driver_sdk.errors import DriverError, InvalidParametersError
from graf_driver_sdk.logs import event
from graf_driver_sdk.redact import MASK, Redactor
from graf_driver_sdk.testing import running, spec
from graf_driver_sdk.types import EnsureRole, FieldProblem, Health, Peer, Progress, Role, Status

SECRET = 'hunter2"\\é'
SPEC = spec(user="app", appPassword=SECRET, nested={"apiToken": ["tok-1", "tok-2"]})


@pytest.mark.parametrize("name", ["password", "appPassword", "SECRET_FILE", "token", "tlsKey"])
def test_a_parameter_with_a_telling_name_is_secret(name: str) -> None:
    redactor = Redactor()
    redactor.learn({name: "s3cr3t", "user": "app"})
    assert redactor.clean("app has s3cr3t") == f"app has {MASK}"


def test_everything_below_a_secret_name_is_secret() -> None:
    redactor = Redactor()
    redactor.learn({"credentials": {"secret": {"a": ["inner-one"], "b": 42424242.0, "c": True, "d": None}}})
    assert redactor.clean("inner-one 42424242 True None") == f"{MASK} {MASK} True None"


def test_the_path_of_a_file_with_a_secret_is_told() -> None:
    redactor = Redactor()
    redactor.learn({"tls": {"keyFile": "/tls/tls.key"}, "passwordFile": "hunter2", "secret": {"aFile": "/in/here"}})
    assert redactor.clean("/tls/tls.key hunter2 /in/here") == f"/tls/tls.key {MASK} {MASK}"


def test_short_secrets_are_masked_as_words_only() -> None:
    redactor = Redactor()
    redactor.learn({"password": "a"})
    assert redactor.clean("a bad a") == f"{MASK} bad {MASK}"


def test_a_secret_that_holds_another_is_masked_whole() -> None:
    redactor = Redactor()
    redactor.learn({"password": "abcd", "token": "abcdefgh"})
    assert redactor.clean("abcdefgh abcd") == f"{MASK} {MASK}"


def test_odd_numbers_and_empty_secrets_do_no_harm() -> None:
    redactor = Redactor()
    redactor.learn({"password": "", "token": float("nan"), "key": float("inf")})
    assert redactor.clean("plain text") == "plain text"


async def test_no_secret_reaches_errors_answers_or_the_log(driver: Any, log_of: Any) -> None:
    log = log_of(driver)
    driver.protect("from-a-file")

    async def talks(request: Any) -> Progress:
        import logging

        event(logging.getLogger("driver"), f"connecting with {SECRET}", dsn=f"app:{SECRET}@db", parts=[{"p": SECRET}])
        match driver.calls.count("EnsureRole"):
            case 1:
                raise DriverError(f"login with {SECRET} or from-a-file failed")
            case 2:
                raise RuntimeError(f"dsn app:{SECRET}@db")
            case 3:
                raise InvalidParametersError([FieldProblem("appPassword", f"{SECRET!r} is weak", f"not {SECRET}")])
        return Progress.pending(f"trying {SECRET} and tok-2")

    driver.scripts["EnsureRole"] = talks
    driver.now = Status(
        Role.STANDBY, Health.HEALTHY, message=f"m {SECRET}", promotable_reason="tok-1", facts={"dsn": f"x{SECRET}"}
    )
    driver.problems = [FieldProblem("appPassword", f"{SECRET} is weak", f"not {SECRET}")]
    said: list[str] = []
    async with running(driver) as client:
        for _ in range(3):
            with pytest.raises(DriverCallError) as failed:
                await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 1))
            said += [str(failed.value), repr(failed.value.problems)]
        said.append((await client.ensure_role(EnsureRole(SPEC, Role.FENCED, 1))).message)
        said += [repr(await client.validate(SPEC)), repr(await client.status(SPEC))]
        async for update in client.watch(SPEC):
            said.append(repr(update))
            break
    assert any(MASK in text for text in said)
    for text in [*said, log()]:
        for form in (SECRET, repr(SECRET)[1:-1], json.dumps(SECRET)[1:-1], "hunter2", "tok-1", "tok-2", "from-a-file"):
            assert form not in text
    assert all(json.loads(line)["event"] for line in log().splitlines())


async def test_secrets_of_peers_are_secret_too(driver: Any) -> None:
    async def talks(request: EnsureRole) -> Progress:
        return Progress.pending(f"connecting to the peer with {request.peers[0].parameters['password']}")

    driver.scripts["EnsureRole"] = talks
    async with running(driver) as client:
        peers = (Peer("west", Role.ACTIVE, {"password": "the-peers-own"}),)
        progress = await client.ensure_role(EnsureRole(spec(), Role.STANDBY, 1, peers))
        assert progress.message == f"connecting to the peer with {MASK}"

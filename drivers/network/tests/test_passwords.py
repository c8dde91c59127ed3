"""Passwords of BGP sessions: what a file may hold, and which of two is used when."""

from __future__ import annotations

import os
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from graf_driver_network.bird_config import Session
from graf_driver_network.parameters_bgp import Neighbour
from graf_driver_network.passwords import USED, PasswordError, Passwords, read_password

EAST, EDGE = IPv4Address("198.18.0.20"), IPv4Address("198.18.0.40")


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"x", "x"),
        (b"two words\n", "two words"),
        (b"a\\b#'{;}\r\n", "a\\b#'{;}"),
        (b"x" * 80 + b"\n", "x" * 80),
    ],
)
def test_one_line_end_is_not_part_of_the_password(tmp_path: Path, content: bytes, password: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    assert read_password(str(file)) == password


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"s3cret\n\n", "more than one line"),
        (b's3cret\n"; } protocol static evil {', "more than one line"),
        (b's3cret"; multihop 9; #', "double quote"),
        (b"s3cret" + b"x" * 75, "more than 80 bytes"),
        (b"s3cret" + b"x" * 5000, "more than 80 bytes"),
        ("s3cr\u00e9t s3cret".encode(), "not printable ASCII"),
        (b"s3cret\0", "not printable ASCII"),
        (b"s3cret ", "begins or ends with a blank"),
    ],
)
def test_what_bird_or_the_kernel_could_not_use_is_refused_and_not_shown(
    tmp_path: Path, content: bytes, cause: str
) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(PasswordError, match=cause) as refused:
        read_password(str(file))
    assert refused.value.fix
    assert "s3cret" not in f"{refused.value!r}"


def test_a_file_that_cannot_be_read_is_told_and_holds_nobody_up(tmp_path: Path) -> None:
    with pytest.raises(PasswordError, match="is not there") as missing:
        read_password(str(tmp_path / "none"))
    assert "mount the Secret" in missing.value.fix
    with pytest.raises(PasswordError, match="no regular file"):
        read_password(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PasswordError, match="no regular file"):
        read_password(str(tmp_path / "pipe"))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(PasswordError, match="cannot be read"):
        read_password(str(tmp_path / "loop"))


def test_a_new_password_is_due_when_the_session_is_down_and_not_before(tmp_path: Path) -> None:
    file = tmp_path / "password"
    session = Session(EAST, 65010, Neighbour(EDGE, 65000, str(file)), bfd=None)
    plain = Session(EAST, 65010, Neighbour(IPv4Address("198.18.0.41"), 65000), bfd=None)
    told: list[str] = []
    passwords = Passwords(told.append)
    assert passwords.choose([session, plain]) == {}
    assert not passwords.due([session, plain])
    assert passwords.state(session).startswith("missing: the file is not there")
    assert passwords.state(plain) == ""
    file.write_text("first")
    assert passwords.due([session, plain])
    assert passwords.choose([session, plain]) == {session.name: "first"}
    assert passwords.state(session) == USED
    passwords.saw(session.name, established=True)
    file.write_text("second")
    assert not passwords.due([session])
    assert passwords.choose([session]) == {session.name: "first"}
    assert passwords.state(session) == "a new one waits until the session is down"
    passwords.saw(session.name, established=False)
    assert passwords.due([session])
    assert passwords.choose([session]) == {session.name: "second"}
    file.unlink()
    assert not passwords.due([session])
    assert passwords.choose([session]) == {session.name: "second"}
    assert passwords.state(session).startswith("the last one read is used: ")
    assert set(told) == {"first", "second"}


def test_a_session_that_no_longer_wants_a_password_forgets_it(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first")
    session = Session(EAST, 65010, Neighbour(EDGE, 65000, str(file)), bfd=None)
    passwords = Passwords(lambda _: None)
    passwords.choose([session])
    assert passwords.choose([replace(session, neighbour=Neighbour(EDGE, 65000))]) == {}
    file.unlink()
    assert passwords.choose([session]) == {}

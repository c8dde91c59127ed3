"""The users of a drill against a real server that dies, comes back, hangs and refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pymysql
import pytest

from graf.lab.drill import measure
from graf.lab.drill.clients import CREATE_WRITES, WRITES_TABLE, ClientConfig, read_journal, run_clients

pytestmark = pytest.mark.mariadb


def wait_for(what: str, ready: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < end, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


def config(port: int, output: Path, run: int = 1) -> ClientConfig:
    return ClientConfig("127.0.0.1", port, "app", "secret", "appdb", run, str(output), give_up_s=60)


class Running:
    """Clients in a thread of the test."""

    def __init__(self, settings: ClientConfig) -> None:
        self.output = Path(settings.output)
        self.output.touch()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=run_clients, args=(settings, self.stop))
        self.thread.start()

    def acked(self) -> int:
        return len(read_journal(self.output)[0])

    def end(self) -> None:
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


def ids(port: int) -> set[tuple[int, int]]:
    connection = pymysql.connect(host="127.0.0.1", port=port, user="app", password="secret", database="appdb")
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT client, seq FROM {WRITES_TABLE}")
            return {(int(client), int(seq)) for client, seq in cursor.fetchall()}
    finally:
        connection.close()


def test_clients_keep_their_pace_come_back_at_once_after_a_crash_and_claim_nothing_that_is_not_there(
    mariadb: Any, tmp_path: Path
) -> None:
    server = mariadb
    server.admin("USE appdb", CREATE_WRITES)
    running = Running(config(server.port, tmp_path / "journal"))
    try:
        wait_for("200 writes", lambda: running.acked() >= 200)
        acks, _ = read_journal(running.output)
        times = measure.ack_times(acks)
        pause_ms = statistics.median(after - before for before, after in pairwise(times)) / 1e6
        assert 6 <= pause_ms <= 20, f"a write each {pause_ms:.0f} ms instead of about 10"
        server.kill()
        before = running.acked()
        server.start()
        back_ns = time.monotonic_ns()
        wait_for("writes after the restart", lambda: running.acked() > before + 50)
        first = min(ack.acked_ns for ack in read_journal(running.output)[0] if ack.sent_ns > back_ns)
        assert first - back_ns < 5_000_000_000, "a client that reconnects at once is back within a moment"
    finally:
        running.end()
    acks, errors = read_journal(running.output)
    assert {error.kind for error in errors} <= {"connect", "write"}
    assert errors
    assert measure.lost_ids(acks, ids(server.port)) == []
    assert len({(ack.client, ack.seq) for ack in acks}) == len(acks), "no id is used twice"


def test_a_read_only_server_is_left_and_tried_again_until_it_takes_writes(mariadb: Any, tmp_path: Path) -> None:
    server = mariadb
    server.admin("USE appdb", CREATE_WRITES, "SET GLOBAL read_only=1")
    running = Running(config(server.port, tmp_path / "journal"))
    try:
        wait_for("refusals", lambda: len(read_journal(running.output)[1]) >= 10)
        assert running.acked() == 0
        server.admin("SET GLOBAL read_only=0")
        wait_for("writes", lambda: running.acked() >= 20)
    finally:
        running.end()


def test_a_black_hole_is_left_after_the_time_out_and_not_waited_out(tmp_path: Path) -> None:
    hole = socket.create_server(("127.0.0.1", 0))  # accepts in the kernel and never says a word
    try:
        running = Running(config(hole.getsockname()[1], tmp_path / "journal"))
        try:
            wait_for("three tries of every client", lambda: len(read_journal(running.output)[1]) >= 12)
        finally:
            begun = time.monotonic()
            running.end()
        assert time.monotonic() - begun < 5.0
    finally:
        hole.close()
    acks, errors = read_journal(running.output)
    assert acks == []
    for client in range(4):
        mine = [error.at_ns for error in errors if error.client == client]
        assert all(later - earlier < 600_000_000 for earlier, later in pairwise(mine))


def test_the_process_ends_with_its_input_and_leaves_no_password_on_disk(mariadb: Any, tmp_path: Path) -> None:
    server = mariadb
    server.admin("USE appdb", CREATE_WRITES)
    settings = config(server.port, tmp_path / "journal")
    path = tmp_path / "clients.json"
    settings.save(path)
    assert path.stat().st_mode & 0o077 == 0
    Path(settings.output).touch()
    process = subprocess.Popen([sys.executable, "-m", "graf.lab.drill.clients", str(path)], stdin=subprocess.PIPE)
    try:
        wait_for("writes of the process", lambda: len(read_journal(Path(settings.output))[0]) >= 20)
        assert not path.exists()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait(10)


def test_a_line_that_a_crash_cut_off_claims_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text("A 0 1 100 200\nE 1 300 write OperationalError (2013, 'x')\nA 0 2 300 4")
    acks, errors = read_journal(journal)
    assert [(ack.client, ack.seq) for ack in acks] == [(0, 1)]
    assert errors[0].detail == "OperationalError (2013, 'x')"


def test_the_configuration_survives_its_way_through_the_file(tmp_path: Path) -> None:
    settings = config(3306, tmp_path / "journal", run=7)
    settings.save(tmp_path / "c")
    assert ClientConfig.load(tmp_path / "c") == settings
    assert json.loads((tmp_path / "c").read_text())["run"] == 7

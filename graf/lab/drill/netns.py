"""Connections from inside another network namespace, opened from this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import pymysql

from graf.lab.drill.lab_port import Account

T = TypeVar("T")


def call_in(namespace: str, call: Callable[[], T]) -> T:
    """Runs `call` inside a namespace: in a thread of its own, since a namespace belongs to a thread.

    A socket stays in the namespace where it was made, so a connection that `call` returns can be used by anybody.
    """
    from pyroute2 import netns

    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            netns.setns(namespace, flags=0)
            results.append(call())
        except BaseException as error:  # handed to the caller's thread, whatever it is
            errors.append(error)

    thread = threading.Thread(target=work, name=f"in-{namespace}", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def connect_in(namespace: str, host: str, port: int, account: Account, timeout_s: float = 3.0) -> Any:
    """A database connection from inside a namespace."""
    return call_in(
        namespace,
        lambda: pymysql.connect(
            host=host,
            port=port,
            user=account.user,
            password=account.password,
            database=account.database,
            autocommit=True,
            ssl_disabled=True,  # plain in the lab; a TLS context made for each try costs 25 to 70 ms
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            write_timeout=timeout_s,
        ),
    )

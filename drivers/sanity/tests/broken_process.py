"""Broken variants that only a process of its own can show: `python broken_process.py NAME` serves the fake with one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from graf_driver_fake.backend import Component
from graf_driver_fake.driver import FakeDriver
from graf_driver_sdk.serve import serve
from graf_driver_sdk.types import Spec


def ends_with_an_error() -> int:
    """SIGTERM is told as a failure."""
    return serve(FakeDriver, []) or 3


def keeps_its_mark() -> int:
    """What a kill leaves behind keeps it from starting again."""
    mark = Path(os.environ["GRAF_DRIVER_STATE_DIR"], "running")
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.open("x"):
        status = serve(FakeDriver, [])
    mark.unlink()
    return status


class Telling(FakeDriver):
    """Tells its parameters to whoever reads its output."""

    def component(self, spec: Spec) -> Component:
        sys.stderr.write(f"called with {dict(spec.parameters)}\n")
        return super().component(spec)


def tells_its_parameters() -> int:
    """The output has a secret."""
    return serve(Telling, [])


# What is broken, and the check that must fail.
PROCESSES: dict[str, tuple[Callable[[], int], str]] = {
    "ends-with-an-error": (ends_with_an_error, "crash-sigterm"),
    "keeps-its-mark": (keeps_its_mark, "crash-three-times"),
    "tells-its-parameters": (tells_its_parameters, "secret-in-log"),
}

if __name__ == "__main__":
    raise SystemExit(PROCESSES[sys.argv[1]][0]())

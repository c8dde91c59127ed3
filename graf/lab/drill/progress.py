"""What a drill shows while it runs: one line per step with its time, and the step under way with a clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table


@dataclass
class Step:
    """A step of a run, for the progress and for the report."""

    name: str
    begun_s: float
    seconds: float = 0.0
    outcome: str = "running"
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the report shows it."""
        return {"step": self.name, "seconds": round(self.seconds, 2), "outcome": self.outcome, "detail": self.detail}


class _Now:
    """Renders the step under way each time it is drawn, so that its clock runs."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._spinner = Spinner("dots")

    def __rich__(self) -> Table:
        grid = Table.grid(padding=(0, 1))
        seconds = f"{time.monotonic() - self._step.begun_s:5.1f} s"
        grid.add_row(self._spinner, seconds, escape(self._step.name), f"[dim]{escape(self._step.detail)}[/dim]")
        return grid


class Progress:
    """Steps on a console; lines only where the console is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.steps: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Shows a step while it runs and its time when it is over."""
        step = Step(name, time.monotonic())
        self.steps.append(step)
        live = (
            Live(_Now(step), console=self._console, refresh_per_second=4, transient=True)
            if self._console.is_terminal
            else None
        )
        try:
            if live is not None:
                live.start()
            yield step
            step.outcome = "done"
        except KeyboardInterrupt:
            step.outcome = "interrupted"
            raise
        except BaseException as error:
            step.outcome, step.detail = "failed", " ".join(str(error).split())
            raise
        finally:
            if live is not None:
                live.stop()
            step.seconds = time.monotonic() - step.begun_s
            mark = {"done": "[green]ok[/green]  "}.get(step.outcome, f"[red]{step.outcome}[/red]")
            detail = f"  [dim]{escape(step.detail)}[/dim]" if step.detail else ""
            self._console.print(f"  {mark} {step.seconds:6.1f} s  {escape(step.name)}{detail}")

    def say(self, text: str) -> None:
        """One line beside the steps."""
        self._console.print(text)

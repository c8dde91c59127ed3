"""Errors of a drill, shown to a person by the command line."""

from __future__ import annotations

from graf.lab.errors import LabError


class DrillError(LabError):
    """The drill cannot begin, or cannot go on: what, why, what next."""


class StepError(Exception):
    """A step of a scenario did not reach what it waited for. It fails the run and ends its script."""

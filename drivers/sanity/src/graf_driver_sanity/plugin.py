"""pytest plugin: `pytest --graf-driver-sanity FILE` makes one test of each check.

A Python configuration can also be run inside a test of one's own: `report = await run(config)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from graf_driver_sanity.runner import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option."""
    parser.addoption("--graf-driver-sanity", metavar="FILE", help="check the driver of this configuration")
    strict = "fail also where a guarantee that the driver declares was not looked at"
    parser.addoption("--graf-driver-sanity-strict", action="store_true", help=strict)


def pytest_collection(session: pytest.Session) -> None:
    """Reads the configuration early, so that a mistake in it is told before the tests."""
    name = session.config.getoption("--graf-driver-sanity")
    if name:
        from graf_driver_sanity.config import ConfigError, load

        try:
            session.config.stash[_KEY] = load(Path(name))
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds the checks to what was collected."""
    wanted = config.stash.get(_KEY, None)
    if wanted is None:
        return
    from graf_driver_sanity.registry import all_checks

    run = config.stash[_RUN] = _Run(wanted, strict=config.getoption("--graf-driver-sanity-strict"))
    items.extend(_Item.from_parent(session, name=one.id, run=run) for one in all_checks())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Only what was selected is run."""
    run = session.config.stash.get(_RUN, None)
    if run is not None:
        run.only = [item.name for item in session.items if isinstance(item, _Item)]


class _Run:
    """The one run behind all tests."""

    def __init__(self, config: Any, *, strict: bool) -> None:
        self._config = config
        self.strict = strict
        self._report: Report | None = None
        self.only: list[str] = []

    @property
    def ran(self) -> bool:
        """Whether there is a report."""
        return self._report is not None

    def report(self) -> Report:
        """The report; made at the first call."""
        from graf_driver_sanity.runner import run_sync

        if self._report is None:
            self._report = run_sync(self._config, self.only)
        return self._report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says what was not proved; a skipped test alone is easily overlooked."""
    run = config.stash.get(_RUN, None)
    if run is None or not run.ran or not run.report().unproved:
        return
    from graf_driver_sanity.runner import in_words

    terminalreporter.section("graf-driver-sanity")
    terminalreporter.write_line(in_words(run.report()))


class _Item(pytest.Item):
    """One check."""

    def __init__(self, *, run: _Run, **more: Any) -> None:
        super().__init__(**more)
        self._run = run

    def runtest(self) -> None:
        """Takes the check's outcome from the report."""
        from graf_driver_sanity.runner import START

        report = self._run.report()
        for one in report.unproved:
            if self._run.strict and one.id == self.name and not one.accepted:
                raise _BrokenError(
                    f"{one.requirement} is NOT PROVED: {one.passes} would have passed\nseen: not run: {one.reason}\n"
                    f"do:   configure it, or say under `skip` why it cannot be looked at here"
                )
        for skip in report.skipped:
            if skip.id == self.name:
                pytest.skip(skip.reason)
        for failure in report.failures:
            if failure.id in (self.name, START):
                raise _BrokenError(f"{failure.requirement}\nseen: {failure.seen}\ndo:   {failure.fix}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str:
        """The finding, without a traceback of the kit."""
        return str(excinfo.value)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where pytest says that it is from."""
        return Path(__file__), 0, f"graf-driver-sanity: {self.name}"


class _BrokenError(Exception):
    """A requirement was broken."""


_KEY: pytest.StashKey[Any] = pytest.StashKey()
_RUN: pytest.StashKey[_Run] = pytest.StashKey()

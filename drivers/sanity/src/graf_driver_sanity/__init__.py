"""Conformance kit: checks whether a driver, in any language, keeps the contract `graf.driver.v1`.

What may live here: the requirements of the contract as a table, one check for each, and what is needed to start, call
and kill a driver. What may not: knowledge of one kind of component, and anything of `graf`.

Start reading at `requirements`, then `checks`; `config` says what a driver's author writes down.
"""

from graf_driver_sanity.config import Config, ConfigError, load
from graf_driver_sanity.runner import Failure, Report, Skip, in_words, run, run_sync

__all__ = ["Config", "ConfigError", "Failure", "Report", "Skip", "in_words", "load", "run", "run_sync"]

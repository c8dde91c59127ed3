"""One structured line per event on standard error, without secrets."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from graf_driver_sdk.redact import Redactor


class LineFormatter(logging.Formatter):
    """Writes a record as one JSON object; every text in it, tracebacks included, has gone through the redactor."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(self._clean(line))

    def _clean(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name): self._clean(below) for name, below in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._clean(below) for below in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._redactor.clean(str(value))


def set_up(redactor: Redactor, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Sends every logger's lines to standard error through the redactor."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(redactor))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)


def event(logger: logging.Logger, message: str, level: int = logging.INFO, **fields: object) -> None:
    """Logs an event with fields."""
    logger.log(level, message, extra={"fields": fields})

"""Redaction: secrets from parameters never reach a log line, an error or a status message.

A parameter is secret when its name contains password, secret, token or key (in any case). Its value, and every text
below it, is replaced wherever it appears. An absolute path under a name that ends in `File` is told: it says where the
secret is, and whoever is to put it there needs to know.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, Final

SECRET_NAME: Final = re.compile(r"password|secret|token|key", re.IGNORECASE)
MASK: Final = "[redacted]"
MAX_SECRETS: Final = 1024
# Shorter secrets are replaced as whole words only: replacing each "a" would leave no message readable.
_SHORT: Final = 4


def secrets_of(value: Any, secret: bool = False) -> Iterator[str]:
    """Every secret text inside parameters."""
    if isinstance(value, Mapping):
        for name, below in value.items():
            is_named = SECRET_NAME.search(str(name)) is not None and not _is_path(name, below)
            yield from secrets_of(below, secret or is_named)
    elif isinstance(value, list | tuple):
        for below in value:
            yield from secrets_of(below, secret)
    elif secret and isinstance(value, str):
        yield value
    elif secret and isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
        if math.isfinite(value) and value == int(value):  # a Struct knows only doubles: 42.0 was written as 42
            yield str(int(value))


def _is_path(name: object, value: Any) -> bool:
    return str(name).endswith("File") and isinstance(value, str) and value.startswith("/")


class Redactor:
    """Knows the secrets seen so far, the most recent `MAX_SECRETS`, and takes them out of texts."""

    def __init__(self) -> None:
        self._secrets: OrderedDict[str, None] = OrderedDict()
        self._pattern: re.Pattern[str] | None = None

    def learn(self, parameters: Mapping[str, Any]) -> None:
        """Learns every secret of a component's parameters."""
        for value in secrets_of(parameters):
            self.learn_value(value)

    def learn_value(self, secret: str) -> None:
        """Learns one secret."""
        for text in {secret, secret.strip()} - {""}:
            if text in self._secrets:
                self._secrets.move_to_end(text)
                continue
            self._secrets[text] = None
            if len(self._secrets) > MAX_SECRETS:
                self._secrets.popitem(last=False)
            self._pattern = None

    def clean(self, text: str) -> str:
        """The text without any known secret, also where it appears escaped as in a `repr` or in JSON."""
        if not self._secrets or not text:
            return text
        if self._pattern is None:
            self._pattern = _compile(list(self._secrets))
        return self._pattern.sub(MASK, text)


def _compile(secrets: list[str]) -> re.Pattern[str]:
    forms = {form for secret in secrets for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])}
    # The longest first, so that a secret that contains another one is replaced whole.
    return re.compile("|".join(_form(form) for form in sorted(forms, key=len, reverse=True)))


def _form(text: str) -> str:
    escaped = re.escape(text)
    return rf"(?<!\w){escaped}(?!\w)" if len(text) < _SHORT else escaped

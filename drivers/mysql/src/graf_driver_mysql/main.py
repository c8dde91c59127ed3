"""Entry point: ``graf-driver-mysql``."""

from __future__ import annotations

import sys

from graf_driver_sdk.serve import serve

from graf_driver_mysql.driver import MysqlDriver


def main() -> None:
    """Serves the driver until SIGTERM; the server ends with it."""
    sys.exit(serve(MysqlDriver))

"""Entry point: ``graf-driver-pv``."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Serves the driver until SIGTERM; the volume stays as it is."""
    # Programs are started by fork and exec: gRPC's own fork handlers are for children that go on as Python.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from graf_driver_sdk.serve import serve

    from graf_driver_pv.entry import Entry

    sys.exit(serve(Entry))


if __name__ == "__main__":
    main()

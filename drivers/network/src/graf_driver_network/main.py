"""``graf-driver-network``: serves the network driver on the socket that the controller gave it."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Runs until it is told to end; exit status as ``graf_driver_sdk.serve.serve`` gives it."""
    # BIRD is started by fork and exec: gRPC's own fork handlers are for children that go on as Python, and complain.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from graf_driver_sdk.serve import serve

    from graf_driver_network.driver import NetworkDriver

    sys.exit(serve(NetworkDriver))


if __name__ == "__main__":
    main()

"""Entry point of the process."""

from __future__ import annotations

from graf_driver_sdk.serve import serve

from graf_driver_objects.driver import ObjectsDriver


def main() -> int:
    """Serves until SIGTERM; the exit status."""
    return serve(ObjectsDriver)


if __name__ == "__main__":
    raise SystemExit(main())

"""Entry point of the process."""

from __future__ import annotations

from graf_driver_sdk.serve import serve

from graf_driver_redis.driver import RedisDriver


def main() -> int:
    """Serves until SIGTERM; the exit status."""
    return serve(RedisDriver)


if __name__ == "__main__":
    raise SystemExit(main())

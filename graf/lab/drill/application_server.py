"""The application of a lab with one: answers who it is and what it was configured with.

Runs in a Pod (`python3 -m graf.lab.drill.application_server PORT`). It knows nothing of roles: whether it runs is the
workload driver's to say, and who reaches it is the gate's. The key itself is never told, only its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

PLAN_FILE: Final = Path("/etc/vcu/plan/plan")
KEY_FILE: Final = Path("/etc/vcu/key/key")


def digest_of(key: str) -> str:
    """What is told of a key."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def answer(site: str, plan: Path, key: Path) -> bytes:
    """One answer; the configuration is that of this Pod's beginning or newer."""
    return json.dumps({"site": site, "plan": _read(plan), "key": digest_of(_read(key))}).encode() + b"\n"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # told as such: an application without its configuration is seen, not guessed


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """Whatever the path."""
        body = answer(os.environ["SITE"], PLAN_FILE, KEY_FILE)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class' name
        """Nothing: a line for each of a hundred answers a second helps nobody."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


def main() -> None:
    """Serves until it is ended."""
    # The first process of a container ignores what it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    _Server(("0.0.0.0", int(sys.argv[1])), _Requests).serve_forever(0.2)  # noqa: S104 - the gate says who reaches it


if __name__ == "__main__":
    main()

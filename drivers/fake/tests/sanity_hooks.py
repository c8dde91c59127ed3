"""A client of the fake, for graf-driver-sanity: `sanity_hooks.py write|read|wipe|archived FOLDER`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(what: str, folder: str) -> str:
    """Does it; ends with a message when the component refuses."""
    data = Path(folder, os.environ["GRAF_SANITY_SITE"])
    if what == "wipe":
        (data / "writes.json").unlink(missing_ok=True)
        return ""
    if what == "archived":
        return " ".join(json.loads(Path(os.environ["GRAF_SANITY_VALUE"]).read_text()))
    if what == "read":
        return " ".join(json.loads((data / "writes.json").read_text()))
    return write(data, os.environ["GRAF_SANITY_VALUE"])


def write(data: Path, value: str) -> str:
    """One write as a client does it."""
    inbox = data / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / value).touch()
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        if (inbox / f"{value}.accepted").exists():
            return value
        if (inbox / f"{value}.refused").exists():
            raise SystemExit(f"{value} was refused")
        time.sleep(0.01)
    raise SystemExit(f"nobody answered {value}")


if __name__ == "__main__":
    sys.stdout.write(main(*sys.argv[1:]))

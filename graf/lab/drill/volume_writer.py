"""An application of a drill that keeps files in a volume: numbered records, each durable before it counts.

Runs at each site as a process of that site (`python -m graf.lab.drill.volume_writer CONFIG.json`), so that it dies and
stands still with it. It opens the volume's `current` anew for each record: where its site does not serve, it finds
nothing and waits. Like every application of a volume it begins when the driver's socket is there: until then nobody
knows whether a link that the site's last crash has left still leads to what is served. What is durable goes to a
journal on the site's own disk, a line per record: `sent_ns acked_ns name`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

RECORD_BYTES = 16_384
FOLDER = "records-"
PART = ".part"


@dataclass(frozen=True, slots=True)
class WriterConfig:
    """What to write.

    Attributes:
        current: The volume as applications open it, as the site sees it.
        journal: Where what is durable is told, as the site sees it.
        run: Records of other runs are removed.
        driver: Socket of the driver, which is waited for.
        give_up_s: End of it, however long the drill lives.
    """

    current: str
    journal: str
    site: str
    run: int
    driver: str
    interval_s: float = 0.1
    idle_s: float = 0.02
    give_up_s: float = 900.0

    def save(self, path: Path) -> None:
        """For the process to read."""
        path.write_text(json.dumps(asdict(self)))


def content_of(name: str) -> bytes:
    """What a record holds: made from its name, so that a part of one, or another one's, is known as such."""
    pattern = hashlib.sha256(name.encode()).digest()
    return (name.encode() + b"\n" + pattern * (RECORD_BYTES // len(pattern)))[:RECORD_BYTES]


def write_record(folder: Path, name: str) -> None:
    """Writes one record; it has its name when all of it is durable.

    Raises:
        OSError: The folder is not there, or cannot be written.
    """
    part = folder / f".{name}{PART}"
    with part.open("wb") as file:
        file.write(content_of(name))
        file.flush()
        os.fsync(file.fileno())
    part.rename(folder / name)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def record_name(site: str, begun_ns: int, number: int) -> str:
    """Names of one process come in the order of writing."""
    return f"{site}-{begun_ns:020d}-{number:07d}"


def run(config: WriterConfig, stopped: Callable[[], bool] = lambda: False) -> None:
    """Writes until it is stopped or its time is over."""
    begun_ns = time.monotonic_ns()
    while not stopped() and not Path(config.driver).exists():
        time.sleep(config.idle_s)
    current, own = Path(config.current), f"{FOLDER}{config.run}"
    number, cleared = 1, False
    with Path(config.journal).open("ab", buffering=0) as journal:
        while not stopped() and (time.monotonic_ns() - begun_ns) / 1e9 < config.give_up_s:
            name, sent_ns = record_name(config.site, begun_ns, number), time.monotonic_ns()
            try:
                (current / own).mkdir(exist_ok=True)
                if not cleared:
                    _clear(current, own)
                    cleared = True
                write_record(current / own, name)
            except OSError:
                time.sleep(config.idle_s)
                continue
            journal.write(f"{sent_ns} {time.monotonic_ns()} {name}\n".encode())
            number += 1
            time.sleep(config.interval_s)


def _clear(current: Path, own: str) -> None:
    for folder in current.glob(f"{FOLDER}*"):
        if folder.name != own:
            with contextlib.suppress(OSError):
                shutil.rmtree(folder)


if __name__ == "__main__":
    run(WriterConfig(**json.loads(Path(sys.argv[1]).read_text())))

"""What was only at this site, for people: beside archived data, the divergent transactions as a binary log of their
own, as a readable dump, and an index of them. Blocking: call it in a thread.

The archive's ``data/`` has everything already. This is the part that somebody must look at, because it was written and
is not in the group's history any more: perhaps acknowledged by a lone site, perhaps money.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from graf_driver_mysql import binlog
from graf_driver_mysql.bootstrap import sync
from graf_driver_mysql.engine import Engine
from graf_driver_mysql.history import History
from graf_driver_mysql.programs import MissingProgramError, program

FOLDER = "tail"
BINARY = "tail.binlog"
DUMP = "tail.sql"
INDEX = "index.txt"
ASSESSMENT = "graf-assessment.txt"
_DUMP_TIMEOUT_S = 300
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Told:
    """What was written: ``folder`` has the three files, ``dump_missing`` says why there are only two."""

    folder: Path
    transactions: int
    dump_missing: str = ""
    without: str = ""  # what was purged from the log before it was put aside

    def __str__(self) -> str:
        what = "1 transaction that was" if self.transactions == 1 else f"{self.transactions} transactions that were"
        if self.without:
            what = f"(not in the log any more, and only in the data: {self.without}) {what}"
        if self.dump_missing:
            return f"{what} only here: {self.folder}/{INDEX}, {BINARY}; no readable dump: {self.dump_missing}"
        return f"{what} only here: {self.folder}/{DUMP} (readable), {INDEX}, {BINARY}"


@dataclass(frozen=True, slots=True)
class _Part:
    log: binlog.Log
    transactions: tuple[binlog.Transaction, ...]


def unfinished(archive: Path) -> tuple[Path, ...]:
    """Archives of divergent data that have no tail yet: the driver was killed between the one and the other."""
    return tuple(one for one in _divergent_archives(archive) if not (one / FOLDER).is_dir())


def newest_of(archive: Path, epoch: int) -> str:
    """Where divergent data was put aside in an epoch, also by another run of the driver; "" where none was."""
    of = re.compile(rf"-epoch{epoch}(-\d+)?$")
    return max((str(one) for one in _divergent_archives(archive) if of.search(one.name)), default="")


def _divergent_archives(archive: Path) -> list[Path]:
    """Those with all their data: without, the site died while it was put aside, and did it anew."""
    return [
        assessment.parent
        for assessment in sorted(archive.glob(f"*/{ASSESSMENT}"))
        if (assessment.parent / "data").is_dir() and "\nverdict: DIVERGED\n" in assessment.read_text(encoding="utf-8")
    ]


def active_position(archive: Path) -> str:
    """What the active had when the data was put aside."""
    lines = (archive / ASSESSMENT).read_text(encoding="utf-8").splitlines()
    return next((line.removeprefix("active: ") for line in lines if line.startswith("active: ")), "")


def write(engine: Engine, archive: Path, active: History) -> Told:
    """Writes the tail of archived data; it is there as a whole or not at all.

    Args:
        engine: whose binary log it is.
        archive: the folder that has ``data/``.
        active: what the active site has; everything else is the tail.

    Raises:
        OSError, BinlogError: the archive cannot be read or written.
    """
    fresh = archive / f"{FOLDER}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    parts, without = _divergent(engine, archive / "data", active)
    _copy(parts, fresh / BINARY)
    missing = _dump(engine, fresh)
    _index(engine, parts, fresh / INDEX, missing, without)
    for path in fresh.iterdir():
        sync(path)
    sync(fresh)
    folder = fresh.rename(archive / FOLDER)
    sync(archive)
    return Told(folder, sum(len(part.transactions) for part in parts), missing, without)


def _divergent(engine: Engine, data: Path, active: History) -> tuple[tuple[_Part, ...], str]:
    """The files with something divergent, oldest first, and what is divergent and in no file any more.

    Each file says what was written before it. Going back from the newest one, the first whose past is the active's
    too ends the search: what comes before it is not divergent. Where there is none, the log was purged above its limit
    while the site that is active now was away.
    """
    found: list[_Part] = []
    without = ""
    for path in reversed(binlog.files(data)):
        log = binlog.read(path)
        mine = tuple(one for one in log.transactions if not one.gtid or not active.covers(engine.history(one.gtid)))
        if mine:
            found.append(_Part(log, mine))
        without = "" if log.before is None else ", ".join(engine.history(log.before).beyond(active))
        if log.before is not None and not without:
            break
    return tuple(reversed(found)), without


def _copy(parts: tuple[_Part, ...], target: Path) -> None:
    """A binary log that has the divergent transactions and nothing else; any client program reads and replays it."""
    with target.open("wb") as out:
        for number, part in enumerate(parts):
            out.write(part.log.head if number == 0 else part.log.head[len(binlog.MAGIC) :])
            with part.log.path.open("rb") as source:
                for one in part.transactions:
                    source.seek(one.start)
                    left = one.end - one.start
                    while left and (chunk := source.read(min(left, _CHUNK_BYTES))):
                        out.write(chunk)
                        left -= len(chunk)


def _dump(engine: Engine, folder: Path) -> str:
    """The readable form, by the product's own program; returns why there is none, "" when there is."""
    name, package = engine.reader
    try:
        command = [program(name, package), "--no-defaults", "--verbose", "--base64-output=DECODE-ROWS", BINARY]
    except MissingProgramError as error:
        return str(error)
    target = folder / DUMP
    with target.open("wb") as out:
        try:
            done = subprocess.run(
                command, stdout=out, stderr=subprocess.PIPE, cwd=folder, timeout=_DUMP_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            target.unlink()
            return f"{name} did not end within {_DUMP_TIMEOUT_S} s; run it by hand on {BINARY}"
    if done.returncode != 0:
        target.unlink()
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return f"{name} failed (status {done.returncode}): {' | '.join(said[-3:])}"
    return ""


def _index(engine: Engine, parts: tuple[_Part, ...], target: Path, missing: str, without: str) -> None:
    readable = f"readable, with every changed row: {DUMP}" if not missing else f"no readable dump: {missing}"
    lines = [
        "# What was written at this site and is not in the group's history. Oldest first.",
        f"# binary, these transactions only: {BINARY}; {readable}",
        f"# by hand: {engine.reader[0]} --verbose --base64-output=DECODE-ROWS {BINARY}",
        *([f"# not here, as the log was purged before, and only in data/: {without}"] if without else []),
        "# transaction, time (UTC), file:first-last byte, tables, statements where they were logged",
    ]
    for part in parts:
        for one in part.transactions:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(one.at_s))
            where = f"data/{part.log.path.name}:{one.start}-{one.end}"
            lines.append("\t".join((one.gtid or "(tagged, see the dump)", at, where, ",".join(one.tables) or "-")))
            lines.extend(f"\t{statement}" for statement in one.statements)
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")

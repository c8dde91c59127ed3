"""1 GiB in 10,000 files, 1 % changed: the driver's sync against plain rsync, in the same run.

What is timed, from the last byte of the change on:

- `driver`: until the standby has the complete, verified, durable generation with every change in it. Two driver
  processes, mutual TLS, continuous mode; the active one finds the change by file events.
- `rsync`: one `rsync -a --delete` of the same tree to a second copy, from rsync's own daemon by plain TCP: no TLS, no
  checksums, no sync to disk.

The two take turns. Prints one line of JSON per round and a summary; `--out` keeps them as a file.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from graf_driver_pv.testing import SiteUnderTest, free_port, two_sites
from graf_driver_sdk.types import Role

FOLDERS = 100


def fill(tree: Path, files: int, size: int) -> list[Path]:
    """The volume."""
    paths = []
    for index in range(files):
        path = tree / f"d{index % FOLDERS:03d}" / f"f{index:05d}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(size))
        paths.append(path)
    return paths


def change(paths: list[Path], share: float, size: int) -> set[Path]:
    """Rewrites a share of the files."""
    chosen = set(random.sample(paths, max(1, round(len(paths) * share))))
    for path in chosen:
        path.write_bytes(os.urandom(size))
    return chosen


def daemon(folder: Path, tree: Path, port: int) -> subprocess.Popen[bytes]:
    """Plain rsync's own daemon."""
    config = folder / "rsyncd.conf"
    config.write_text(f"use chroot = no\nuid = root\ngid = root\n[v]\npath = {tree}\nread only = yes\n")
    return subprocess.Popen(
        ["rsync", "--daemon", "--no-detach", f"--config={config}", f"--port={port}", "--address=127.0.0.1"]
    )


def plain(target: Path, port: int) -> float:
    """One plain rsync; gives its wall time."""
    begun = time.perf_counter()
    subprocess.run(["rsync", "-a", "--delete", f"rsync://127.0.0.1:{port}/v/", f"{target}/"], check=True)
    return time.perf_counter() - begun


async def synced(west: SiteUnderTest, chosen: set[Path], tree: Path, before: str) -> str:
    """Waits until the standby has a complete generation with every changed file; gives its name."""
    while True:
        names = west.generations
        if names and names[-1] > before:
            newest = west.volume / "generations" / names[-1] / "tree"
            if all(_same(newest / path.relative_to(tree), path) for path in chosen):
                return names[-1]
            before = names[-1]
        await asyncio.sleep(0.002)


def _same(copy: Path, original: Path) -> bool:
    try:
        one, other = copy.stat(), original.stat()
    except FileNotFoundError:
        return False
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


async def run(folder: Path, files: int, size: int, share: float, rounds: int) -> dict[str, Any]:
    """The whole comparison."""
    results: list[dict[str, float]] = []
    async with two_sites(folder, rpoSeconds=600, intervalSeconds=0.1) as (east, west):
        await east.ensure(Role.ACTIVE, 1)
        tree = east.volume / "live" / "tree"
        paths = fill(tree, files, size)
        await west.ensure(Role.STANDBY, 1, "east")
        begun = time.perf_counter()
        newest = await synced(west, set(paths), tree, "")
        first_s = time.perf_counter() - begun
        port = free_port()
        server = daemon(folder, tree, port)
        try:
            await asyncio.sleep(1)
            target = folder / "plain"
            target.mkdir()
            first_plain_s = plain(target, port)
            scans = (await east.status()).facts["full_scans"]
            for number in range(rounds + 1):
                await idle(east, west)
                begun = time.perf_counter()
                chosen = change(paths, share, size)
                written_s = time.perf_counter() - begun
                begun = time.perf_counter()
                newest = await synced(west, chosen, tree, newest)
                driver_s = time.perf_counter() - begun
                await idle(east, west)
                plain_s = plain(target, port)
                told = {
                    "round": number,
                    "driver_s": round(driver_s, 3),
                    "rsync_s": round(plain_s, 3),
                    "ratio": round(driver_s / plain_s, 3),
                    "writing_s": round(written_s, 3),
                    "generation_s": float((await east.status()).facts["last_generation_seconds"]),
                    "copy_s": float((await west.status()).facts["last_copy_seconds"]),
                    "load": round(os.getloadavg()[0], 1),
                }
                print(json.dumps(told), flush=True)  # noqa: T201 - what it is for
                if number:  # the first one warms the caches of both
                    results.append(told)
            after = (await east.status()).facts["full_scans"]
        finally:
            server.terminate()
            server.wait()
    ratios = [result["ratio"] for result in results]
    return {
        "files": files,
        "bytes": files * size,
        "changed": share,
        "rounds": results,
        "first_copy_s": round(first_s, 2),
        "first_plain_rsync_s": round(first_plain_s, 2),
        "median_driver_s": statistics.median(result["driver_s"] for result in results),
        "median_rsync_s": statistics.median(result["rsync_s"] for result in results),
        "median_ratio": statistics.median(ratios),
        "full_scans_during_rounds": int(after) - int(scans),
    }


async def idle(east: SiteUnderTest, west: SiteUnderTest) -> None:
    """Until neither site has anything left to do: a round must not pay for the one before."""
    while True:
        status, other = await east.status(), await west.status()
        ready = [site.volume / "clone" / site.generations[-1] for site in (east, west)]
        if status.position == other.position and all(path.exists() for path in ready):
            return
        await asyncio.sleep(0.05)


def main() -> int:
    """Runs it; 1 when the driver costs more than 1.3 times plain rsync, or looked through the whole tree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=(1 << 30) // 10_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pv-bench-") as folder:
        told = asyncio.run(run(Path(folder), arguments.files, arguments.size, arguments.share, arguments.rounds))
    text = json.dumps(told, indent=1)
    print(text)  # noqa: T201
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    return 0 if told["median_ratio"] <= 1.3 and told["full_scans_during_rounds"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())

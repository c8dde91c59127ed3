"""A campaign without third-party packages, for PyPy: `python -m graf.sim SEEDS [--first N] [--workers N]`."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from functools import partial

from graf.sim.campaign import Campaign, chunks, play_chunk, tune


def main() -> int:
    """Plays a campaign and prints its summary as JSON; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m graf.sim", description=__doc__)
    parser.add_argument("seeds", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after that time with what is done by then")
    parser.add_argument("--copies", action="store_true", help="groups whose data is only copied")
    options = parser.parse_args()
    began, told = time.monotonic(), 0.0
    campaign = Campaign(copies=options.copies)
    with multiprocessing.get_context("spawn").Pool(options.workers, tune) as pool:
        for part in pool.imap(partial(play_chunk, copies=options.copies), chunks(options.first, options.seeds)):
            campaign.add(part)
            spent = time.monotonic() - began
            if spent - told > 10:
                told = spent
                rate = campaign.seeds / spent
                left = (options.seeds - campaign.seeds) / rate
                line = f"{campaign.seeds} seeds, {len(campaign.violations)} violations, {rate:.0f}/s, {left:.0f} s left"
                print(line, file=sys.stderr, flush=True)  # noqa: T201
            if options.minutes and spent > options.minutes * 60:
                break
    spent = time.monotonic() - began
    summary = campaign.summary()
    summary["seconds"] = round(spent, 1)
    summary["workers"] = options.workers
    summary["python"] = f"{sys.implementation.name} {sys.version.split()[0]}"
    print(json.dumps(summary, indent=2))  # noqa: T201
    return 1 if campaign.violations or campaign.unreached else 0


if __name__ == "__main__":
    sys.exit(main())

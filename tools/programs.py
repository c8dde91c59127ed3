"""Gets the cluster programs (etcd, Kubernetes, containerd, CNI, runc) that the lab and the integration tests run."""

from __future__ import annotations

import sys

from graf.lab import binaries
from graf.lab.errors import LabError


def main() -> int:
    """Fetches or builds what is missing; says where it is."""
    try:
        directory = binaries.ensure(lambda text: print(f"... {text}", file=sys.stderr, flush=True))
    except LabError as problem:
        print(f"error: {problem.what}\n  why:  {problem.why}\n  next: {problem.remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    print(f"cluster programs: {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

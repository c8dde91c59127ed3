"""Says whether the committed gRPC stubs are what the .proto files give; writes nothing into the tree.

The stubs are generated into a temporary copy, so the check works beside other work and does not depend on Git.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Folder that the .proto paths (and so the imports in the stubs) are relative to -> the .proto files.
SOURCES = {
    "drivers/sdk/src": ("graf_driver_sdk/v1/driver.proto",),
    ".": ("graf/shell/proto/peer.proto", "graf/shell/proto/manager.proto"),
}
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def stale(work: Path) -> list[str]:
    """Stubs that differ from what the .proto files give, as paths in the repository."""
    found: list[str] = []
    for folder, protos in SOURCES.items():
        out = work / folder
        for proto in protos:
            (out / proto).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / folder / proto, out / proto)
        plugins = [f"--{kind}={out}" for kind in ("python_out", "grpc_python_out")]
        plugins += [f"--{kind}=quiet:{out}" for kind in ("mypy_out", "mypy_grpc_out")]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", str(out), *plugins, *protos], check=True)
        for proto in protos:
            for suffix in SUFFIXES:
                name = proto.removesuffix(".proto") + suffix
                committed, made = ROOT / folder / name, out / name
                if not committed.is_file() or committed.read_bytes() != made.read_bytes():
                    found.append(str(Path(folder) / name))
    return found


def main() -> int:
    """Checks; 0 when all stubs are fresh."""
    with tempfile.TemporaryDirectory() as work:
        problems = stale(Path(work))
    for path in problems:
        print(f"{path} is not what its .proto gives; run: make generate", file=sys.stderr)
    if not problems:
        print("gRPC stubs are fresh")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

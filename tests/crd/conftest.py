"""The example repository, as the base that each test breaks in one place."""

from __future__ import annotations

from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "gitops" / "example"


@pytest.fixture
def tree() -> dict[str, bytes]:
    """Path -> content of the example repository."""
    return {str(path.relative_to(EXAMPLE)): path.read_bytes() for path in EXAMPLE.rglob("*") if path.is_file()}

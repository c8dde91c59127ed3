"""Fixtures of the tests against a real API server."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from cluster_support import api, authority, git, start_manager

__all__ = ["api", "authority", "git", "start_manager"]

"""Endpoints of voters outlive the declaration for as long as the voter counts."""

from __future__ import annotations

from pathlib import Path

from graf.controller.endpoints import Endpoints


def book(path: Path | None) -> Endpoints:
    return Endpoints(path, lambda write: write())


def test_what_is_no_longer_declared_is_kept_over_a_restart_until_it_counts_no_more(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    before = book(path)
    before.declare("g", {"west": "w:1", "witness": "x:1"})
    before.declare("g", {"west": "w:2", "w2": "y:1"})
    after = book(path)
    after.declare("g", {"west": "w:2", "w2": "y:1"})
    assert after.of("g") == {"west": "w:2", "w2": "y:1", "witness": "x:1"}
    after.keep_only("g", ["west", "w2"])
    assert book(path).of("g") == {"west": "w:2", "w2": "y:1"}


def test_what_is_declared_wins_over_what_a_peer_says(tmp_path: Path) -> None:
    endpoints = book(tmp_path / "endpoints.json")
    endpoints.declare("g", {"west": "w:1"})
    endpoints.heard("g", {"west": "w:9", "w2": "y:1"})
    assert endpoints.of("g") == {"west": "w:1", "w2": "y:1"}
    assert endpoints.of("other") == {}


def test_a_damaged_file_costs_only_what_is_not_declared(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.json"
    for damage in ("{", "[1]", '{"g": 3}'):
        path.write_text(damage)
        endpoints = book(path)
        endpoints.declare("g", {"west": "w:1"})
        assert endpoints.of("g") == {"west": "w:1"}

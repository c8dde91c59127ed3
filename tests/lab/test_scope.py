"""A lab that is made with a scope: what it puts into Git must be what the manager takes."""

import shutil
from pathlib import Path

import yaml

from graf.crd.gitops import load
from graf.lab.drill.local_writer import longest_pause_ms
from graf.lab.gitserver import EXAMPLE
from graf.lab.scope import add_to_example


def test_the_example_with_a_scope_is_taken_as_a_whole(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(EXAMPLE, tree)
    add_to_example(tree)
    files = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    repository = load(files)
    assert list(repository.problems) == []
    group = yaml.safe_load(files["groups/vcu-db.yaml"])
    scope = group["spec"]["components"][0]["parameters"]["scope"]
    assert (scope["databases"], scope["tables"]) == (["vcu"], ["shared.orders"])


def test_the_longest_pause_counts_from_the_first_moment_to_the_last() -> None:
    assert longest_pause_ms([], 0, 5_000_000) == 5.0
    assert longest_pause_ms([1_000_000, 2_000_000, 9_000_000], 0, 10_000_000) == 7.0
    assert longest_pause_ms([1_000_000], 0, 10_000_000) == 9.0

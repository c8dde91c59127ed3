"""The layers hold on the tree, and each contract fails when it is broken on purpose."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "graf": ROOT,
    "graf_orchestrator": ROOT / "orchestrator/src",
    "graf_driver_sdk": ROOT / "drivers/sdk/src",
    "graf_driver_fake": ROOT / "drivers/fake/src",
    "graf_driver_mysql": ROOT / "drivers/mysql/src",
    "graf_driver_network": ROOT / "drivers/network/src",
    "graf_driver_redis": ROOT / "drivers/examples/redis/src",
}
LAYERS = "Layers: imports go one way"
PURE = "Pure packages do no I/O"
SCENARIO = "Scenario files are values"
SIMULATOR = "The simulator does no I/O"
SDK_ONLY = "Drivers import only the SDK"
INDEPENDENT = "Drivers are independent of each other"

BROKEN = [
    *[
        (PURE, "graf.core.voter", f"import {name}")
        for name in ("asyncio", "time", "random", "socket", "os", "grpc", "kopf", "datetime", "uuid", "pymysql")
    ],
    (PURE, "graf.core.lease", "from time import monotonic_ns"),
    (PURE, "graf.api.timing", "import time"),
    (PURE, "graf.core.campaign", "def late() -> None:\n    import random"),
    *[(SCENARIO, "graf.scenario.model", f"import {name}") for name in ("yaml", "pathlib", "time", "importlib", "grpc")],
    (LAYERS, "graf.scenario.model", "import graf.crd.base"),
    (LAYERS, "graf.scenario.model", "import graf.core.voter"),
    (LAYERS, "graf.core.voter", "import graf.scenario.model"),
    (LAYERS, "graf.scenario.steps", "import graf.shell.scenarios"),
    (LAYERS, "graf.shell.links", "import graf.controller.agent"),
    (LAYERS, "graf.shell.links", "import graf_orchestrator.operator"),
    (LAYERS, "graf.core.voter", "import graf.crd.policy"),
    (LAYERS, "graf.crd.policy", "import graf.core.voter"),
    (LAYERS, "graf.api.values", "import graf.core.voter"),
    (LAYERS, "graf.core.voter", "import graf.ports.group_api"),
    (LAYERS, "graf.ports.group_api", "import graf.shell.links"),
    (LAYERS, "graf.controller.agent", "import graf.lab.lab"),
    (LAYERS, "graf.cli.main", "import graf.controller.agent"),
    (LAYERS, "graf_orchestrator.operator", "import graf.controller.agent"),
    *[(SIMULATOR, "graf.sim.faults", f"import {name}") for name in ("asyncio", "time", "os", "threading", "typer")],
    (LAYERS, "graf.core.voter", "import graf.sim.kernel"),
    (LAYERS, "graf.author.scaffold", "import graf.lab.lab"),
    (LAYERS, "graf.sim.world", "import graf.controller.agent"),
    (SDK_ONLY, "graf_driver_sdk", "import graf.api.values"),
    (SDK_ONLY, "graf_driver_fake", "import graf.core.voter"),
    (SDK_ONLY, "graf_driver_mysql", "import graf.shell.links"),
    (SDK_ONLY, "graf_driver_network", "import graf_orchestrator.operator"),
    (INDEPENDENT, "graf_driver_mysql", "import graf_driver_network"),
]


ALLOWED_IN_PURE = {"__future__", "collections", "dataclasses", "enum", "graf", "types", "typing"}


def contracts() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return [str(contract["name"]) for contract in settings["contracts"]]


def lint(folder: Path, *search: Path) -> subprocess.CompletedProcess[str]:
    """Runs import-linter with the project's own contracts over the packages found first on `search`."""
    program = "import sys; from importlinter.cli import lint_imports_command as command; command()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, search)), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-P", "-c", program, "--config", str(folder / "pyproject.toml"), "--no-cache"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def broken_contracts(result: subprocess.CompletedProcess[str]) -> set[str]:
    out = result.stdout.splitlines()
    return {name for name in contracts() if any(line.strip() == f"{name} BROKEN" for line in out)}


@pytest.fixture(scope="module")
def skeleton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every module of the packages, with nothing in it: one broken import is then the only one."""
    folder = tmp_path_factory.mktemp("skeleton")
    (folder / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for package, source in SOURCES.items():
        for path in (source / package).rglob("*.py"):
            copy = folder / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.touch()
    return folder


def test_the_tree_keeps_every_contract() -> None:
    result = lint(ROOT, *SOURCES.values())
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_empty_skeleton_keeps_every_contract(skeleton: Path) -> None:
    result = lint(skeleton, skeleton)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(("contract", "module", "statement"), BROKEN)
def test_a_contract_broken_on_purpose_fails_by_name(skeleton: Path, contract: str, module: str, statement: str) -> None:
    path = skeleton.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    path.write_text(statement + "\n")
    try:
        result = lint(skeleton, skeleton)
    finally:
        path.write_text("")
    assert result.returncode == 1, result.stdout + result.stderr
    assert contract in broken_contracts(result), result.stdout


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("graf/core", ALLOWED_IN_PURE),
        ("graf/api", ALLOWED_IN_PURE),
        ("graf/scenario", ALLOWED_IN_PURE | {"pydantic", "pydantic_core"}),
    ],
)
def test_pure_packages_import_nothing_but_the_few_allowed_modules(package: str, allowed: set[str]) -> None:
    """The contract names what is forbidden; this names all that is allowed, so nothing new slips between."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: write the whole name of what is imported"
                names = [node.module or ""]
            strange = {name.split(".")[0] for name in names} - allowed
            assert not strange, f"{path} imports {strange}; it may use {allowed}"


def test_every_contract_is_broken_by_some_case() -> None:
    assert {contract for contract, _, _ in BROKEN} == set(contracts())

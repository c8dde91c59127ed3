"""Reads scenario files: the known disasters that come with GRAF, or one from a path."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from graf.crd.base import Problem
from graf.crd.parse import parse_yaml, problem_of
from graf.scenario.model import ScenarioFile

REFERENCE = "see docs/reference/scenarios.md for what is allowed here"


class ScenarioError(Exception):
    """A scenario file that cannot be used. Every problem names file, field, cause and fix."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


def parse_scenario(content: bytes, file: str) -> ScenarioFile:
    """The model of a file's content.

    Raises:
        ScenarioError: With every problem that was found.
    """
    documents, problem = parse_yaml(content)
    if problem is not None:
        raise ScenarioError([_in_file(problem, file)])
    if len(documents) != 1 or not isinstance(documents[0], dict):
        cause = f"holds {len(documents)} documents" if len(documents) != 1 else "is not an object"
        raise ScenarioError([Problem("", cause, "write one object with name, summary, source, steps, expect", file)])
    try:
        scenario = ScenarioFile.model_validate(documents[0])
    except ValidationError as error:
        found = [problem_of(detail, ScenarioFile) for detail in error.errors(include_url=False)]
        raise ScenarioError([_in_file(problem, file) for problem in found]) from None
    stem = Path(file).stem
    if scenario.name != stem:
        fix = f"name the file {scenario.name}.yaml, or the scenario {stem}"
        raise ScenarioError([Problem("name", f"{scenario.name!r} is not the name of the file", fix, file)])
    return scenario


def _in_file(problem: Problem, file: str) -> Problem:
    fix = problem.fix.replace("see docs/reference/api.md for what is allowed here", REFERENCE)
    return Problem(problem.field.rstrip("."), problem.cause, fix, file)


def load_scenario(path: Path) -> ScenarioFile:
    """The model of a file on disk.

    Raises:
        ScenarioError: It cannot be read or used.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ScenarioError([Problem("", f"cannot be read: {error.strerror}", "check the path", str(path))]) from error
    return parse_scenario(content, str(path))


@cache
def builtin_scenarios() -> dict[str, ScenarioFile]:
    """The known disasters, by name."""
    folder = resources.files("graf.scenario").joinpath("files")
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".yaml")), key=lambda item: item.name)
    scenarios = (parse_scenario(item.read_bytes(), item.name) for item in files)
    return {scenario.name: scenario for scenario in scenarios}

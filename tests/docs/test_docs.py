"""What the documentation names exists: files, sections, make targets, commands, configuration fields."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from graf_orchestrator.config import ManagerConfig
from pydantic import BaseModel

from graf.controller.config import ControllerConfig, WitnessConfig
from graf.core.contender import CONTENDER_RULES
from graf.core.holder import HOLDER_RULES
from graf.core.voter import CAMPAIGN_RULES

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
_LINK = re.compile(r"(?<!!)\[[^]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def anchors(page: Path) -> set[str]:
    """Anchors that the headings of a page get."""
    headings = re.findall(r"^#+ +(.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        missing = not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file))
        broken += [target] if missing else []
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [REPOSITORY / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or not page.is_file() or page.suffix != ".md":
            continue
        seen.add(page)
        todo += [(page.parent / target.partition("#")[0]).resolve() for target in _LINK.findall(page.read_text())]
    assert [name_of(page) for page in PAGES if page not in seen and "changelog.d" not in page.parts] == []


@cache
def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_only_make_targets_that_exist(page: Path) -> None:
    code = re.findall(r"`([^`\n]+)`", page.read_text()) + _FENCE.findall(page.read_text())
    named = {each for text in code for each in re.findall(r"(?:^|&& |; )make ((?:[a-z-]+ ?)+)", text, re.MULTILINE)}
    words = {word for line in named for word in line.split()}
    assert words <= targets()


def test_every_make_target_can_be_planned() -> None:
    wanted = sorted(targets() - {"help"})
    done = subprocess.run(
        ["make", "--dry-run", *wanted], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr


def commands(text: str) -> set[tuple[str, ...]]:
    """`graf` commands in a page, without their options and arguments."""
    found = re.findall(r"(?:^|[`/ ])graf ((?:lab|drill) [a-z]+|status|switchover|events)\b", text, re.MULTILINE)
    return {tuple(each.split()) for each in found}


def test_the_pages_name_only_commands_that_exist() -> None:
    named = set().union(*(commands(page.read_text()) for page in PAGES))
    assert ("drill", "run") in named
    # In a process of its own: sub-commands come from entry points. In one for all: to start it takes longest.
    program = [sys.executable, "-c", ASK_FOR_HELP, *(" ".join(command) for command in sorted(named))]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert re.findall(r"^known: (.*)$", done.stdout, re.MULTILINE) == [" ".join(command) for command in sorted(named)]


ASK_FOR_HELP = """
import sys
from graf.cli.main import main
for command in sys.argv[1:]:
    sys.argv = ["graf", *command.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"graf {command} --help ends with {end.code}")
    print("known:", command)
"""


def fields(model: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in model.model_fields.items():
        path = prefix + (field.alias or name)
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found |= fields(inner, f"{path}.") if nested else {path}  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize(
    ("heading", "model"),
    [("controller.yaml", ControllerConfig), ("witness.yaml", WitnessConfig), ("manager.yaml", ManagerConfig)],
)
def test_the_configuration_page_has_every_field_and_no_other(heading: str, model: type[BaseModel]) -> None:
    page = (REPOSITORY / "docs" / "reference" / "configuration.md").read_text()
    section = page.split(f"## {heading}")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([A-Za-z.]+)` \|", section, re.MULTILINE)) == fields(model)


def test_the_safety_page_has_every_rule() -> None:
    page = (REPOSITORY / "docs" / "explanation" / "safety.md").read_text()
    rules = [name for name, _ in (*CAMPAIGN_RULES, *HOLDER_RULES, *CONTENDER_RULES)]
    assert [name for name in rules if f"`{name}`" not in page] == []


def test_the_tests_that_pages_name_exist() -> None:
    folders = ("tests", "drivers", "orchestrator")
    defined = "".join(path.read_text() for folder in folders for path in (REPOSITORY / folder).rglob("test_*.py"))
    named = {name for page in PAGES for name in re.findall(r"`(test_[a-z0-9_]+)`", page.read_text())}
    assert [name for name in sorted(named) if f"def {name}(" not in defined] == []


def test_nothing_says_that_it_is_yet_to_be_written() -> None:
    marks = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    files = [name for name in listed.splitlines() if not name.startswith("tools/go/") and name != "uv.lock"]
    found = [name for name in files if (REPOSITORY / name).is_file() and marks.search(_text(REPOSITORY / name))]
    assert found == []


def _text(path: Path) -> str:
    return path.read_text(errors="replace")

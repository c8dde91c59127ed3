"""Writes what the tables here say into the reference pages: `python -m graf_driver_sanity.reference --write`.

The page of the checks is generated whole. In the page of the contract each block between the marks
`<!-- requirements: AREA -->` and `<!-- end -->` is replaced; the words around it are written by hand. So it is with the
comments of the proto file between `Requirements AREA:` and `End of requirements.`.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

from graf_driver_sanity.registry import all_checks
from graf_driver_sanity.requirements import REQUIREMENTS

CHECKS_PAGE = Path("docs/reference/driver-checks.md")
CONTRACT_PAGE = Path("docs/reference/driver-contract.md")
PROTO = Path("drivers/sdk/src/graf_driver_sdk/v1/driver.proto")
_BLOCK = re.compile(r"(<!-- requirements: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

_PROTO_BLOCK = re.compile(r"( *)(// Requirements (\w+):\n).*?( *// End of requirements\.\n)", re.DOTALL)
_WIDTH = 118


def checks_page() -> str:
    """The page of all checks, by area."""
    checks = all_checks()
    lines = [
        "# Checks of a driver",
        "",
        "Written by `make generate` from the tables of `graf-driver-sanity`; do not edit. How to run them:",
        "[check a driver](../how-to/check-a-driver.md). The requirements: [driver contract](driver-contract.md).",
        "",
        f"{len(checks)} checks of {len(REQUIREMENTS)} requirements. *needs* is what the driver must declare and the",
        "configuration must have; without it the check is skipped, with the reason.",
    ]
    area = ""
    for one in checks:
        if one.id.partition("-")[0] != area:
            area = one.id.partition("-")[0]
            lines += ["", f"## {area}", "", "| check | what | requirements | needs |", "| --- | --- | --- | --- |"]
        needs = [f"`{capability.name}`" for capability in sorted(one.capabilities)] + list(one.needs)
        lines.append(f"| `{one.id}` | {one.sentence} | {', '.join(one.requirements)} | {', '.join(needs)} |")
    return "\n".join(lines) + "\n"


def requirements_of(area: str) -> str:
    """The table of one area, e.g. ROLE."""
    checks = all_checks()
    rows = ["| id | level | RPC | requirement | checks |", "| --- | --- | --- | --- | --- |"]
    for requirement in REQUIREMENTS.values():
        if requirement.id.split("-")[1] == area:
            count = sum(requirement.id in one.requirements for one in checks)
            rows.append(
                f"| {requirement.id} | {requirement.level} | {requirement.rpc} | {requirement.text} | {count} |"
            )
    return "\n".join(rows) + "\n"


def contract_page(text: str) -> str:
    """The page with its blocks up to date."""
    return _BLOCK.sub(lambda found: f"{found[1]}{requirements_of(found[2])}{found[3]}", text)


def proto_file(text: str) -> str:
    """The proto file with the requirements in its comments up to date. Its stubs are to be generated afterwards."""

    def block(found: re.Match[str]) -> str:
        lines = []
        for requirement in REQUIREMENTS.values():
            if requirement.id.split("-")[1] == found[3]:
                words = f"{requirement.id} {requirement.level}: {requirement.text}"
                lines += textwrap.wrap(
                    words,
                    _WIDTH,
                    initial_indent=f"{found[1]}//   ",
                    subsequent_indent=f"{found[1]}//     ",
                    break_on_hyphens=False,
                )
        return f"{found[1]}{found[2]}" + "".join(f"{line}\n" for line in lines) + found[4]

    return _PROTO_BLOCK.sub(block, text)


def areas_of(text: str) -> set[str]:
    """Areas that the page has a block for."""
    return {found[2] for found in _BLOCK.finditer(text)}


def main(arguments: list[str]) -> int:
    """`--write` writes, `--check` says whether they are fresh; run at the repository's root."""
    pages = {
        CHECKS_PAGE: checks_page(),
        CONTRACT_PAGE: contract_page(CONTRACT_PAGE.read_text()),
        PROTO: proto_file(PROTO.read_text()),
    }
    told = set(re.findall(r"GD-[A-Z]+-\d+", pages[PROTO]))
    if told != set(REQUIREMENTS):
        sys.stderr.write(f"{PROTO} lacks the block of {', '.join(sorted(set(REQUIREMENTS) - told))}; add it\n")
        return 1
    missing = {name.split("-")[1] for name in REQUIREMENTS} - areas_of(pages[CONTRACT_PAGE])
    if missing:
        sys.stderr.write(f"{CONTRACT_PAGE} has no block for {', '.join(sorted(missing))}; add one\n")
        return 1
    if "--write" in arguments:
        for path, text in pages.items():
            path.write_text(text)
        return 0
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        sys.stderr.write(f"{path} is not what the tables of graf-driver-sanity say; run: make generate\n")
    if not stale:
        sys.stdout.write("driver contract and checks are fresh\n")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

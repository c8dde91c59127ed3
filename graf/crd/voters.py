"""What may follow a declared voter list. Pure; the API server checks the same by the CEL rules of RedundancyGroup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graf.crd.base import Cel, Problem

if TYPE_CHECKING:
    from graf.crd.assignment import Voters

VERSION_NEVER_FALLS = "the version of the voters never falls: declare the list again with a higher version"
VERSION_RISES = "another list of voters needs a higher version"

TRANSITIONS = (
    Cel("self.voters.version >= oldSelf.voters.version", VERSION_NEVER_FALLS, ".voters"),
    Cel(
        "self.voters.version > oldSelf.voters.version || "
        "(self.voters.members.size() == oldSelf.voters.members.size() && "
        "self.voters.members.all(m, oldSelf.voters.members.exists(o, o.name == m.name)) && "
        "self.voters.readmit.size() == oldSelf.voters.readmit.size() && "
        "self.voters.readmit.all(n, n in oldSelf.voters.readmit))",
        VERSION_RISES,
        ".voters",
    ),
)


def change_problems(new: Voters, old: Voters) -> list[Problem]:
    """Why one list cannot follow another. An endpoint alone may change: it is where a voter is, not who it is."""
    again = f"declare the list that you want again, with version: {old.version + 1} or higher"
    if new.version < old.version:
        # Also what a `git revert` of a change of voters comes to: the voters know the newer list, and go on from it.
        cause = f"{new.version} is lower than the declared version {old.version}; a version names one list for ever"
        return [Problem("spec.voters.version", cause, again)]
    same = set(new.names) == set(old.names) and set(new.readmit) == set(old.readmit)
    if new.version == old.version and not same:
        cause = f"the voters change and version {new.version} stays; a version names one list for ever"
        return [Problem("spec.voters.version", cause, again)]
    if new.version == old.version:
        return []
    counted = [name for name in old.names if name not in new.readmit]
    if len(counted) < len(old.names) // 2 + 1:
        cause = f"{', '.join(new.readmit)} are admitted anew: without them the list before has no majority to decide it"
        fix = f"admit at most {len(old.names) - len(old.names) // 2 - 1} anew with one version"
        return [Problem("spec.voters.readmit", cause, fix)]
    return []

"""Every rule of the ordered tuples left out, one at a time; and those whose absence no invariant can show, with why.

`SPARING` rules spare a contest or a wait that would come to nothing. `COVERED` rules are second lines: another one
holds the same invariant, and `pair` names the bug in which that one, or both, are gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from graf.core.contender import CONTENDER_RULES
from graf.core.holder import HOLDER_RULES
from graf.core.voter import CAMPAIGN_RULES
from graf.sim.bugs.bug import NOTHING_TOLD, Bug, Patch, no_campaign_rule, no_site_rule, planting
from graf.sim.settings import Planned


@dataclass(frozen=True, slots=True)
class Silent:
    """A rule whose absence no invariant shows.

    Attributes:
        rule: `voter:NAME`, `holder:NAME` or `contender:NAME`.
        why: What it is for then, and for a second line, which one is the first.
        pair: Name of the bug that takes the first line out, too; empty for a sparing rule.
    """

    rule: str
    why: str
    pair: str = ""


SPARING = (
    Silent(
        "holder:wait-while-handing-over", "a hand-over checks its epoch itself before the release; the rule spares work"
    ),
    Silent("holder:wait-for-the-contest", "a second contest is not begun while one is under way, whoever asks for it"),
    Silent(
        "holder:release-when-data-is-lost", "a dead component is started again in its place; the rule makes it fast"
    ),
    Silent(
        "holder:release-when-a-copy-is-lost", "the simulator has no data outside the set; the drill volume-loss has"
    ),
    Silent("holder:tell-a-lost-copy", "as before; it only tells"),
    Silent(
        "contender:copies-are-within-rpo",
        "it is about a copy beside a database: no run has both; of a group of copies alone the set decides",
    ),
    Silent(
        "contender:wait-while-handing-over",
        "the own voter takes requests in turn, so the release comes before the contest",
    ),
    Silent(
        "contender:enough-voters-declared",
        "a majority of two is both, so the contest could not be won; the rule says why",
    ),
    Silent(
        "contender:successor-goes-first",
        "two contenders for a released epoch are decided by the voters; the rule spares it",
    ),
    Silent(
        "contender:drivers-are-known",
        "unknown data is not promotable either; for a gate the driver is asked until it answers",
    ),
    Silent(
        "contender:a-stalled-process-waits", "voters that hear the holder refuse; the rule spares them the question"
    ),
    Silent("contender:majority-is-visible", "a contest without a majority is not won; the rule spares it"),
    Silent("contender:back-off", "the voters refuse as often as they are asked; the rule spares them the questions"),
)
COVERED = (
    Silent(
        "voter:restart-silence",
        "a voter that holds a promise of another site counts its own start as the last answer (holder-may-live)",
        "grant-after-restart-without-silence",
    ),
    Silent(
        "contender:fenced-first",
        "the kernel's gate shuts with the lease, and a site that follows fences its data first",
        "gate-without-an-end",
    ),
    Silent(
        "contender:only-voters-contend",
        "voters refuse another list than theirs (declared-voters-only), and sites of a run are always voters",
        "electorate-as-declared",
    ),
    Silent("contender:in-synchronous-set", "the voters judge it again", "voter-without:in-synchronous-set"),
    Silent("contender:holder-may-live", "the voters judge it again", "voter-without:holder-may-live"),
    Silent(
        "contender:own-voter-is-silent",
        "the own voter is asked like the others and keeps silence itself",
        "grant-after-restart-without-silence",
    ),
)

# What else has to be gone.
MORE: dict[str, tuple[Patch, ...]] = {"voter:in-synchronous-set": (NOTHING_TOLD,)}
# Faults that call upon a rule.
NEEDS: dict[str, tuple[str, ...]] = {
    "voter:declared-voters-only": ("change-voters", "crash-site"),
    "voter:epoch-rises": ("cut-pair", "isolate-site"),
    "voter:holder-may-live": ("cut-pair",),
    "voter:in-synchronous-set": ("isolate-site", "hold-replication"),
    "holder:give-back-without-data": ("hold-apply", "crash-database", "isolate-site"),
    "holder:shrink-lost-member": ("standby-loss",),
    "holder:regain-voters": ("cut-pair", "isolate-site", "cut-one-way"),
    "contender:people-decide-in-manual-mode": ("crash-site", "isolate-site"),
    "contender:data-is-promotable": ("crash-site", "crash-database"),
}
# East and west do not hear each other; the witness, on which the lease of one of them hangs, loses its disk meanwhile.
SCRIPTS: dict[str, tuple[Planned, ...]] = {
    "voter:no-record-no-vote": (
        Planned(2, "cut-pair", 0.0001, 60),
        *(Planned(at, "lose-disk", 0.7, 1.5) for at in (10, 22, 34, 46, 58)),
    ),
    # No disk of a voter takes anything more while west's copy grows old; then east is gone, and the disks are mended.
    "holder:stop-without-a-stored-set": (
        Planned(2, "hold-replication", 0.0, 90),
        *(Planned(3, "disk-full", draw, 62) for draw in (0.1, 0.3, 0.5)),
        Planned(60, "crash-site", 0.1, 35),
    ),
}
# The set keeps contenders away that these rules are there for; so they are played without one.
LOSSY = frozenset({"voter:no-record-no-vote", "voter:epoch-rises", "voter:holder-may-live", "holder:regain-voters"})
# The set of a group whose data is only copied is theirs.
COPIED = frozenset({"holder:keep-current-copies", "holder:stop-without-a-stored-set"})
ALL = ("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11")


def rule_ids() -> tuple[str, ...]:
    """Every rule of the three tuples."""
    return (
        *(f"voter:{name}" for name, _rule in CAMPAIGN_RULES),
        *(f"holder:{name}" for name, _rule in HOLDER_RULES),
        *(f"contender:{name}" for name, _rule in CONTENDER_RULES),
    )


def left_out(rule: str) -> Patch:
    """The patch that leaves one rule out."""
    where, _, name = rule.partition(":")
    if where == "voter":
        return no_campaign_rule(name)
    return no_site_rule(holder=(name,)) if where == "holder" else no_site_rule(contender=(name,))


SILENT = {silent.rule: silent for silent in (*SPARING, *COVERED)}
WHO = {"voter": "Voters judge campaigns", "holder": "Holders decide", "contender": "Sites without a lease decide"}


def _bug(rule: str) -> Bug:
    where, _, name = rule.partition(":")
    summary = f"{WHO[where]} without the rule {name}."
    return Bug(
        f"{where}-without:{name}",
        summary,
        ALL,
        planting(left_out(rule), *MORE.get(rule, ())),
        NEEDS.get(rule, ()),
        lossless=rule not in LOSSY,
        copied=rule in COPIED,
        large=rule == "holder:regain-voters",
        script=SCRIPTS.get(rule, ()),
    )


BUGS = tuple(_bug(rule) for rule in rule_ids() if rule not in SILENT)

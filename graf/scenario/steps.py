"""A step: when it is due, and the one thing that it does."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from graf.scenario.base import Part, Participant, SiteRole, broken, many, one_or_many

DEFAULT_WITHIN_MS = 60_000

Places = Annotated[tuple[Participant, ...], BeforeValidator(one_or_many), Field(min_length=1, max_length=4)]
Sites = Annotated[tuple[SiteRole, ...], BeforeValidator(many), Field(min_length=1, max_length=2)]
ReasonCode = Annotated[str, Field(pattern=r"^[A-Z][A-Za-z]+$", max_length=63)]
OperationEnd = Literal["Succeeded", "RolledBack", "Failed", "Refused"]
Yes = Literal[True]


class Verb(StrEnum):
    """What a step can do. The values are the words of the file."""

    KILL = "kill"
    START = "start"
    FREEZE = "freeze"
    THAW = "thaw"
    CUT_OFF = "cut-off"
    RECONNECT = "reconnect"
    CUT = "cut"
    MEND = "mend"
    HOLD_REPLICATION = "hold-replication"
    RELEASE_REPLICATION = "release-replication"
    KILL_DATABASE = "kill-database"
    HOLD_APPLY = "hold-apply"
    RELEASE_APPLY = "release-apply"
    SEMI_SYNC_OFF = "semi-sync-off"
    PAUSE_MANAGER = "pause-manager"
    RESUME_MANAGER = "resume-manager"
    SWITCHOVER = "switchover"
    WAIT = "wait"


# What takes a fault back. `kill-database` and `semi-sync-off` are not in it: GRAF itself has to mend them.
TAKEN_BACK_BY: dict[Verb, Verb] = {
    Verb.KILL: Verb.START,
    Verb.FREEZE: Verb.THAW,
    Verb.CUT_OFF: Verb.RECONNECT,
    Verb.CUT: Verb.MEND,
    Verb.HOLD_REPLICATION: Verb.RELEASE_REPLICATION,
    Verb.HOLD_APPLY: Verb.RELEASE_APPLY,
    Verb.PAUSE_MANAGER: Verb.RESUME_MANAGER,
}
# Verbs that act on whole locations.
LOCATION_VERBS = frozenset(
    {Verb.KILL, Verb.START, Verb.FREEZE, Verb.THAW, Verb.CUT_OFF, Verb.RECONNECT, Verb.CUT, Verb.MEND}
)


@dataclass(frozen=True, slots=True)
class Action:
    """A step's verb with what it acts on, in one shape for whoever carries it out.

    Attributes:
        verb: What to do.
        places: The participants that it is about; for `cut` and `mend` the side whose messages are dropped.
        towards: For `cut` and `mend`: the other side.
        one_way: For `cut` and `mend`: only messages from `places` to `towards`.
        ms: For `wait`: how long.
    """

    verb: Verb
    places: tuple[Participant, ...] = ()
    towards: tuple[Participant, ...] = ()
    one_way: bool = False
    ms: int = 0

    def __str__(self) -> str:
        places = ", ".join(self.places)
        match self.verb:
            case Verb.WAIT:
                return f"wait {self.ms} ms"
            case Verb.SWITCHOVER:
                return f"switchover to {places}"
            case Verb.CUT | Verb.MEND:
                arrow = "to" if self.one_way else "from and to"
                return f"{self.verb} {places} {arrow} {', '.join(self.towards)}"
            case _:
                return f"{self.verb} {places}".strip()


class After(Part):
    """What to wait for. Several conditions in one step must hold at the same time."""

    active_is: Literal["preferred", "spare", "nobody"] | None = Field(
        default=None, description="The site whose database acknowledges writes now; nobody: neither does."
    )
    serving: bool | None = Field(
        default=None,
        description="true: users' writes sent since the step before are acknowledged; false: none for a second.",
    )
    set_is: Sites | None = Field(default=None, description="The synchronous set in force is exactly this.")
    standby_promotable: SiteRole | None = Field(
        default=None, description="This site follows, is in the synchronous set and could take over now."
    )
    operation_ended: OperationEnd | None = Field(
        default=None, description="The switchover that was asked for last has ended like this."
    )
    holds_because: ReasonCode | None = Field(
        default=None, description="A site or the record has given this reason since the run began."
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.conditions():
            known = ", ".join(str(field.alias) for field in type(self).model_fields.values())
            raise broken("", "waits for nothing", f"name at least one of {known}")
        return self

    def conditions(self) -> dict[str, object]:
        """The conditions that are given, by their word in the file."""
        return self.model_dump(by_alias=True, exclude_none=True)

    def __str__(self) -> str:
        return " and ".join(f"{word} {_words(value)}" for word, value in self.conditions().items())


class Link(Part):
    """A network link between participants."""

    from_: Places = Field(description="One side; with one-way the side whose messages are dropped.")
    to: Places = Field(description="The other side.")
    one_way: bool = Field(default=False, description="Drop only what goes from `from` to `to`.")


class Ask(Part):
    """What an operator asks for."""

    target: SiteRole = Field(description="Site to move to.")


class Step(Part):
    """One thing to do, and when: at a time of the run, after a condition, or right after the step before."""

    at_ms: int | None = Field(
        default=None, ge=0, le=600_000, description="Not before this time since the first step, milliseconds."
    )
    after: After | None = Field(default=None, description="Not before this holds.")
    within_ms: int = Field(
        default=DEFAULT_WITHIN_MS, ge=1, le=600_000, description="How long `after` may take; longer fails the run."
    )
    kill: Places | None = Field(default=None, description="Kill everything at these locations at one instant.")
    start: Places | None = Field(default=None, description="Start killed locations on their old disks.")
    freeze: Places | None = Field(default=None, description="Stop everything there at one instant; nothing is lost.")
    thaw: Places | None = Field(default=None, description="Let frozen locations go on.")
    cut_off: Places | None = Field(default=None, description="Cut these locations off from everybody, both ways.")
    reconnect: Places | None = Field(default=None, description="Take `cut-off` back.")
    cut: Link | None = Field(default=None, description="Cut the link between two locations, both ways or one.")
    mend: Link | None = Field(default=None, description="Take `cut` back; names the same link.")
    hold_replication: Yes | None = Field(
        default=None, description="Drop the databases' own traffic between the sites and nothing else."
    )
    release_replication: Yes | None = Field(default=None, description="Take `hold-replication` back.")
    kill_database: SiteRole | None = Field(default=None, description="Kill the database server and nothing else.")
    hold_apply: SiteRole | None = Field(
        default=None, description="The standby receives and acknowledges, but what it received is not applied."
    )
    release_apply: SiteRole | None = Field(default=None, description="Take `hold-apply` back.")
    semi_sync_off: SiteRole | None = Field(
        default=None, description="Somebody switches synchronous acknowledgement off by hand at this site's database."
    )
    pause_manager: Yes | None = Field(default=None, description="The manager's process stands still.")
    resume_manager: Yes | None = Field(default=None, description="Take `pause-manager` back.")
    switchover: Ask | None = Field(default=None, description="Ask for a planned move.")
    wait: int | None = Field(default=None, ge=1, le=600_000, description="Let this time pass, milliseconds.")

    @model_validator(mode="after")
    def _one_verb(self) -> Self:
        given = [verb.value for verb in Verb if getattr(self, _attribute(verb)) is not None]
        if len(given) != 1:
            cause = f"has {len(given)} verbs ({', '.join(given)})" if given else "has no verb"
            raise broken("", cause, f"give exactly one of {', '.join(Verb)}")
        if self.at_ms is not None and self.after is not None:
            raise broken("at-ms", "stands beside after", "give one of the two: a time or a condition")
        return self

    @property
    def action(self) -> Action:
        """The step's verb and what it acts on."""
        verb = next(verb for verb in Verb if getattr(self, _attribute(verb)) is not None)
        value = getattr(self, _attribute(verb))
        if isinstance(value, Link):
            return Action(verb, value.from_, value.to, value.one_way)
        if isinstance(value, Ask):
            return Action(verb, (value.target,))
        if isinstance(value, tuple):
            return Action(verb, value)
        if isinstance(value, str):
            return Action(verb, (value,))  # type: ignore[arg-type]
        return Action(verb, ms=value if verb is Verb.WAIT else 0)


def _attribute(verb: Verb) -> str:
    return verb.value.replace("-", "_")


def _words(value: object) -> str:
    return "{" + ", ".join(map(str, value)) + "}" if isinstance(value, tuple | list) else str(value)

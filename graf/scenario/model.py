"""A scenario file as a whole, with the rules that one part alone cannot check."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from graf.scenario.base import Part, Participant, Profile, World, broken, many
from graf.scenario.expect import Expect
from graf.scenario.steps import LOCATION_VERBS, TAKEN_BACK_BY, Action, Step, Verb

ONE_LOCATION: tuple[Participant, ...] = ("manager", "witness")
_FAULT_OF = {back: fault for fault, back in TAKEN_BACK_BY.items()}


class PolicySettings(Part):
    """Settings of the group's policy that the run depends on; what is left out is as the group has it."""

    failover: Literal["Automatic", "Manual"] | None = Field(default=None, description="Whether it moves by itself.")
    failback: Literal["Never", "Manual", "Automatic"] | None = Field(
        default=None, description="Whether it goes back by itself."
    )
    stabilisation_seconds: int | None = Field(
        default=None, ge=0, le=600, description="For how long the preferred site must be ready before."
    )

    def to_words(self) -> dict[str, object]:
        """The settings that are given, by their word in the file."""
        return self.model_dump(by_alias=True, exclude_none=True)


class ScenarioFile(Part):
    """A disaster that happened: what is done to the world, and what must be true of it.

    Invariant: every fault that needs taking back is taken back once, in some later step.
    """

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63, description="As typed; also the file's name.")
    summary: str = Field(min_length=1, max_length=160, description="One line: what happens.")
    source: str = Field(pattern=r"^https?://\S+$", description="Public report of the disaster.")
    sites: int = Field(default=2, ge=2, le=2, description="How many sites the group has.")
    witness: bool = Field(default=True, description="Whether a witness votes, at the manager's location.")
    profile: Profile = Field(default="regional", description="Detection profile: metro, regional or wan.")
    worlds: Annotated[tuple[World, ...], BeforeValidator(many), Field(min_length=1)] = Field(
        default=("sim", "lab"), description="Where it can run."
    )
    worlds_reason: str = Field(default="", description="Why a world is left out.")
    policy: PolicySettings = Field(default_factory=PolicySettings, description="Policy settings that it depends on.")
    steps: Annotated[tuple[Step, ...], BeforeValidator(many), Field(min_length=1, max_length=64)] = Field(
        description="What is done, in order."
    )
    expect: Expect = Field(description="What must be true of the run.")

    @property
    def actions(self) -> tuple[Action, ...]:
        """The verbs of all steps, in order."""
        return tuple(step.action for step in self.steps)

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if set(self.worlds) != {"sim", "lab"} and not self.worlds_reason:
            raise broken("worlds-reason", "is missing although a world is left out", "say why it cannot run there")
        if not self.witness and "lab" in self.worlds:
            raise broken("witness", "the lab always has a witness", "leave witness out, or say worlds: [sim] and why")
        self._check_times()
        self._check_places()
        self._check_pairs()
        return self

    def _check_times(self) -> None:
        latest, asked = 0, False
        for index, step in enumerate(self.steps):
            if step.at_ms is not None:
                if step.at_ms < latest:
                    raise broken(
                        f"steps[{index}].at-ms",
                        f"{step.at_ms} lies before the {latest} of an earlier step",
                        "put the steps in the order of their times",
                    )
                latest = step.at_ms
            if step.after is not None and step.after.operation_ended is not None and not asked:
                raise broken(
                    f"steps[{index}].after.operation-ended",
                    "nothing was asked for before",
                    "put a switchover before it",
                )
            asked = asked or step.action.verb is Verb.SWITCHOVER

    def _check_places(self) -> None:
        for index, action in enumerate(self.actions):
            field = f"steps[{index}].{action.verb}"
            named = {*action.places, *action.towards}
            if not self.witness and "witness" in named:
                raise broken(field, "names the witness, and this group has none", "leave it out, or say witness: true")
            if "lab" not in self.worlds or action.verb not in LOCATION_VERBS:
                continue
            for side in (action.places, action.towards):
                if len(set(side) & set(ONE_LOCATION)) == 1:
                    raise broken(
                        field,
                        "manager and witness are one location in the lab and cannot be told apart there",
                        "name both, use pause-manager for the manager alone, or say worlds: [sim] and why",
                    )

    def _check_pairs(self) -> None:
        """Each fault is taken back by its own verb, for the same place, and not more often than it was made."""
        made: dict[tuple[Verb, object], int] = {}
        for index, action in enumerate(self.actions):
            for what in _things(action):
                if action.verb in TAKEN_BACK_BY:
                    if (action.verb, what) in made:
                        raise broken(
                            f"steps[{index}].{action.verb}",
                            f"is done a second time{_to(what)}",
                            f"put a {TAKEN_BACK_BY[action.verb]} between",
                        )
                    made[action.verb, what] = index
                elif action.verb in _FAULT_OF and made.pop((_FAULT_OF[action.verb], what), None) is None:
                    fault = _FAULT_OF[action.verb]
                    raise broken(
                        f"steps[{index}].{action.verb}",
                        f"takes back what was not done: there is no {fault}{_to(what)} before it",
                        f"put a {fault} before it, or leave it out",
                    )
        for (verb, what), index in made.items():
            raise broken(
                f"steps[{index}].{verb}",
                f"is never taken back{_to(what)}",
                f"add a step with {TAKEN_BACK_BY[verb]}",
            )


def _things(action: Action) -> tuple[object, ...]:
    """What a fault is about, one by one: a link is one thing, places are taken back each alone."""
    if action.verb in (Verb.CUT, Verb.MEND):
        return ((action.places, action.towards, action.one_way),)
    return action.places or ("",)


def _to(what: object) -> str:
    return f" to {what}" if isinstance(what, str) and what else ""

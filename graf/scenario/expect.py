"""What must be true of a run, in terms that both worlds can check."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from graf.scenario.base import Part, Profile, SiteRole, broken, many, one_or_many
from graf.scenario.steps import ReasonCode

MoveType = Literal["Failover", "Switchover", "Failback"]


class Move(Part):
    """A recorded move of the group between sites."""

    type: Annotated[tuple[MoveType, ...], BeforeValidator(one_or_many), Field(min_length=1)] = Field(
        description="Failover, Switchover or Failback; a list where more than one is right."
    )
    from_: SiteRole = Field(description="Active site before.")
    to: SiteRole = Field(description="Active site after.")


class Finally(Part):
    """How the run must end, within a bounded time after the last step."""

    active_at: SiteRole = Field(description="The site that is active.")
    serving: bool = Field(default=True, description="Whether users' writes are acknowledged.")
    standby_promotable: SiteRole | None = Field(
        default=None, description="The site that follows, is in the synchronous set and could take over."
    )
    within_ms: int = Field(default=240_000, ge=1, le=600_000, description="How long that may take, milliseconds.")


class Expect(Part):
    """The outcome. Everything given here is checked; a world may check more of its own."""

    lost_writes: int = Field(default=0, ge=0, description="Acknowledged writes that are missing at the end.")
    dual_active: int = Field(default=0, ge=0, description="Times at which two sites acknowledged writes.")
    dual_served: int | None = Field(
        default=0,
        ge=0,
        description="Times at which two sites answered reads; null: not asked of every world.",
    )
    moves: Annotated[tuple[Move, ...], BeforeValidator(many)] | None = Field(
        default=None, description="The moves that the record must have: exactly these, in this order."
    )
    max_moves: int | None = Field(default=None, ge=0, description="Instead of `moves`: no more than this many.")
    finally_: Finally = Field(description="How the run must end.")
    holds_because: Annotated[tuple[ReasonCode, ...], BeforeValidator(one_or_many)] = Field(
        default=(), description="Reasons for not moving that must have been told, each at least once."
    )
    max_outage_ms: dict[Profile, int] = Field(
        default_factory=dict,
        description="Longest time without any acknowledged write, by profile.",
    )

    @model_validator(mode="after")
    def _moves_once(self) -> Self:
        if (self.moves is None) == (self.max_moves is None):
            cause = "is missing" if self.moves is None else "stands beside max-moves"
            raise broken("moves", cause, "give either moves (exactly these) or max-moves (no more than)")
        return self

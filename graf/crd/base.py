"""What the models of all kinds share: the base class, metadata, conditions, problems and CEL rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

GROUP = "graf.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
NAMESPACE = "graf-system"

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
ENDPOINT_PATTERN = r"^[^\s:/]+:[0-9]{1,5}$"

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
Endpoint = Annotated[str, Field(max_length=261, pattern=ENDPOINT_PATTERN)]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
FreeObject = dict[str, Any]

AdministrativeRole = Literal["preferred", "spare"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason to refuse an object, in words that let its author repair it.

    Attributes:
        field: path inside the object, such as `spec.sites[0].name`; empty when it is the whole file.
        cause: what is wrong with it.
        fix: what to write instead.
        file: path of the file in the repository, or `Kind/name` of an object in the cluster.
    """

    field: str
    cause: str
    fix: str
    file: str = ""

    def __str__(self) -> str:
        where = f"{self.file}: " if self.file else ""
        field = f"{self.field}: " if self.field else ""
        return f"{where}{field}{self.cause}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Cel:
    """A rule that the API server checks itself (`x-kubernetes-validations`)."""

    rule: str
    message: str
    field_path: str = ""

    def as_schema(self) -> dict[str, str]:
        """The rule as the schema spells it."""
        schema = {"rule": self.rule, "message": self.message}
        if self.field_path:
            schema["fieldPath"] = self.field_path
        return schema


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column of `kubectl get`."""

    name: str
    json_path: str
    type: str = "string"
    description: str = ""
    priority: int = 0


def broken(field: str, cause: str, fix: str) -> PydanticCustomError:
    """An error of a model's validator that keeps field, cause and fix apart."""
    return PydanticCustomError("graf_rule", "{cause}", {"field": field, "cause": cause, "fix": fix})


class Model(BaseModel):
    """Base of every part of an object: camelCase on the wire, unknown fields refused, no silent conversions.

    `cel` are the rules that the generated CRD gives to the API server for this part; the same rules are checked
    in Python, so that a commit is refused before anything of it is applied.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, strict=True)
    cel: ClassVar[tuple[Cel, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """The object as it goes on the wire: camelCase, without fields that are not set."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class ObjectMeta(BaseModel):
    """The part of Kubernetes' ObjectMeta that GRAF reads; the rest is kept as it came."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: Name
    namespace: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    generation: int | None = None


class Condition(Model):
    """A condition by the Kubernetes API conventions."""

    type: str = Field(description="What the condition is about, in CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds; Unknown means hold.")
    reason: str = Field(description="Machine-readable reason in CamelCase.")
    message: str = Field(default="", description="The reason for people: what, where, why, what next.")
    observed_generation: int = Field(default=0, description="Generation of the spec that this is about.")
    last_transition_time: Timestamp = Field(description="When the status of the condition last changed.")


class Resource(Model):
    """An object of a kind of GRAF. Subclasses set `kind_name`, scope, short names and columns."""

    kind_name: ClassVar[str] = ""
    plural: ClassVar[str] = ""
    short_names: ClassVar[tuple[str, ...]] = ()
    namespaced: ClassVar[bool] = True
    folder: ClassVar[str] = ""
    columns: ClassVar[tuple[Column, ...]] = ()

    api_version: Literal["graf.dev/v1alpha1"] = Field(default="graf.dev/v1alpha1")
    metadata: ObjectMeta

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.metadata.name

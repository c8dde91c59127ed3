"""DriverClass: which driver a component uses and how it is deployed. Cluster-scoped, like a StorageClass."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from graf.crd.base import Column, Condition, FreeObject, Model, Name, Resource, Timestamp

Capability = Literal["GATE", "POSITION", "RESYNC", "SYNCHRONOUS"]
Upgrade = Literal["OnStandby", "Automatic", "Manual"]
Verb = Literal["get", "list", "watch", "create", "update", "patch", "delete"]
_Plain = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[^*]+$")]
_ApiGroup = Annotated[str, Field(max_length=253, pattern=r"^[^*]*$")]


class DriverEndpoint(Model):
    """How the controller reaches the driver."""

    kind: Literal["UnixSocket", "TLS"] = Field(
        default="UnixSocket",
        description="UnixSocket: /run/graf/drivers/<driverclass>.sock at the controller's node. TLS: TCP with mutual "
        "TLS through a Service; certificates are made and rotated by the site's controller. Not for a driver with a "
        "GATE, whose lease is counted on the clock of the controller's machine.",
    )
    port: int = Field(default=7450, ge=1024, le=65535, description="Port of a TLS endpoint.")


class Permission(Model):
    """What the driver may do at the API server of its own cluster: one RBAC rule, without wildcards.

    The controller can hand out only what it may do itself, and the API server checks that.
    """

    api_groups: list[_ApiGroup] = Field(
        default_factory=list, max_length=8, description="API groups; none, or the empty one, is the core."
    )
    resources: list[_Plain] = Field(min_length=1, max_length=16, description="Resources, such as `deployments/scale`.")
    resource_names: list[_Plain] = Field(
        default_factory=list, max_length=32, description="Names of single objects; empty is every object."
    )
    verbs: list[Verb] = Field(min_length=1, max_length=7, description="What may be done with them.")
    namespaces: list[Name] = Field(
        default_factory=list, max_length=16, description="Where; empty is the namespace of the driver."
    )
    cluster_wide: bool = Field(
        default=False, description="In every namespace, and for objects that have none. The last resort."
    )


class SiteSelector(Model):
    """Which sites get the driver."""

    match_labels: dict[str, str] = Field(
        default_factory=dict, description="Labels that a Site must have; empty selects every site."
    )


class DriverClassSpec(Model):
    """A kind of driver."""

    driver: str = Field(
        min_length=1, max_length=253, description="Name that the driver gives itself, such as mysql.graf.dev."
    )
    instance: str = Field(
        default="",
        max_length=63,
        description="Tells apart classes of one driver at one site, where that driver serves one component at a time. "
        "Two classes with the same driver and instance must not select the same site.",
    )
    template: FreeObject = Field(
        description="PodTemplateSpec of the driver, alone or beside what it controls. The controller adds the address "
        "to listen on, the directory of the epochs and the ServiceAccount to its container `driver`."
    )
    endpoint: DriverEndpoint = Field(
        default_factory=DriverEndpoint, description="How the controller reaches the driver."
    )
    permissions: list[Permission] = Field(
        default_factory=list,
        max_length=16,
        description="What the driver may do at the API server of its cluster; empty gives it no token at all.",
    )
    upgrade: Upgrade = Field(
        default="OnStandby",
        description="When a changed template replaces a running driver, and restarts what is in its Pod. OnStandby: "
        "while nothing that it serves is Active at the site. Automatic: at an active site too, after every standby "
        "site has it. Manual: when approved at the site.",
    )
    required_capabilities: list[Capability] = Field(
        default_factory=list,
        max_length=8,
        description="Capabilities without which the driver is not used.",
    )
    parameters_schema: FreeObject = Field(
        default_factory=dict,
        description="OpenAPI v3 schema of a component's parameters at one site; empty accepts any object.",
    )
    site_selector: SiteSelector = Field(
        default_factory=SiteSelector,
        description="Which sites get the driver. Elsewhere the class with the same driver and instance that selects "
        "the site takes its place; where there is none the group is refused.",
    )


class DriverClassSite(Model):
    """The driver at one site, as the site's controller sees it."""

    site: str = Field(description="Name of the Site.")
    ready: bool = Field(default=False, description="Whether the wanted revision runs and answers.")
    reason: str = Field(default="", description="Why not, in CamelCase, such as ImageMissing; see the reference.")
    message: str = Field(default="", description="The reason for people.")
    image: str = Field(default="", description="Image of the driver's container that runs, or is to run.")
    revision: str = Field(default="", description="Revision of the Pod template that is deployed.")
    wanted_revision: str = Field(default="", description="Revision of the Pod template that this class asks for.")
    version: str = Field(default="", description="Version that the driver tells.")
    capabilities: list[str] = Field(default_factory=list, description="Capabilities that the driver tells.")
    observed_at: Timestamp | None = Field(default=None, description="When the site was last heard.")


class DriverClassStatus(Model):
    """What the manager says about the class."""

    observed_generation: int = Field(default=0, description="Generation of the spec that this is about.")
    ready: str = Field(default="", description="Sites where it is ready, of the sites that have it.")
    reason: str = Field(default="", description="The first reason why it is not ready, with its site.")
    sites: list[DriverClassSite] = Field(default_factory=list, description="By site.")
    conditions: list[Condition] = Field(default_factory=list, description="Supported, Ready.")


class DriverClass(Resource):
    """Which driver a component uses and how it is deployed at each site."""

    kind_name: ClassVar[str] = "DriverClass"
    plural: ClassVar[str] = "driverclasses"
    short_names: ClassVar[tuple[str, ...]] = ("gdc",)
    namespaced: ClassVar[bool] = False
    folder: ClassVar[str] = "driverclasses"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("DRIVER", ".spec.driver"),
        Column("ENDPOINT", ".spec.endpoint.kind"),
        Column("READY", ".status.ready", description="sites where it is ready"),
        Column("REASON", ".status.reason", description="why it is not ready somewhere"),
        Column("AGE", ".metadata.creationTimestamp", "date"),
    )

    kind: Literal["DriverClass"] = "DriverClass"
    spec: DriverClassSpec = Field(description="The driver and its deployment.")
    status: DriverClassStatus | None = Field(default=None, description="What the manager says about it.")

"""Site: one Kubernetes cluster that can run a protected function. Cluster-scoped, like a Node."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from graf.crd.base import Column, Condition, Endpoint, Model, Resource, Timestamp


class SiteEndpoints(Model):
    """Addresses of a site."""

    controller: Endpoint = Field(description="host:port of the site's GRAF controller, as its peers dial it.")


class SiteSpec(Model):
    """What people say about a site. Its labels (`metadata.labels`) are what selectors match."""

    display_name: str = Field(default="", max_length=128, description="Name of the site for people.")
    endpoints: SiteEndpoints = Field(description="Addresses of the site.")
    maintenance: bool = Field(default=False, description="The site must not become active. True is not yet supported.")
    drain: bool = Field(
        default=False, description="Move everything active away from the site. True is not yet supported."
    )
    gitops_agent: Literal["BuiltIn", "Flux", "ArgoCD", "ConfigSync"] = Field(
        default="BuiltIn",
        description="What applies the site's folder. BuiltIn is the GRAF controller; others are not yet supported.",
    )


class Reachability(Model):
    """Whether one observer hears the site."""

    observer: str = Field(description="Who observes: a site, a witness or the manager.")
    reachable: bool = Field(description="Whether the observer hears the site.")
    silent_ms: int = Field(default=0, description="For how long the observer has not heard it, milliseconds.")
    observed_at: Timestamp = Field(description="When the observation reached the manager.")


class DriverState(Model):
    """A driver as the site's controller sees it."""

    driver_class: str = Field(description="Name of the DriverClass.")
    deployed: bool = Field(default=False, description="Whether its Deployment exists at the site.")
    reachable: bool = Field(default=False, description="Whether it answers on its socket.")
    name: str = Field(default="", description="Name that the driver gives itself.")
    version: str = Field(default="", description="Version of the driver.")
    capabilities: list[str] = Field(default_factory=list, description="Capabilities that it declares.")
    ready: bool = Field(default=False, description="Whether the wanted revision runs and can what is required.")
    reason: str = Field(default="", description="Why not, in CamelCase.")
    image: str = Field(default="", description="Image of the driver's container.")
    message: str = Field(default="", description="What is wrong with it, if anything.")


class SiteStatus(Model):
    """What is known of a site, each by who observed it."""

    observed_generation: int = Field(default=0, description="Generation of the spec that this is about.")
    connected: bool = Field(default=False, description="Whether the controller's stream to the manager is up.")
    connected_since: Timestamp | None = Field(default=None, description="When that last changed.")
    controller_version: str = Field(default="", description="Version of the site's controller.")
    incarnation: str = Field(default="", description="Id of the controller's present process.")
    stall_ms_max: int = Field(default=0, description="Worst recent stall of the controller's lease loop, milliseconds.")
    reachability: list[Reachability] = Field(default_factory=list, description="By observer.")
    drivers: list[DriverState] = Field(default_factory=list, description="Drivers at the site.")
    conditions: list[Condition] = Field(default_factory=list, description="Connected, Supported.")


class Site(Resource):
    """One Kubernetes cluster that can run a protected function."""

    kind_name: ClassVar[str] = "Site"
    plural: ClassVar[str] = "sites"
    short_names: ClassVar[tuple[str, ...]] = ("gsite",)
    namespaced: ClassVar[bool] = False
    folder: ClassVar[str] = "sites"
    columns: ClassVar[tuple[Column, ...]] = (
        Column("CONNECTED", ".status.connected", "boolean", "the controller's stream to the manager is up"),
        Column("CONTROLLER", ".spec.endpoints.controller"),
        Column("VERSION", ".status.controllerVersion"),
        Column("AGE", ".metadata.creationTimestamp", "date"),
    )

    kind: Literal["Site"] = "Site"
    spec: SiteSpec = Field(description="What people say about the site.")
    status: SiteStatus | None = Field(default=None, description="What is known of the site.")

"""What a site tells of a driver: the facts of its Deployment, its Pod and its own word, in one answer. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from graf_driver_sdk.v1 import driver_pb2
from graf_driver_sdk.versions import NotUsableError, agree

from graf.shell.proto import manager_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from graf.crd.driverclass import DriverClass


@dataclass(frozen=True, slots=True)
class ClassState:
    """A class in the site's cluster, as the cluster's thread saw it last.

    Attributes:
        deployed: whether its Deployment exists.
        running: whether the wanted revision is ready for kubelet.
        reason: why not, or why a newer revision waits; empty when there is nothing to say.
    """

    deployed: bool = False
    running: bool = False
    reason: str = ""
    message: str = ""
    image: str = ""
    revision: str = ""
    wanted_revision: str = ""
    generation: int = 0


def capability_names(numbers: Iterable[int]) -> list[str]:
    """What a driver can do, in the words of a DriverClass; what this side does not know yet is left out."""
    known = driver_pb2.Capability.items()
    return sorted(name.removeprefix("CAPABILITY_") for name, number in known if number and number in set(numbers))


def own_word(driver_class: DriverClass, info: driver_pb2.GetInfoResponse | None, heard: bool) -> tuple[str, str]:
    """(reason, message) why a driver that runs is not the one that the class asks for; empty when it is."""
    if info is None:
        return ("NotAnswering", "the driver does not answer yet")
    spec = driver_class.spec
    if info.name != spec.driver:
        return (
            "WrongDriver",
            f"the driver is {info.name or 'without a name'}, the class asks for {spec.driver}; correct the image "
            f"or spec.driver",
        )
    try:
        agree(info.contract_versions)
    except NotUsableError as error:
        return (error.reason, str(error))
    missing = sorted(set(spec.required_capabilities) - set(capability_names(info.capabilities)))
    if missing:
        return (
            "MissingCapability",
            f"the driver cannot {', '.join(missing)}, which spec.requiredCapabilities asks for; use another version "
            f"of the driver, or require less",
        )
    if not heard:
        return ("NotAnswering", "the driver's status is not heard")
    return ("", "")


def driver_report(
    driver_class: DriverClass,
    state: ClassState | None,
    info: driver_pb2.GetInfoResponse | None,
    heard: bool,
    error: str,
) -> manager_pb2.DriverReport:
    """One driver.

    Args:
        driver_class: its class.
        state: in the cluster; None where no API server is used.
        info: who it says it is, when it was heard.
        heard: whether a component of it is heard now, or none uses it.
        error: why a component of it is not heard or not as wanted.
    """
    cluster = state or ClassState(deployed=True, running=True)
    reason, message = cluster.reason, cluster.message
    word, said = own_word(driver_class, info, heard)
    if not reason and word:
        reason, message = word, f"{said}: {error}" if word == "NotAnswering" and error else said
    return manager_pb2.DriverReport(
        driver_class=driver_class.name,
        deployed=cluster.deployed,
        reachable=heard and info is not None,
        name=info.name if info is not None else "",
        version=info.vendor_version if info is not None else "",
        capabilities=capability_names(info.capabilities) if info is not None else (),
        message=message or error,
        image=cluster.image,
        ready=cluster.running and not word,
        reason=reason,
        revision=cluster.revision,
        wanted_revision=cluster.wanted_revision,
        generation=cluster.generation or driver_class.metadata.generation or 0,
    )

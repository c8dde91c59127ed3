"""What a DriverClass must not say, alone and beside the other classes of a site. Pure."""

from __future__ import annotations

import posixpath
from itertools import combinations
from typing import TYPE_CHECKING, Any

from graf.crd.base import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from graf.crd.driverclass import DriverClass, Permission
    from graf.crd.site import Site

STATE_DIR = "/var/lib/graf/driver-state"
# Names of the driver's objects are `graf-driver-<name>`, and the name of a Service has at most 63 characters.
LONGEST_NAME = 51
# Held in memory at common machines, or emptied when they start.
VOLATILE = ("/run", "/var/run", "/tmp", "/dev", "/proc", "/sys")  # noqa: S108 - refused, not used
RESERVED_VARIABLES = frozenset(
    {"GRAF_DRIVER_SOCKET", "GRAF_DRIVER_ENDPOINT", "GRAF_DRIVER_TLS_DIR", "GRAF_DRIVER_STATE_DIR"}
)
# Whoever may do these can make itself anything, or reads what is nobody's business.
FORBIDDEN_RESOURCES = frozenset(
    {"nodes/proxy", "pods/exec", "pods/attach", "pods/portforward", "pods/ephemeralcontainers", "serviceaccounts/token"}
)
FORBIDDEN_GROUPS = frozenset(
    {"rbac.authorization.k8s.io", "certificates.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io"}
)


def driver_container(template: Mapping[str, Any]) -> tuple[int, Mapping[str, Any]] | None:
    """The container that serves the contract: the one named `driver`, else the first; with its position."""
    pod = template.get("spec")
    containers = pod.get("containers") if isinstance(pod, dict) else None
    usable = [
        (index, item)
        for index, item in enumerate(containers if isinstance(containers, list) else [])
        if isinstance(item, dict)
    ]
    return next((pair for pair in usable if pair[1].get("name") == "driver"), usable[0] if usable else None)


def driver_class_problems(driver_class: DriverClass) -> list[Problem]:
    """What the class says that cannot be deployed, or must not be."""
    spec = driver_class.spec
    problems = list(_template(driver_class))
    if len(driver_class.name) > LONGEST_NAME:
        cause = f"has {len(driver_class.name)} characters, of which graf-driver-<name> leaves {LONGEST_NAME}"
        problems.append(Problem("metadata.name", cause, "choose a shorter name"))
    if spec.endpoint.kind == "TLS" and "GATE" in spec.required_capabilities:
        problems.append(
            Problem(
                "spec.endpoint.kind",
                "a driver with a GATE counts the lease on the controller's machine's own clock, and may run elsewhere",
                "use UnixSocket",
            )
        )
    for index, permission in enumerate(spec.permissions):
        problems += _permission(permission, f"spec.permissions[{index}]")
    return problems


def _template(driver_class: DriverClass) -> Iterator[Problem]:
    template = driver_class.spec.template
    found = driver_container(template)
    if found is None:
        yield Problem(
            "spec.template.spec.containers",
            "a Pod template needs at least one container",
            "list the driver's container with name and image",
        )
        return
    if shapes := list(_shapes(template)):
        yield from shapes
        return
    pod = template["spec"]
    for key in ("serviceAccountName", "serviceAccount"):
        if pod.get(key) not in (None, "", f"graf-driver-{driver_class.name}"):
            yield Problem(
                f"spec.template.spec.{key}",
                "the controller makes a ServiceAccount for each class",
                f"remove it, or name graf-driver-{driver_class.name}, and bind roles to that one",
            )
    for index, container in enumerate(pod["containers"]):
        if not isinstance(container, dict) or not container.get("image") or not container.get("name"):
            field = f"spec.template.spec.containers[{index}]"
            yield Problem(field, "a container needs a name and an image", "name both")
    index, driver = found
    field = f"spec.template.spec.containers[{index}]"
    for variable in _list(driver.get("env")):
        if variable.get("name") in RESERVED_VARIABLES:
            yield Problem(f"{field}.env", f"{variable['name']} is set by the controller", "remove it")
    for mount in _list(driver.get("volumeMounts")):
        below = mount_path(mount) == STATE_DIR or mount_path(mount).startswith(f"{STATE_DIR}/")
        if below and (cause := _forgets(_volume(pod, mount), mount)):
            fix = "use a hostPath or a persistentVolumeClaim, or leave it out: the controller adds a hostPath"
            yield Problem(f"{field}.volumeMounts", f"the volume at {STATE_DIR} {cause}", fix)


def _forgets(volume: Mapping[str, Any], mount: Mapping[str, Any]) -> str:
    """Why epochs would not be kept there; "" when they are."""
    host, claim = volume.get("hostPath"), volume.get("persistentVolumeClaim")
    if not host and not claim:
        return "does not outlive the Pod: the driver would forget the highest epoch"
    if mount.get("subPathExpr"):
        return "has a subPathExpr, by which each Pod may have a folder of its own: it would forget the highest epoch"
    if mount.get("readOnly"):
        return "is read-only: the driver could note no epoch, and would refuse every role"
    path = posixpath.normpath(str(host.get("path") or "")) if isinstance(host, dict) else ""
    if any(path == folder or path.startswith(f"{folder}/") for folder in VOLATILE):
        return f"is {path}, which a restart of the machine empties: the driver would forget the highest epoch"
    return ""


def _shapes(template: Mapping[str, Any]) -> Iterator[Problem]:
    """What is no list of mappings, or no mapping, where a Pod template has one; without a value it is as left out."""
    pod = template["spec"]
    lists = {"spec.template.spec.volumes": pod.get("volumes")}
    for index, container in enumerate(pod["containers"]):
        for key in ("env", "volumeMounts", "ports"):
            value = container.get(key) if isinstance(container, dict) else None
            lists[f"spec.template.spec.containers[{index}].{key}"] = value
    for field, value in lists.items():
        if value is not None and (not isinstance(value, list) or not all(isinstance(item, dict) for item in value)):
            yield Problem(field, "is no list of mappings", "give a list of them, as in any Pod, or leave it out")
    metadata = template.get("metadata")
    mappings = {"spec.template.metadata": metadata}
    if isinstance(metadata, dict):
        mappings |= {f"spec.template.metadata.{key}": metadata.get(key) for key in ("labels", "annotations")}
    for field, value in mappings.items():
        if value is not None and not isinstance(value, dict):
            yield Problem(field, "is no mapping", "give `name: value`, or leave it out")


def _list(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def mount_path(mount: Mapping[str, Any]) -> str:
    """Where it is mounted, written in one way: kubelet takes `/a/b/` and `/a//b` for `/a/b`."""
    return posixpath.normpath(str(mount.get("mountPath") or ""))


def state_mount(driver: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the template itself mounts for the epochs."""
    return next((item for item in _list(driver.get("volumeMounts")) if mount_path(item) == STATE_DIR), None)


def _volume(pod: Mapping[str, Any], mount: Mapping[str, Any]) -> dict[str, Any]:
    return next((item for item in _list(pod.get("volumes")) if item.get("name") == mount.get("name")), {})


def _permission(permission: Permission, field: str) -> Iterator[Problem]:
    if permission.cluster_wide and permission.namespaces:
        yield Problem(f"{field}.namespaces", "says nothing beside clusterWide", "choose one of the two")
    for group in permission.api_groups:
        if group in FORBIDDEN_GROUPS:
            cause = f"whoever may change {group} can give itself every right"
            yield Problem(f"{field}.apiGroups", cause, "leave it out: no driver gets it")
    for resource in permission.resources:
        if resource in FORBIDDEN_RESOURCES:
            cause = f"{resource} is a way around every other rule"
            yield Problem(f"{field}.resources", cause, "leave it out: no driver gets it")
    # By name, `list` and `watch` are allowed only with a field selector of that name. `create` knows no name, and who
    # may create and read a Secret gets the token of any ServiceAccount of the namespace.
    is_loose = permission.cluster_wide or not permission.resource_names or "create" in permission.verbs
    if "secrets" in permission.resources and is_loose:
        yield Problem(
            f"{field}.resources",
            "all Secrets of a namespace would be open to the driver",
            "name single ones in resourceNames, in named namespaces, with any verb but create; "
            "the site's administrator makes them, empty",
        )


def selects(driver_class: DriverClass, site: Site) -> bool:
    """Whether the driver class is for the site."""
    return all(
        site.metadata.labels.get(key) == value for key, value in driver_class.spec.site_selector.match_labels.items()
    )


def class_at(name: str, driver_classes: Mapping[str, DriverClass], site: Site | None) -> DriverClass | None:
    """The class that serves at a site where a group names `name`: itself, or its substitute for that site.

    A substitute has the same driver and instance; `claim_problems` sees to it that a site has one at most. A site
    that is not known gets what was named.
    """
    named = driver_classes.get(name)
    if named is None or site is None or selects(named, site):
        return named
    claim = (named.spec.driver, named.spec.instance)
    others = (
        item
        for _, item in sorted(driver_classes.items())
        if (item.spec.driver, item.spec.instance) == claim and selects(item, site)
    )
    return next(others, None)


def claim_problems(driver_classes: Mapping[str, DriverClass], sites: Mapping[str, Site]) -> dict[str, list[Problem]]:
    """Class -> what it claims that an older class has already, at a site that both select.

    The older one keeps it: a class that somebody adds must not stop a driver that serves.
    """
    problems: dict[str, list[Problem]] = {}
    by_age = sorted(driver_classes.values(), key=lambda item: (_created(item), item.name))
    for older, newer in combinations(by_age, 2):
        shared = sorted(name for name, site in sites.items() if selects(older, site) and selects(newer, site))
        if not shared:
            continue
        where = f"at {', '.join(shared)}"
        if (older.spec.driver, older.spec.instance) == (newer.spec.driver, newer.spec.instance):
            instance = f" (instance {older.spec.instance})" if older.spec.instance else ""
            cause = f"DriverClass {older.name} is {older.spec.driver}{instance} {where} already"
            fix = "use that one, give both a siteSelector without a common site, or give this one an instance"
            problems.setdefault(newer.name, []).append(Problem("spec.driver", cause, fix))
        if (path := state_path(older)) == state_path(newer):
            cause = f"DriverClass {older.name} keeps its epochs in {path} {where} already"
            fix = f"mount another path at {STATE_DIR}, or leave it to the controller"
            problems.setdefault(newer.name, []).append(Problem("spec.template.spec.volumes", cause, fix))
    return problems


def state_path(driver_class: DriverClass) -> str:
    """Where the class keeps its epochs, in words that are equal when the place is."""
    return epochs_in(driver_class.spec.template, driver_class.name)


def epochs_in(template: Mapping[str, Any], name: str) -> str:
    """As `state_path`, of the Pod template of the class of that name."""
    found = driver_container(template)
    mount = None if found is None else state_mount(found[1])
    if mount is None:
        return f"{STATE_DIR}/{name}"
    volume, below = _volume(template["spec"], mount), str(mount.get("subPath") or "")
    if isinstance(host := volume.get("hostPath"), dict):
        return posixpath.normpath(posixpath.join(str(host.get("path") or ""), below))
    if isinstance(claim := volume.get("persistentVolumeClaim"), dict):
        return posixpath.normpath(posixpath.join(f"claim {claim.get('claimName', '')}", below))
    return f"volume of {name}"


def _created(driver_class: DriverClass) -> str:
    # In a Git tree nothing has an age: there the name decides, and the commit is refused as a whole anyway.
    return str((driver_class.metadata.model_extra or {}).get("creationTimestamp", ""))

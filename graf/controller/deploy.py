"""What the controller keeps in its own cluster: the objects of its drivers, and the GroupAssignments.

Runs in a thread of its own; the lease loop never waits for it. Level-based: each round reads what is there, plans
(`rollout`), and writes.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from graf.controller import pods
from graf.controller.cluster_api import ApiError, ClusterApi
from graf.controller.driver_reports import ClassState
from graf.controller.rendering import (
    APPROVED,
    CLASS_LABEL,
    MANAGED_BY,
    REVISION,
    Rendered,
    object_name,
    render,
    role_name,
)
from graf.controller.rollout import Deployed, Planned, Step, Use, Wish, outdated, plan
from graf.crd.driver_rules import driver_container, epochs_in
from graf.shell.disk import write_durably
from graf.shell.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from graf.controller.dialing import Dialer
    from graf.controller.driver_pki import DriverPki
    from graf.crd.assignment import GroupAssignmentSpec
    from graf.crd.driverclass import DriverClass

LOG = logging.getLogger("graf.deploy")

RETRY_S = 2.0
ROUND_EVERY_S = 5.0
REPAIR_EVERY_S = 300.0
LONGEST_MESSAGE = 800
# Longer without a look at a Pod that is refused is a break: it may have been there meanwhile.
LONGEST_GAP_S = 30.0
# The manager's word, in the class it sends: sites that take an automatic upgrade before this one.
WAITS_FOR = "graf.dev/upgrade-waits-for"
_SELECTOR = ",".join(f"{key}={value}" for key, value in MANAGED_BY.items())
# The Deployment goes last: as long as it is there, a clean-up that was cut short is begun again.
_OWNED = ("Service", "ServiceAccount", "Deployment")


@dataclass(frozen=True, slots=True)
class Desired:
    """What the cluster should hold.

    Attributes:
        classes: that the groups of this site use, by name.
        existing: names of every class that exists; None when that is not known completely.
    """

    classes: Mapping[str, DriverClass] = field(default_factory=dict)
    assignments: tuple[GroupAssignmentSpec, ...] = ()
    existing: frozenset[str] | None = None


class ClusterKeeper:
    """Applies what is desired, again and again until the API server has taken it."""

    def __init__(
        self,
        namespace: str,
        socket_dir: str,
        statuses: Callable[[], dict[str, dict[str, Any]]],
        uses: Callable[[], Mapping[str, tuple[Use, str]]],
        pki: DriverPki,
        dialer: Dialer,
        good_dir: Path,
        api: ClusterApi | None = None,
    ) -> None:
        self._namespace, self._socket_dir = namespace, socket_dir
        self._statuses, self._uses = statuses, uses
        self._pki, self._dialer = pki, dialer
        self._good = _GoodRevisions(good_dir)
        self._refused: dict[str, tuple[str, str]] = {}
        # Class -> revision whose Pod is refused, since when, and when that was seen last, by the monotonic clock.
        self._pods_refused: dict[str, tuple[str, float, float]] = {}
        self._ledger = _Ledger(good_dir.parent / "objects.json")
        self._applied: dict[str, tuple[Rendered, float]] = {}
        self._api = api or ClusterApi(namespace)
        self._inbox: queue.Queue[Desired | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)
        self._told: dict[str, dict[str, Any]] = {}
        self._assigned: tuple[GroupAssignmentSpec, ...] = ()
        self._last_steps: dict[str, Planned] = {}
        # Replaced as a whole: the lease loop reads it.
        self.states: Mapping[str, ClassState] = {}

    def start(self) -> None:
        """Begins in a thread of its own."""
        self._thread.start()

    def want(self, desired: Desired) -> None:
        """Takes a newer wish; returns at once."""
        self._inbox.put(desired)

    def close(self) -> None:
        """Ends the thread; the cluster stays as it is."""
        self._inbox.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        desired: Desired | None = None
        wait_s = ROUND_EVERY_S
        while True:
            try:
                item = self._inbox.get(timeout=wait_s)
                while not self._inbox.empty() and item is not None:
                    item = self._inbox.get_nowait()
                if item is None:
                    return
                desired = item
            except queue.Empty:
                pass
            if desired is None:
                continue
            try:
                self.round(desired)
                wait_s = ROUND_EVERY_S
            except (ApiError, OSError) as error:
                event(LOG, "the API server did not take it", logging.WARNING, cause=str(error).splitlines()[0])
                wait_s = RETRY_S
            except Exception:
                # A defect must not end the thread: it is told, and the next round reads everything anew.
                LOG.exception("the round failed unexpectedly; trying again")
                wait_s = RETRY_S

    def round(self, desired: Desired) -> None:
        """Reads, plans, writes. Any number of rounds without news comes to the same.

        Raises:
            ApiError: the API server does not answer, or refused an assignment.
        """
        if desired.assignments != self._assigned:
            for spec in desired.assignments:
                self._api.apply(_assignment(spec, self._namespace))
            self._assigned, self._told = desired.assignments, {}
        self._tell_status(desired)
        documents = {_class_of(item): item for item in self._api.listed("Deployment", _SELECTOR)}
        found = pods.facts(self._api.listed("Pod", _SELECTOR), time.time())
        deployed = {
            name: self._deployed(name, item, found.get(name) or pods.facts_without_pod(item))
            for name, item in documents.items()
            if name
        }
        for name, now in deployed.items():
            if now.ready:
                self._good.keep(name, now.revision, documents[name])
        rendered = {name: self._render(item) for name, item in desired.classes.items()}
        wishes = {
            name: Wish(
                made.revision,
                item.spec.upgrade,
                item.metadata.annotations.get(WAITS_FOR, ""),
                self._good.epochs_elsewhere(name, made.deployment),
            )
            for name, item in desired.classes.items()
            if (made := rendered[name]) is not None
        }
        uses = self._uses()
        unsettled = (Use.UNSETTLED, "its group has no role here yet")
        use = {name: uses.get(name, unsettled) for name in wishes}
        steps = plan(wishes, deployed, use, self._good.revisions(), self._refused)
        states = {
            name: ClassState(reason="TemplateInvalid", message="its Pod template cannot be used")
            for name, made in rendered.items()
            if made is None
        }
        for name, step in steps.items():
            self._log(name, step)
            made = rendered[name]
            assert made is not None
            states[name] = self._take(name, step, made, deployed.get(name), desired.classes[name])
        self.states = states
        self._remember_addresses(documents)
        self._clean_up(desired, documents)

    def _deployed(self, name: str, document: Mapping[str, Any], pod: pods.PodFacts) -> Deployed:
        now_s, refused_s = time.monotonic(), 0.0
        revision, since_s, seen_s = self._pods_refused.pop(name, ("", 0.0, 0.0))
        if pod.reason == pods.POD_REFUSED:
            if revision != pod.revision or now_s - seen_s > LONGEST_GAP_S:
                since_s = now_s
            self._pods_refused[name] = (pod.revision, since_s, now_s)
            refused_s = now_s - since_s
        return Deployed(_annotation(document, REVISION), pod, _annotation(document, APPROVED), refused_s)

    def _render(self, driver_class: DriverClass) -> Rendered | None:
        secret = None
        if driver_class.spec.endpoint.kind == "TLS":
            secret = self._pki.driver(driver_class.name).secret()
        try:
            return render(driver_class, self._namespace, self._socket_dir, secret)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # The manager refuses such a template; an older one may be on the disk.
            event(LOG, "the template cannot be used", logging.ERROR, driver_class=driver_class.name, cause=str(error))
            return None

    def _take(
        self, name: str, planned: Planned, made: Rendered, now: Deployed | None, driver_class: DriverClass
    ) -> ClassState:
        state = ClassState(
            deployed=now is not None,
            running=now is not None and now.ready and now.revision == made.revision,
            reason=planned.reason or (now.pod.reason if now is not None else ""),
            message=planned.message or (now.pod.message if now is not None else ""),
            image=made.image,
            revision=now.revision if now is not None else "",
            wanted_revision=made.revision,
            generation=driver_class.metadata.generation or 0,
        )
        if planned.step is Step.HOLD and now is not None and now.pod.reason == pods.POD_REFUSED:
            state = replace(state, reason=now.pod.reason, message=f"{now.pod.message}; {planned.message}")
        try:
            if planned.step is Step.ROLL_BACK and now is not None:
                self._refused[name] = (now.revision, f"{planned.reason}: {planned.message}")
                self._api.apply(self._good.document(name))
            elif planned.step is Step.RESTORE:
                self._renew(name, made, "ServiceAccount")
                self._api.apply(self._good.document(name))
            elif planned.step in (Step.APPLY, Step.KEEP):
                self._apply(name, made, again=planned.step is Step.APPLY, there=now is not None)
                if planned.step is Step.APPLY:
                    return replace(state, deployed=True, reason="Starting", message="", revision=made.revision)
            else:
                # The revision before still runs: it keeps what it has, with a certificate that is valid.
                self._renew(name, made)
        except ApiError as error:
            if error.status == 0:
                raise
            reason = "PermissionRefused" if error.status == 403 else "Refused"
            event(LOG, "driver not deployed", logging.ERROR, driver_class=name, reason=reason, cause=str(error))
            hint = "; the site's controller hands out only what it may do itself" if error.status == 403 else ""
            return replace(state, reason=reason, message=f"{str(error)[:LONGEST_MESSAGE]}{hint}")
        return state

    def _renew(self, name: str, made: Rendered, *more: str) -> None:
        """The certificate: it ends by its date, whatever else of the class is refused or waits. And `more` kinds."""
        documents = [document for document in made.before if document["kind"] in ("Secret", *more)]
        self._ledger.add(name, documents)
        for document in documents:
            self._api.apply(document)

    def _apply(self, name: str, made: Rendered, again: bool, there: bool) -> None:
        """Everything of a class: when it changed, and now and then, because somebody else may have changed it."""
        last, when = self._applied.get(name, (None, 0.0))
        if not again and last == made and time.monotonic() - when < REPAIR_EVERY_S:
            return
        self._applied.pop(name, None)
        if there:
            self._renew(name, made)
        # A template that is refused must leave the driver that runs with the rights that it has.
        self._api.apply(made.deployment, only_check=True)
        self._ledger.add(name, made.before)
        for document in made.before:
            self._api.apply(document)
        self._api.apply(made.deployment)
        # What it may do no longer, and what it is reached by no longer.
        for kind, namespace, other in self._ledger.leftovers(name, made.before):
            self._api.delete(kind, other, namespace)
        self._ledger.replace(name, made.before)
        self._applied[name] = (made, time.monotonic())

    def _log(self, name: str, planned: Planned) -> None:
        if self._last_steps.get(name) != planned and planned.step is not Step.KEEP:
            level = logging.INFO if planned.step is Step.APPLY else logging.WARNING
            event(LOG, f"driver: {planned.step.value}", level, driver_class=name, **_words(planned))
        self._last_steps[name] = planned

    def _remember_addresses(self, documents: Mapping[str, dict[str, Any]]) -> None:
        """Where the drivers that are deployed serve TLS: what runs counts, not what is wished for."""
        addresses = {}
        services: dict[str, str] | None = None
        for name, document in documents.items():
            port = _tls_port(document)
            if not name or port is None:
                continue
            if services is None:
                listed = self._api.listed("Service", _SELECTOR)
                services = {item["metadata"]["name"]: str(item["spec"].get("clusterIP", "")) for item in listed}
            if address := services.get(object_name(name), ""):
                addresses[name] = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._dialer.told(addresses)

    def _clean_up(self, desired: Desired, documents: Mapping[str, dict[str, Any]]) -> None:
        in_use = {c.driver_class for spec in desired.assignments for c in spec.components} | set(self._uses())
        labelled = {name for name in documents if name} | self._ledger.classes()
        # A list without any class at all is none that anybody would act on.
        existing = set(desired.existing) if desired.existing else None
        for name in outdated(labelled, set(desired.classes), in_use, existing):
            event(LOG, "driver removed: its class is gone and nothing uses it", driver_class=name)
            for kind, namespace, other in self._ledger.leftovers(name, ()):
                self._api.delete(kind, other, namespace)
            for kind in ("RoleBinding", "Role"):
                self._api.delete(kind, role_name(name))
            for kind in _OWNED:
                self._api.delete(kind, object_name(name))
            self._ledger.replace(name, ())
            self._applied.pop(name, None)

    def _tell_status(self, desired: Desired) -> None:
        now = {g: s for g, s in self._statuses().items() if any(a.group == g for a in desired.assignments)}
        for group, status in now.items():
            if self._told.get(group) != status:
                stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                self._api.merge_status("GroupAssignment", group, {**status, "observedAt": stamp})
        self._told = now


class _Ledger:
    """Which objects were made for each class, on the disk: only what is known to be ours is ever deleted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._made: dict[str, list[list[str]]] = {}
        try:
            self._made = json.loads(path.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            event(LOG, "the list of made objects is unreadable", logging.ERROR, file=str(path), cause=str(error))

    def classes(self) -> set[str]:
        """Classes with objects."""
        return set(self._made)

    def add(self, name: str, documents: Iterable[dict[str, Any]]) -> None:
        """These will be made: noted first."""
        known = self._made.get(name, [])
        self._write(name, known + [key for key in map(_key, documents) if key not in known])

    def leftovers(self, name: str, documents: Iterable[dict[str, Any]]) -> list[list[str]]:
        """(kind, namespace, name) of what was made and is not among these."""
        wanted = [_key(item) for item in documents]
        return [key for key in reversed(self._made.get(name, [])) if key not in wanted]

    def replace(self, name: str, documents: Iterable[dict[str, Any]]) -> None:
        """These, and no others, are there now."""
        self._write(name, [_key(item) for item in documents])

    def _write(self, name: str, keys: list[list[str]]) -> None:
        if self._made.get(name, []) == keys:
            return
        self._made[name] = keys
        if not keys:
            del self._made[name]
        write_durably(self._path, json.dumps(self._made, indent=1, sort_keys=True).encode())


def _key(document: dict[str, Any]) -> list[str]:
    metadata = document["metadata"]
    return [document["kind"], metadata.get("namespace", ""), metadata["name"]]


class _GoodRevisions:
    """The newest revision of each driver that was ready here, on the disk: what a failed upgrade goes back to."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._documents: dict[str, dict[str, Any]] = {}
        for path in sorted(directory.glob("*.json")):
            try:
                self._documents[path.stem] = json.loads(path.read_bytes())
            except (OSError, ValueError) as error:
                event(LOG, "a kept revision is unreadable", logging.WARNING, file=str(path), cause=str(error))

    def revisions(self) -> dict[str, str]:
        """Class -> revision."""
        return {name: _annotation(item, REVISION) for name, item in self._documents.items()}

    def document(self, name: str) -> dict[str, Any]:
        """The Deployment to apply again."""
        return self._documents[name]

    def epochs_elsewhere(self, name: str, deployment: dict[str, Any]) -> str:
        """Where the epochs of the one that was ready are, when this one would look for them elsewhere; else ""."""
        if name not in self._documents:
            return ""
        before, after = (epochs_in(item["spec"]["template"], name) for item in (self._documents[name], deployment))
        return "" if before == after else f"{before} (it would look in {after})"

    def keep(self, name: str, revision: str, deployment: dict[str, Any]) -> None:
        """This revision was ready."""
        if _annotation(self._documents.get(name, {}), REVISION) == revision or not revision:
            return
        spec = deployment["spec"]
        self._documents[name] = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": deployment["metadata"]["name"],
                "namespace": deployment["metadata"]["namespace"],
                "labels": deployment["metadata"].get("labels", {}),
                "annotations": {REVISION: revision},
            },
            "spec": {key: spec[key] for key in ("replicas", "strategy", "selector", "template")},
        }
        write_durably(self._directory / f"{name}.json", json.dumps(self._documents[name]).encode())


def _annotation(document: Mapping[str, Any], key: str) -> str:
    return str(document.get("metadata", {}).get("annotations", {}).get(key, ""))


def _class_of(document: Mapping[str, Any]) -> str:
    metadata = document["metadata"]
    # Deployments of controllers before this label are known by their name.
    return str(metadata.get("labels", {}).get(CLASS_LABEL) or str(metadata["name"]).removeprefix("graf-driver-"))


def _tls_port(document: Mapping[str, Any]) -> int | None:
    found = driver_container(document["spec"]["template"])
    variables = found[1].get("env", []) if found is not None else []
    value = next((str(item.get("value")) for item in variables if item.get("name") == "GRAF_DRIVER_ENDPOINT"), "")
    port = value.rpartition(":")[2]
    return int(port) if port.isdigit() else None


def _assignment(spec: GroupAssignmentSpec, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "graf.dev/v1alpha1",
        "kind": "GroupAssignment",
        "metadata": {"name": spec.group, "namespace": namespace},
        "spec": spec.to_dict(),
    }


def _words(planned: Planned) -> dict[str, str]:
    return {key: value for key, value in (("reason", planned.reason), ("cause", planned.message)) if value}

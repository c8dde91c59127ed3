"""The Kubernetes API by the official client: plain objects, any kind by discovery, one error for each thing to do."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import urllib3
from graf_driver_sdk.errors import DriverError, PreconditionError
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException

from graf_driver_workload.names import FIELD_MANAGER
from graf_driver_workload.parameters import Kind

Object = dict[str, Any]
KUBECONFIG_VARIABLE: Final = "GRAF_WORKLOAD_KUBECONFIG"
MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
_CONNECT_S: Final = 1.0
_READ_S: Final = 5.0


class ApiUnreachableError(DriverError):
    """No answer: nothing is known, and what was asked for may have happened."""

    reason = "api-unreachable"


class ForbiddenError(DriverError):
    """The driver's ServiceAccount lacks a permission; nothing was changed by this request."""

    reason = "forbidden"


class ApiRefusedError(PreconditionError):
    """The API server refused what was sent; nothing was changed by this request."""

    reason = "api-refused"


class NoSuchKindError(PreconditionError):
    """The cluster does not know the kind."""

    reason = "no-such-kind"


class ConflictError(Exception):
    """Somebody changed the object since it was read: read it again. `fields`: who owns what, of an apply."""

    def __init__(self, message: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.fields = fields


@dataclass(frozen=True, slots=True)
class Resource:
    """Where objects of a kind are."""

    kind: Kind
    plural: str
    has_scale: bool
    namespaced: bool

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """The path of an object, or of the list of them."""
        version = self.kind.api_version
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        return "/".join(part for part in (root, "namespaces", namespace, self.plural, name, subresource) if part)


class KubeApi:
    """One API server. Safe to use from several threads; every request has a time-out."""

    _merge_headers: ClassVar[Mapping[str, str]] = {"Content-Type": MERGE}

    def __init__(self) -> None:
        """Connects to nothing yet. GRAF_WORKLOAD_KUBECONFIG, else the Pod's service account, else KUBECONFIG.

        Raises:
            DriverError: none of them can be used.
        """
        settings = client.Configuration()
        try:
            _load(settings)
        except (ConfigException, OSError) as error:
            raise DriverError(
                f"no way to the API server: {error}. Run in a Pod with a service account, or set {KUBECONFIG_VARIABLE}",
                reason="no-kubeconfig",
            ) from error
        settings.retries = False
        settings.connection_pool_maxsize = 8
        self._client = client.ApiClient(settings)
        self._resources: dict[Kind, Resource] = {}
        self._lock = threading.Lock()

    def resource(self, kind: Kind) -> Resource:
        """Where objects of a kind are, by discovery; remembered.

        Raises:
            NoSuchKindError: the cluster has no such kind.
        """
        if (known := self._resources.get(kind)) is not None:
            return known
        version = kind.api_version
        listed = self.get(f"/apis/{version}" if "/" in version else f"/api/{version}")
        entries = [] if listed is None else listed.get("resources", [])
        names = {entry["name"] for entry in entries}
        for entry in entries:
            if entry["kind"] == kind.kind and "/" not in entry["name"]:
                found = Resource(kind, entry["name"], f"{entry['name']}/scale" in names, entry["namespaced"])
                with self._lock:
                    self._resources[kind] = found
                return found
        raise NoSuchKindError(
            f"this cluster has no {kind.kind} in {version}; install its CRD, or correct apiVersion and kind"
        )

    def get(self, path: str, **query: str) -> Object | None:
        """An object, as of now and not out of a cache; None when there is none."""
        return self._request("GET", path, query)

    def items(self, path: str, **query: str) -> list[Object]:
        """A list, as of now.

        Raises:
            NoSuchKindError: there is no such list.
        """
        found = self._request("GET", path, query)
        if found is None:
            raise NoSuchKindError(f"the API server has no {path}")
        return list(found.get("items", []))

    def merge(self, path: str, body: Object) -> Object | None:
        """Merges into an object; None when there is none.

        Raises:
            ConflictError: `body` has a resourceVersion, and the object another one by now.
        """
        return self._request("PATCH", path, {"fieldManager": FIELD_MANAGER}, body, self._merge_headers)

    def apply(self, path: str, body: Object, *, force: bool = False) -> Object:
        """Server-side apply with a field manager of its own.

        Raises:
            ConflictError: others own fields and `force` is off, or the resourceVersion is not that of `body` any more.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        answer = self._request("PATCH", path, query, json.dumps(body), {"Content-Type": APPLY})
        if answer is None:
            raise ApiRefusedError(f"{path} cannot be applied: its namespace does not exist; create it")
        return answer

    def delete(self, path: str, uid: str) -> None:
        """Deletes this very object and, in the background, what belongs to it. One that is gone is no error."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        self._request("DELETE", path, {}, body, {"Content-Type": "application/json"})

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Object | None:
        what = f"{method} {path}"
        try:
            prepared = self._client.param_serialize(
                method,
                path,
                query_params=list(query.items()),
                header_params={"Accept": "application/json", **(headers or {})},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = self._client.call_api(*prepared, _request_timeout=(_CONNECT_S, _READ_S))
            content = response.read()  # type: ignore[no-untyped-call]
        except (urllib3.exceptions.HTTPError, OSError, ApiException) as error:
            raise ApiUnreachableError(
                f"the API server does not answer {what}: {type(error).__name__}. Nothing is known of the workload; "
                f"look at the API server of this site, then call again"
            ) from error
        return _answer(what, response.status, content)


def _load(settings: client.Configuration) -> None:
    if named := os.environ.get(KUBECONFIG_VARIABLE):
        config.load_kube_config(config_file=named, client_configuration=settings)  # type: ignore[no-untyped-call]
    elif os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    else:
        config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]


def _answer(what: str, status: int, content: bytes) -> Object | None:
    try:
        answer = json.loads(content)
        if not isinstance(answer, dict):
            raise ValueError("no object")
    except ValueError as error:
        if 200 <= status < 300:
            raise ApiUnreachableError(f"the answer to {what} is no JSON object: it was cut off; call again") from error
        answer = {}
    if 200 <= status < 300:
        return answer
    message = str(answer.get("message", f"HTTP {status}"))
    if status == 404:
        return None
    if status == 409:
        causes = answer.get("details", {}).get("causes", [])
        fields = tuple(f"{c['field']} ({c['message']})" for c in causes if c.get("reason") == "FieldManagerConflict")
        raise ConflictError(message, fields)
    if status in (401, 403):
        raise ForbiddenError(f"{what} is not permitted: {message}; see the permissions of the workload driver")
    if status in (400, 405, 415, 422):
        raise ApiRefusedError(f"{what} is refused: {message}; correct what the component applies or selects")
    raise ApiUnreachableError(f"the API server cannot do {what} now (HTTP {status}): {message}; call again")

"""This site's API server: list, watch, get, server-side apply, delete. Blocking; every request has a time-out.

Messages of the API server are never passed on: they can quote values of a Secret. Reason, code and field names are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import urllib3
from kubernetes import client, config

from graf_driver_objects.model import Manifest, Ref
from graf_driver_objects.parameters import Selection

_TIMEOUT: Final = urllib3.Timeout(connect=2.0, read=8.0)
_ALIVE: Final = urllib3.Timeout(connect=2.0, read=3.0)
_PAGE: Final = 500
WATCH_S: Final = 20
# The client library has no types.
_LOAD_FILE: Final[Any] = config.load_kube_config
_LOAD_POD: Final[Any] = config.load_incluster_config


class ClusterError(Exception):
    """A request failed; the message names reason and fields, and no content.

    Attributes:
        status: HTTP status; 0 when there was no answer.
        reason: Kubernetes' word, e.g. Conflict, NotFound, Expired, Forbidden.
        fields: of the causes, e.g. the conflicting ones with their managers.
    """

    def __init__(self, what: str, status: int, reason: str, fields: tuple[str, ...] = ()) -> None:
        super().__init__(f"{what}: {reason or status}" + (f" ({'; '.join(fields)})" if fields else ""))
        self.status = status
        self.reason = reason
        self.fields = fields

    @property
    def unreachable(self) -> bool:
        """Whether the outcome is unknown: no answer, or the server's own failure."""
        return self.status == 0 or self.status >= 500 or self.status == 429


class NoSuchKindError(ClusterError):
    """The API server does not serve the kind (its CRD is not installed here)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind is reached."""

    path: str
    plural: str
    namespaced: bool

    def url(self, namespace: str, name: str = "") -> str:
        """Path of a collection or of an object; all namespaces when none is given."""
        where = f"/namespaces/{quote(namespace, safe='')}" if self.namespaced and namespace else ""
        return f"{self.path}{where}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")


class Cluster:
    """Thread-safe; connections are pooled. Kinds are looked up once and again after NotFound."""

    def __init__(self, kubeconfig: Path | None, manager: str) -> None:
        """Reads the configuration.

        Raises:
            ClusterError: there is none that can be used.
        """
        configuration = client.Configuration()
        try:
            if kubeconfig is not None:
                _LOAD_FILE(str(kubeconfig), client_configuration=configuration, persist_config=False)
            else:
                _LOAD_POD(client_configuration=configuration)
        except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            source = kubeconfig or "the Pod's service account"
            raise ClusterError(f"{source} gives no access to the API server", 0, type(error).__name__) from None
        configuration.retries = False
        configuration.connection_pool_maxsize = 64
        self._client = client.ApiClient(configuration)
        self._pool = self._client.rest_client.pool_manager
        self._host = configuration.host.rstrip("/")
        self._manager = manager
        self._kinds: dict[tuple[str, str], Kind] = {}
        self._lock = threading.Lock()

    def kind(self, api_version: str, kind: str) -> Kind:
        """Looks a kind up.

        Raises:
            NoSuchKindError: it is not served here.
            ClusterError: that cannot be told.
        """
        with self._lock:
            known = self._kinds.get((api_version, kind))
        if known is not None:
            return known
        path = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
        what = f"looking up {kind} of {api_version}"
        fix = f"{kind} of {api_version} is not served here; install its CRD at this site"
        try:
            listed = self._call("GET", path, what)
        except ClusterError as error:
            if error.status == 404:
                raise NoSuchKindError(what, 404, fix) from None
            raise
        for resource in listed.get("resources", []):
            if resource["kind"] == kind and "/" not in resource["name"]:
                found = Kind(path, resource["name"], bool(resource["namespaced"]))
                with self._lock:
                    self._kinds[api_version, kind] = found
                return found
        raise NoSuchKindError(what, 404, fix)

    def listing(self, selection: Selection) -> tuple[dict[Ref, Manifest], str]:
        """Everything selected, and the resource version from which a watch continues. All pages or an error."""
        url = self._kind_of(selection).url(selection.namespace)
        found: dict[Ref, Manifest] = {}
        query: dict[str, Any] = {**_query(selection), "limit": _PAGE}
        while True:
            page = self._call("GET", f"{url}?{urlencode(query)}", f"listing {selection}")
            for item in page["items"]:
                item.update(apiVersion=selection.api_version, kind=selection.kind)
                found[Ref.of(item)] = item
            more = page["metadata"].get("continue")
            if not more:
                return found, page["metadata"]["resourceVersion"]
            query["continue"] = more

    def watch(self, selection: Selection, version: str) -> Iterator[tuple[str, Manifest]]:
        """(type, object) of each change after `version`, BOOKMARK included; ends by itself after `WATCH_S`.

        Raises:
            ClusterError: reason Expired when the version is too old: list again.
        """
        query = {
            **_query(selection),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": WATCH_S,
        }
        url = f"{self._kind_of(selection).url(selection.namespace)}?{urlencode(query)}"
        what = f"watching {selection}"
        timeout = urllib3.Timeout(connect=2.0, read=WATCH_S + 10.0)
        response = self._request("GET", url, what, None, None, timeout, preload=False)
        try:
            if response.status != 200:
                raise _error(what, response.status, response.read())
            for event in _lines(response, what):
                if event["type"] == "ERROR":
                    raise _error(what, int(event["object"].get("code") or 500), json.dumps(event["object"]).encode())
                yield event["type"], event["object"]
        finally:
            response.close()
            response.release_conn()

    def answers(self) -> None:
        """Asks for a sign of life: an open watch of a server that hangs is as silent as one without changes.

        Raises:
            ClusterError: there is none.
        """
        what = "asking the API server whether it is ready"
        response = self._request("GET", "/readyz", what, None, None, _ALIVE, preload=True)
        if response.status >= 500:
            raise ClusterError(what, response.status, "it says that it is not")

    def get(self, ref: Ref) -> Manifest | None:
        """The object; None only when the API server says that it does not exist."""
        url = self.kind(ref.api_version, ref.kind).url(ref.namespace, ref.name)
        try:
            return self._call("GET", url, f"reading {ref}")
        except ClusterError as error:
            if error.status == 404 and error.reason == "NotFound":
                self._kinds_again(ref)
                return None
            raise

    def apply(self, manifest: Mapping[str, Any], *, force: bool = False) -> Manifest:
        """Server-side apply under our field manager.

        Raises:
            ClusterError: reason Conflict with the fields and their managers when somebody else owns one of them.
        """
        ref = Ref.of(manifest)
        query = urlencode({"fieldManager": self._manager, "force": str(force).lower(), "fieldValidation": "Ignore"})
        url = f"{self.kind(ref.api_version, ref.kind).url(ref.namespace, ref.name)}?{query}"
        return self._call("PATCH", url, f"applying {ref}", manifest, "application/apply-patch+yaml")

    def could_create(self, manifest: Mapping[str, Any]) -> None:
        """Asks whether an object like this could be made beside the one of its name; nothing is made.

        Raises:
            ClusterError: it could not: fields that are invalid, an admission policy, a quota.
        """
        ref = Ref.of(manifest)
        metadata = {name: value for name, value in manifest["metadata"].items() if name != "name"}
        body = {**manifest, "metadata": {**metadata, "generateName": "graf-objects-"}}
        query = urlencode({"fieldManager": self._manager, "dryRun": "All", "fieldValidation": "Ignore"})
        url = f"{self.kind(ref.api_version, ref.kind).url(ref.namespace)}?{query}"
        self._call("POST", url, f"trying to make {ref}", body, "application/json")

    def replace(self, manifest: Mapping[str, Any]) -> Manifest:
        """Writes the whole object, as it was read at the resource version that it carries."""
        ref = Ref.of(manifest)
        url = f"{self.kind(ref.api_version, ref.kind).url(ref.namespace, ref.name)}?fieldManager=graf-objects-replace"
        return self._call("PUT", url, f"replacing {ref}", manifest, "application/json")

    def delete(self, live: Mapping[str, Any]) -> None:
        """Deletes exactly this object as it was read: not a later one of the same name, nor a changed one."""
        ref = Ref.of(live)
        metadata = live["metadata"]
        options = {"preconditions": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}}
        url = self.kind(ref.api_version, ref.kind).url(ref.namespace, ref.name)
        try:
            self._call("DELETE", url, f"deleting {ref}", options, "application/json")
        except ClusterError as error:
            if error.status != 404:
                raise

    def denied(self, selection: Selection, verbs: tuple[str, ...], namespace: str) -> list[str]:
        """Of the verbs, those that this driver's account may not use on what is selected."""
        kind = self._kind_of(selection)
        group = selection.api_version.rpartition("/")[0]
        refused = []
        for verb in verbs:
            attributes = {"verb": verb, "group": group, "resource": kind.plural, "namespace": namespace}
            if selection.name and verb != "create":
                attributes["name"] = selection.name
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            }
            url = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
            answer = self._call("POST", url, f"asking for permissions on {selection}", review, "application/json")
            if not answer.get("status", {}).get("allowed"):
                refused.append(verb)
        return refused

    def close(self) -> None:
        """Lets go of idle connections."""
        self._pool.clear()

    def _kind_of(self, selection: Selection) -> Kind:
        return self.kind(selection.api_version, selection.kind)

    def _kinds_again(self, ref: Ref) -> None:
        """A missing object can mean a missing kind: the next look-up asks, and says so."""
        with self._lock:
            self._kinds.pop((ref.api_version, ref.kind), None)
        self.kind(ref.api_version, ref.kind)

    def _call(
        self, method: str, url: str, what: str, body: Mapping[str, Any] | None = None, content: str | None = None
    ) -> Manifest:
        response = self._request(method, url, what, body, content, _TIMEOUT, preload=True)
        if not 200 <= response.status < 300:
            raise _error(what, response.status, response.data)
        try:
            answer: Manifest = json.loads(response.data)
        except ValueError:
            raise ClusterError(what, 0, "the answer is no JSON; is this an API server?") from None
        return answer

    def _request(
        self,
        method: str,
        url: str,
        what: str,
        body: Mapping[str, Any] | None,
        content: str | None,
        timeout: urllib3.Timeout,
        *,
        preload: bool,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "graf-driver-objects"}
        if content:
            headers["Content-Type"] = content
        self._client.update_params_for_auth(headers, [], ["BearerToken"], url, method, None)
        try:
            response: urllib3.BaseHTTPResponse = self._pool.request(
                method,
                self._host + url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=timeout,
                retries=False,
                preload_content=preload,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(what, 0, f"the API server {self._host} gives no answer ({_short(error)})") from None
        return response


def _query(selection: Selection) -> dict[str, Any]:
    if selection.name:
        return {"fieldSelector": f"metadata.name={selection.name}"}
    return {"labelSelector": selection.label_selector} if selection.label_selector else {}


def _lines(response: urllib3.BaseHTTPResponse, what: str) -> Iterator[Any]:
    """JSON lines of a stream. A line that is cut off is never half an event."""
    rest = b""
    try:
        for chunk in response.stream(65536):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                if line.strip():
                    yield json.loads(line)
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise ClusterError(what, 0, f"the stream broke ({_short(error)})") from None


def _error(what: str, status: int, body: bytes) -> ClusterError:
    try:
        answer = json.loads(body)
        reason = str(answer.get("reason") or "")
        details = answer.get("details") or {}
        causes = details.get("causes") or []
        absent = str(details.get("name")) if status == 404 and details.get("kind") == "namespaces" else ""
    except (ValueError, AttributeError):
        return ClusterError(what, status, f"HTTP status {status}")
    fields = [f"the namespace {absent} is not there; create it"] if absent else []
    for cause in causes:
        field = str(cause.get("field") or "")
        # A conflict's message has the manager's name and no value; any other message may quote values.
        manager = str(cause.get("message") or "") if cause.get("reason") == "FieldManagerConflict" else ""
        fields.append(f"{field}: {manager}" if manager else field)
    if status == 410:
        reason = "Expired"
    return ClusterError(what, status, reason or f"HTTP status {status}", tuple(filter(None, fields)))


def _short(error: BaseException) -> str:
    return type(getattr(error, "reason", None) or error).__name__

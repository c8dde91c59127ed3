"""Objects of VolSync and the volumes beside them, in the site's own cluster. Blocking: for threads only.

Invariant: an object is changed or deleted only as it was read (uid and resourceVersion).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import urllib3
from kubernetes import client, config

_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
# The client library has no types.
_LOAD_FILE: Final[Any] = config.load_kube_config
_LOAD_POD: Final[Any] = config.load_incluster_config


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind is reached; `api` is its apiVersion."""

    api: str
    plural: str
    name: str

    def path(self, namespace: str, name: str = "") -> str:
        """Of an object, or of where objects are made."""
        return f"/{'apis' if '/' in self.api else 'api'}/{self.api}/namespaces/{namespace}/{self.plural}/{name}".rstrip(
            "/"
        )


VOLSYNC: Final = "volsync.backube"
SOURCE: Final = Kind(f"{VOLSYNC}/v1alpha1", "replicationsources", "ReplicationSource")
DESTINATION: Final = Kind(f"{VOLSYNC}/v1alpha1", "replicationdestinations", "ReplicationDestination")
CLAIM: Final = Kind("v1", "persistentvolumeclaims", "PersistentVolumeClaim")
SNAPSHOT: Final = Kind("snapshot.storage.k8s.io/v1", "volumesnapshots", "VolumeSnapshot")


class ClusterError(Exception):
    """The API server does not answer or refuses; the message says what and what to do."""


class NotInstalledError(ClusterError):
    """The API server answered: it does not know the kind."""


class ConflictError(ClusterError):
    """Somebody else wrote the object since it was read: read it again."""


class Cluster:
    """The API server. Thread-safe; a token that was rotated is used from the next call on."""

    def __init__(self, kubeconfig: str, namespace: str, timeout_s: float) -> None:
        """An empty ``kubeconfig`` is the Pod's own service account."""
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._made: tuple[int, Any, Any] | None = None

    def get(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """The object; None when it is not there.

        Raises:
            ClusterError: it cannot be known.
        """
        status, body = self._call("GET", kind, f"read {kind.plural}/{name}", name)
        # Of a kind that is not installed the API server answers with a page, not with a Status of that object.
        return (
            None
            if status == _NOT_FOUND and _of_object(body)
            else _object(f"read {kind.plural}/{name}", kind, status, body)
        )

    def create(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        """Makes an object.

        Raises:
            ConflictError: it is there meanwhile.
            ClusterError: refused, or no answer; it may have been carried out.
        """
        what = f"create {kind.plural}/{body['metadata']['name']}"
        return _object(what, kind, *self._call("POST", kind, what, "", body))

    def replace(self, kind: Kind, body: Mapping[str, Any]) -> dict[str, Any]:
        """Writes an object as it was read and changed; as it is then, with its status.

        Raises:
            ConflictError: it is another one meanwhile.
            ClusterError: refused, or no answer; it may have been carried out.
        """
        name = str(body["metadata"]["name"])
        what = f"write {kind.plural}/{name}"
        return _object(what, kind, *self._call("PUT", kind, what, name, body))

    def delete(self, kind: Kind, found: Mapping[str, Any]) -> None:
        """Asks for an object's end. It stays, with a deletionTimestamp, until all that it owns and uses it has ended.

        Raises:
            ConflictError: it is another one meanwhile.
            ClusterError: refused, or no answer; it may have been carried out.
        """
        metadata = found["metadata"]
        same = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": same, "propagationPolicy": "Foreground"}
        what = f"delete {kind.plural}/{metadata['name']}"
        status, answer = self._call("DELETE", kind, what, str(metadata["name"]), body)
        if not (status == _NOT_FOUND and _of_object(answer)):
            _object(what, kind, status, answer)

    def _call(
        self, method: str, kind: Kind, what: str, name: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, dict[str, Any] | None]:
        """Status and JSON of the answer; None when it is none."""
        with self._api(what) as (api, settings):
            headers = {"Accept": "application/json", "User-Agent": "graf-driver-pv", "Content-Type": "application/json"}
            url = f"{settings.host.rstrip('/')}{kind.path(self._namespace, name)}"
            api.update_params_for_auth(headers, [], ["BearerToken"], url, method, None)
            response = api.rest_client.pool_manager.request(
                method, url, body=None if body is None else json.dumps(body), headers=headers, timeout=self._timeout_s
            )
            try:
                found = json.loads(response.data)
            except ValueError:
                found = None
            return response.status, found if isinstance(found, dict) else None

    def _connected(self) -> tuple[Any, Any]:
        """The client and its settings: made anew when the kubeconfig was replaced; a Pod's token it reads itself."""
        with self._lock:
            stamp = _stamp(self._kubeconfig)
            if self._made is None or self._made[0] != stamp:
                settings: Any = client.Configuration()
                settings.retries = False  # the caller calls again
                if self._kubeconfig:
                    _LOAD_FILE(self._kubeconfig, client_configuration=settings, persist_config=False)
                else:
                    _LOAD_POD(client_configuration=settings)
                self._made = (stamp, client.ApiClient(settings), settings)
            return self._made[1], self._made[2]

    @contextmanager
    def _api(self, what: str) -> Iterator[tuple[Any, Any]]:
        try:
            yield self._connected()
        except config.ConfigException as error:
            raise ClusterError(
                f"cannot {what}: no way to the API server: {error}; has the Pod a service account, or does "
                "volsync.kubeconfig name a mounted file?"
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"cannot {what}: the API server does not answer ({type(error).__name__})") from error


def _stamp(file: str) -> int:
    """Changes when a file does; 0 for none."""
    return os.stat(file).st_mtime_ns if file else 0


def _object(what: str, kind: Kind, status: int, body: dict[str, Any] | None) -> dict[str, Any]:
    if 200 <= status < 300 and body is not None:
        return body
    if status == _NOT_FOUND and not _of_object(body) and "/" in kind.api:
        owner = "VolSync" if kind.api.startswith(VOLSYNC) else "CSI's snapshot controller"
        raise NotInstalledError(
            f"{owner} is not installed: the API server does not know {kind.api}; install {owner} at this site"
        )
    reason = (body or {}).get("reason", "")
    if status == _CONFLICT:
        raise ConflictError(f"cannot {what}: somebody else wrote it meanwhile ({reason})")
    hints = {
        401: "; is the token still good?",
        403: "; the driver's ServiceAccount lacks the permission, see the reference page",
        404: "; is the namespace there?",
    }
    raise ClusterError(f"cannot {what}: the API server says {status} {reason}{hints.get(status, '')}")


def _of_object(body: dict[str, Any] | None) -> bool:
    """Whether the answer is about one object, and so of a kind that is known."""
    found = body or {}
    return found.get("kind") == "Status" and bool((found.get("details") or {}).get("name"))

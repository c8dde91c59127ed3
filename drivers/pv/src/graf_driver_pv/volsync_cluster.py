"""VolSync's custom objects in the site's own cluster, by the `kubernetes` client. Blocking: for threads only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import urllib3.exceptions
from kubernetes import client, config

GROUP: Final = "volsync.backube"
VERSION: Final = "v1alpha1"
SOURCE: Final = "replicationsources"
DESTINATION: Final = "replicationdestinations"
KINDS: Final = {SOURCE: "ReplicationSource", DESTINATION: "ReplicationDestination"}
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409


class ClusterError(Exception):
    """The API server does not answer or refuses; the message says what and what to do."""


class NotInstalledError(ClusterError):
    """The API server answered: it does not know VolSync's kinds."""


class ConflictError(ClusterError):
    """Somebody else wrote the object since it was read: read it again."""


class Cluster:
    """The API server. A client is made for each call: a token that was rotated is used from the next call on."""

    def __init__(self, kubeconfig: str, namespace: str, timeout_s: float) -> None:
        """An empty ``kubeconfig`` is the Pod's own service account."""
        self._kubeconfig = kubeconfig
        self._namespace = namespace
        self._timeout_s = timeout_s

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        """The object; None when it is not there.

        Raises:
            ClusterError: it cannot be known.
        """
        with self._api(f"read {plural}/{name}") as api:
            try:
                found = api.get_namespaced_custom_object(
                    GROUP, VERSION, self._namespace, plural, name, _request_timeout=self._timeout_s
                )
            except client.ApiException as error:
                # Of a kind that is not installed the API server answers with a page, not with a Status of that object.
                if error.status == _NOT_FOUND and _is_status(error.body):
                    return None
                raise
            return _object(found)

    def create(self, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        """Makes an object.

        Raises:
            ConflictError: it is there meanwhile.
            ClusterError: refused, or no answer; it may have been carried out.
        """
        with self._api(f"create {plural}/{body['metadata']['name']}") as api:
            found = api.create_namespaced_custom_object(
                GROUP, VERSION, self._namespace, plural, body, _request_timeout=self._timeout_s
            )
            return _object(found)

    def replace(self, plural: str, body: dict[str, Any]) -> dict[str, Any]:
        """Writes an object as it was read and changed: its resourceVersion must still be the one there.

        Raises:
            ConflictError: it is another one meanwhile.
            ClusterError: refused, or no answer; it may have been carried out.
        """
        name = body["metadata"]["name"]
        with self._api(f"write {plural}/{name}") as api:
            found = api.replace_namespaced_custom_object(
                GROUP, VERSION, self._namespace, plural, name, body, _request_timeout=self._timeout_s
            )
            return _object(found)

    @contextmanager
    def _api(self, what: str) -> Iterator[client.CustomObjectsApi]:
        settings = client.Configuration()
        try:
            if self._kubeconfig:
                config.load_kube_config(  # type: ignore[no-untyped-call]
                    self._kubeconfig, client_configuration=settings, persist_config=False
                )
            else:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            settings.retries = False  # the caller calls again
            with client.ApiClient(settings) as connection:
                yield client.CustomObjectsApi(connection)
        except config.ConfigException as error:
            raise ClusterError(
                f"cannot {what}: no way to the API server: {error}; has the Pod a service account, or does "
                "volsync.kubeconfig name a mounted file?"
            ) from error
        except client.ApiException as error:
            raise _told(what, error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"cannot {what}: the API server does not answer ({type(error).__name__})") from error


def _told(what: str, error: client.ApiException) -> ClusterError:
    if error.status == _NOT_FOUND and not _is_status(error.body):
        return NotInstalledError(
            f"VolSync is not installed: the API server does not know {GROUP}/{VERSION}; install VolSync at this site"
        )
    if error.status == _CONFLICT:
        return ConflictError(f"cannot {what}: somebody else wrote it meanwhile")
    hints = {
        401: "; is the token still good?",
        403: "; the driver's ServiceAccount lacks the permission, see the reference page",
        404: "; is the namespace there?",
    }
    hint = hints.get(error.status or 0, "")
    return ClusterError(f"cannot {what}: the API server says {error.status} {error.reason}{hint}")


def _is_status(body: object) -> bool:
    try:
        found = json.loads(body) if isinstance(body, str | bytes) else None
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("kind") == "Status" and bool((found.get("details") or {}).get("name"))


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ClusterError(f"the API server answered {type(value).__name__} instead of an object")
    return value

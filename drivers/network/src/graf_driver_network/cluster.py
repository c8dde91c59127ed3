"""Custom objects of the site's own cluster, by the `kubernetes` client. Blocking: for threads only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import urllib3.exceptions
from kubernetes import client, config

FIELD_MANAGER: Final = "graf-driver-network"
_NOT_FOUND: Final = 404


class ClusterError(Exception):
    """The API server does not answer or refuses; the message says what and what to do."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of custom object; an empty namespace is the whole cluster's."""

    group: str
    version: str
    kind: str
    plural: str


class Cluster:
    """The API server, as one component's parameters name it.

    A client is made for each call: a token or a file that was rotated is used from the next call on.
    """

    def __init__(self, kubeconfig: str, timeout_ms: int) -> None:
        """An empty ``kubeconfig`` is the Pod's own service account."""
        self._kubeconfig = kubeconfig
        self._timeout_s = timeout_ms / 1000

    def get(self, kind: Kind, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The object; None when it is not there.

        Raises:
            ClusterError: it cannot be known.
        """
        with self._api(f"read {kind.plural}/{name}") as api:
            try:
                if namespace:
                    found = api.get_namespaced_custom_object(
                        kind.group, kind.version, namespace, kind.plural, name, _request_timeout=self._timeout_s
                    )
                else:
                    found = api.get_cluster_custom_object(
                        kind.group, kind.version, kind.plural, name, _request_timeout=self._timeout_s
                    )
            except client.ApiException as error:
                if error.status == _NOT_FOUND:
                    return None
                raise
            return _object(found)

    def list(self, kind: Kind, namespace: str) -> list[Mapping[str, Any]]:
        """Every object of a kind.

        Raises:
            ClusterError: they cannot be known; the kind may not be installed.
        """
        with self._api(f"list {kind.plural}") as api:
            if namespace:
                found = api.list_namespaced_custom_object(
                    kind.group, kind.version, namespace, kind.plural, _request_timeout=self._timeout_s
                )
            else:
                found = api.list_cluster_custom_object(
                    kind.group, kind.version, kind.plural, _request_timeout=self._timeout_s
                )
            return [_object(item) for item in _object(found).get("items", [])]

    def apply(self, kind: Kind, namespace: str, name: str, body: dict[str, Any]) -> Mapping[str, Any]:
        """Server-side apply: what this driver does not write stays as it is. Gives the object as it is now.

        Raises:
            ClusterError: refused, or no answer; it may have been carried out.
        """
        more: dict[str, Any] = {
            "field_manager": FIELD_MANAGER,
            "force": True,
            "_content_type": "application/apply-patch+yaml",
            "_request_timeout": self._timeout_s,
        }
        with self._api(f"apply {kind.plural}/{name}") as api:
            if namespace:
                found = api.patch_namespaced_custom_object(
                    kind.group, kind.version, namespace, kind.plural, name, body, **more
                )
            else:
                found = api.patch_cluster_custom_object(kind.group, kind.version, kind.plural, name, body, **more)
            return _object(found)

    def delete(self, kind: Kind, namespace: str, name: str, uid: str) -> None:
        """Deletes exactly the object that was seen.

        Raises:
            ClusterError: refused, or no answer; it may have been carried out.
        """
        options = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=uid))
        with self._api(f"delete {kind.plural}/{name}") as api:
            try:
                if namespace:
                    api.delete_namespaced_custom_object(
                        kind.group,
                        kind.version,
                        namespace,
                        kind.plural,
                        name,
                        body=options,
                        _request_timeout=self._timeout_s,
                    )
                else:
                    api.delete_cluster_custom_object(
                        kind.group, kind.version, kind.plural, name, body=options, _request_timeout=self._timeout_s
                    )
            except client.ApiException as error:
                if error.status != _NOT_FOUND:
                    raise

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
                f"cannot {what}: no way to the API server: {error}; has the Pod a service account, or does the "
                "parameter kubeconfig name a mounted file?"
            ) from error
        except client.ApiException as error:
            hint = {
                401: "; is the token still good?",
                403: "; the driver's ServiceAccount lacks the permission, see the reference page",
                404: "; is the custom resource installed?",
            }.get(error.status or 0, "")
            raise ClusterError(f"cannot {what}: the API server says {error.status} {error.reason}{hint}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"cannot {what}: the API server does not answer ({type(error).__name__})") from error


def _object(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ClusterError(f"the API server answered {type(value).__name__} instead of an object")
    return value

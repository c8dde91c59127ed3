"""The `Cluster` port by a real API server, through the Kubernetes client library.

Objects stay dictionaries: the models of `graf.crd` are the only types of them. Every request has a time-out and
none is retried here; the loops are level-based and come back by themselves.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from urllib3 import Timeout
from urllib3.exceptions import HTTPError

from graf.crd.base import API_VERSION, GROUP, VERSION
from graf.crd.kinds import BY_KIND
from graf_orchestrator.ports import ClusterError, Document

if TYPE_CHECKING:
    from pathlib import Path

FIELD_MANAGER = "graf-manager"
CONNECT_S, READ_S = 3.0, 10.0


def load_client(kubeconfig: Path | None = None) -> Any:
    """An API client: of the given kubeconfig, else of the Pod's service account, else of the user's kubeconfig.

    Raises:
        ClusterError: there is no usable configuration.
    """
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    settings = client.Configuration()
    try:
        if kubeconfig is not None:
            config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
        elif os.environ.get("KUBERNETES_SERVICE_HOST"):
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        else:
            config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except (ConfigException, OSError) as error:
        raise ClusterError(
            0, f"no way to an API server: {error}; run as a Pod with a service account, or set `kubeconfig`"
        ) from error
    settings.retries = False
    # The library's own lease lock and kopf use the defaults.
    client.Configuration.set_default(settings)
    return client.ApiClient(settings)


class KubeCluster:
    """`Cluster` by the API server of the management cluster."""

    def __init__(self, api_client: Any, namespace: str) -> None:
        self._client = api_client
        self._namespace = namespace

    def objects(self, kind: str) -> list[Document]:
        """All objects of a kind of GRAF."""
        items: list[Document] = self._request("GET", self._path(kind))["items"]
        # Items of a list carry neither kind nor apiVersion.
        return [{"apiVersion": API_VERSION, "kind": kind, **item} for item in items]

    def apply(self, document: Document, *, dry_run: bool) -> None:
        """Server-side apply; what another manager of fields set meanwhile is taken over: Git is the source."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true", **({"dryRun": "All"} if dry_run else {})}
        path = self._path(document["kind"], document["metadata"]["name"])
        self._request("PATCH", path, query, document, "application/apply-patch+yaml")

    def create(self, document: Document) -> bool:
        """Creates an object of GRAF; False when one of that name exists."""
        try:
            self._request("POST", self._path(document["kind"]), {"fieldManager": FIELD_MANAGER}, document)
        except ClusterError as error:
            if error.status == 409:
                return False
            raise
        return True

    def write_status(self, kind: str, name: str, status: Document) -> None:
        """Replaces the whole status: a JSON patch, because a merge patch keeps what is left out."""
        patch = [{"op": "add", "path": "/status", "value": status}]
        path = f"{self._path(kind, name)}/status"
        self._request("PATCH", path, {"fieldManager": FIELD_MANAGER}, patch, "application/json-patch+json")

    def write_event(self, event: Document) -> None:
        """Creates an Event; one of the same name is left as it is."""
        try:
            self._request("POST", f"/api/v1/namespaces/{self._namespace}/events", {}, event)
        except ClusterError as error:
            if error.status != 409:
                raise

    def read_config_map(self, name: str) -> dict[str, str] | None:
        """Data of a ConfigMap, None when there is none."""
        try:
            found = self._request("GET", f"/api/v1/namespaces/{self._namespace}/configmaps/{name}")
        except ClusterError as error:
            if error.status == 404:
                return None
            raise
        return dict(found.get("data") or {})

    def write_config_map(self, name: str, data: dict[str, str]) -> None:
        """Creates or replaces a ConfigMap, by server-side apply."""
        document = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self._namespace},
            "data": data,
        }
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        path = f"/api/v1/namespaces/{self._namespace}/configmaps/{name}"
        self._request("PATCH", path, query, document, "application/apply-patch+yaml")

    def _path(self, kind: str, name: str = "") -> str:
        model = BY_KIND[kind]
        namespace = f"/namespaces/{self._namespace}" if model.namespaced else ""
        return f"/apis/{GROUP}/{VERSION}{namespace}/{model.plural}{'/' + name if name else ''}"

    def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Any:

        url = f"{self._client.configuration.host}{path}{'?' + urlencode(query) if query else ''}"
        headers = {"Accept": "application/json", "Content-Type": content_type}
        # A token of a Pod is renewed on disk; the configuration re-reads it when it is asked.
        for setting in self._client.configuration.auth_settings().values():
            if setting["in"] == "header":
                headers[setting["key"]] = setting["value"]
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=Timeout(connect=CONNECT_S, read=READ_S),
            )
        except (HTTPError, OSError) as error:
            cause = f"the API server does not answer ({type(error).__name__})"
            raise ClusterError(0, f"{method} {path}: {cause}") from error
        if not 200 <= response.status < 300:
            raise ClusterError(response.status, _refusal(method, path, response.status, response.data))
        return json.loads(response.data)


def _refusal(method: str, path: str, status: int, raw: bytes) -> str:
    try:
        message = str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        message = raw[:200].decode("utf-8", "replace")
    return f"{method} {path}: {status} {message}"

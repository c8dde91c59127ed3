"""The API server of this site's own cluster, as far as the controller uses it.

Documents stay dictionaries. Every request has a time-out and none is retried here: the loop above is level-based and
comes back by itself. The Kubernetes client is loaded only when it is needed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from pathlib import Path

FIELD_MANAGER = "graf-controller"
TIMEOUT_S = 5.0
Document = dict[str, Any]

_PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Secret": "/api/v1/namespaces/{namespace}/secrets",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "GroupAssignment": "/apis/graf.dev/v1alpha1/namespaces/{namespace}/groupassignments",
}


class ApiError(Exception):
    """A request that the API server refused (`status`), or did not answer (0)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ClusterApi:
    """Requests by path; `kubeconfig` is for where the controller runs outside of a Pod."""

    def __init__(self, namespace: str, kubeconfig: Path | None = None) -> None:
        self._namespace, self._kubeconfig = namespace, kubeconfig
        self._client: Any = None

    def apply(self, document: Document, *, only_check: bool = False) -> Document:
        """Server-side apply of a whole object; gives it back as it is then, or as it would be (`only_check`)."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true", **({"dryRun": "All"} if only_check else {})}
        path = self._path(document["kind"], document["metadata"]["name"], document["metadata"].get("namespace"))
        answer: Document = self._request("PATCH", path, query, document, "application/apply-patch+yaml")
        return answer

    def listed(self, kind: str, label_selector: str) -> list[Document]:
        """All objects of a kind with these labels, in the controller's namespace."""
        answer = self._request("GET", self._path(kind), {"labelSelector": label_selector})
        items: list[Document] = answer["items"]
        return items

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Deletes an object; one that is not there is as well."""
        try:
            self._request("DELETE", self._path(kind, name, namespace or None), {"propagationPolicy": "Background"})
        except ApiError as error:
            if error.status != 404:
                raise

    def merge_status(self, kind: str, name: str, status: Document) -> None:
        """Merges fields into an object's status."""
        path = f"{self._path(kind, name)}/status"
        self._request("PATCH", path, {}, {"status": status}, "application/merge-patch+json")

    def _path(self, kind: str, name: str = "", namespace: str | None = None) -> str:
        return _PATHS[kind].format(namespace=namespace or self._namespace) + (f"/{name}" if name else "")

    def _load(self) -> Any:
        if self._client is None:
            from kubernetes import client, config

            settings = client.Configuration()
            if self._kubeconfig is not None:
                config.load_kube_config(str(self._kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
            else:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            settings.retries = False
            self._client = client.ApiClient(settings)
        return self._client

    def _request(
        self, method: str, path: str, query: dict[str, str], body: Any = None, content_type: str = "application/json"
    ) -> Any:
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        client = self._load()
        headers = {"Accept": "application/json", "Content-Type": content_type}
        # A token of a Pod is renewed on disk; the configuration re-reads it when it is asked.
        for setting in client.configuration.auth_settings().values():
            if setting["in"] == "header":
                headers[setting["key"]] = setting["value"]
        url = f"{client.configuration.host}{path}{'?' + urlencode(query) if query else ''}"
        try:
            response = client.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=Timeout(total=TIMEOUT_S),
            )
        except (HTTPError, OSError) as error:
            raise ApiError(0, f"the API server does not answer ({type(error).__name__})") from error
        if not 200 <= response.status < 300:
            raise ApiError(response.status, _refusal(response.status, response.data))
        return json.loads(response.data)


def _refusal(status: int, raw: bytes) -> str:
    try:
        return str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        return f"{status} {raw[:200].decode('utf-8', 'replace')}"

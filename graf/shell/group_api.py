"""The operator's port on a real cluster: `graf.ports.group_api` by the Kubernetes client.

The client library is imported on first use: `graf --version` must not wait a second for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from graf.crd.assignment import GroupAssignment
from graf.crd.base import GROUP, NAMESPACE, VERSION, Resource
from graf.crd.driverclass import DriverClass
from graf.crd.group import RedundancyGroup
from graf.crd.operation import RedundancyOperation
from graf.crd.policy import RedundancyPolicy
from graf.crd.site import Site
from graf.ports.group_api import ApiError, ApiFault

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = (2.0, 5.0)  # connect, read
GITOPS_STATUS = "graf-gitops-status"

R = TypeVar("R", bound=Resource)


def _first_words(error: Any) -> str:
    """What the server says for people: the message of its Status object, or the body as it is."""
    try:
        text = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        text = error.body or error.reason
    return str(text).rstrip(". \n")[:400]


class KubeGroupApi:
    """`GroupApi` by the API server that a kubeconfig names."""

    def __init__(self, kubeconfig: Path, where: str) -> None:
        """Opens nothing yet.

        Args:
            kubeconfig: File with the address and the credentials.
            where: What to call the cluster in messages, e.g. `the management cluster`.
        """
        self._kubeconfig = kubeconfig
        self._where = where
        self._client: Any = None

    def groups(self) -> list[RedundancyGroup]:
        """All groups, by name."""
        return self._list(RedundancyGroup)

    def group(self, name: str) -> RedundancyGroup:
        """One group."""
        return self._get(RedundancyGroup, name)

    def driver_classes(self) -> list[DriverClass]:
        """All driver classes, by name."""
        return self._list(DriverClass)

    def sites(self) -> list[Site]:
        """All sites, by name."""
        return self._list(Site)

    def policy(self, name: str) -> RedundancyPolicy:
        """One policy."""
        return self._get(RedundancyPolicy, name)

    def assignment(self, group: str) -> GroupAssignment:
        """The group's assignment, at a site's cluster."""
        return self._get(GroupAssignment, group)

    def operation(self, name: str) -> RedundancyOperation:
        """One operation."""
        return self._get(RedundancyOperation, name)

    def create_operation(self, operation: RedundancyOperation) -> None:
        """Asks for an operation."""
        body = operation.to_dict()
        self._ask(
            f"RedundancyOperation {operation.name}",
            lambda: self._custom().create_namespaced_custom_object(
                GROUP, VERSION, NAMESPACE, RedundancyOperation.plural, body, _request_timeout=TIMEOUT_S
            ),
        )

    def gitops_status(self) -> dict[str, str]:
        """How far Git has been applied; empty before the manager's first report."""
        try:
            answer = self._ask(
                f"ConfigMap {GITOPS_STATUS}",
                lambda: self._core().read_namespaced_config_map(GITOPS_STATUS, NAMESPACE, _request_timeout=TIMEOUT_S),
            )
        except ApiError as problem:
            if problem.fault is ApiFault.NOT_FOUND:
                return {}
            raise
        return dict(answer.data or {})

    def _list(self, kind: type[R]) -> list[R]:
        def ask() -> Any:
            if kind.namespaced:
                return self._custom().list_namespaced_custom_object(
                    GROUP, VERSION, NAMESPACE, kind.plural, _request_timeout=TIMEOUT_S
                )
            return self._custom().list_cluster_custom_object(GROUP, VERSION, kind.plural, _request_timeout=TIMEOUT_S)

        answer = self._ask(f"the list of {kind.plural}", ask)
        return sorted((self._parse(kind, item) for item in answer["items"]), key=lambda item: item.name)

    def _get(self, kind: type[R], name: str) -> R:
        answer = self._ask(
            f"{kind.kind_name} {name}",
            lambda: self._custom().get_namespaced_custom_object(
                GROUP, VERSION, NAMESPACE, kind.plural, name, _request_timeout=TIMEOUT_S
            ),
        )
        return self._parse(kind, answer)

    def _parse(self, kind: type[R], item: dict[str, Any]) -> R:
        try:
            return kind.model_validate(item)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ApiError(
                ApiFault.UNREADABLE,
                f"{kind.kind_name} {item.get('metadata', {}).get('name', '?')} of {self._where} has an unexpected "
                f"field {field}: {first['msg']}.",
                "Is this command of the same version as the manager?",
            ) from error

    def _ask(self, what: str, call: Callable[[], Any]) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return call()
        except ApiException as error:
            raise self._refusal(what, error) from error
        except (HTTPError, OSError) as error:
            raise ApiError(
                ApiFault.UNREACHABLE,
                f"The API server of {self._where} does not answer ({type(error).__name__}).",
                "The service itself does not depend on it: its sites go on. Look with `graf lab status`, "
                f"or check the address in {self._kubeconfig}.",
            ) from error

    def _refusal(self, what: str, error: Any) -> ApiError:
        if error.status in (None, 429) or error.status >= 500:
            # An API server that starts answers before it has its paths, its etcd or its leader.
            return ApiError(
                ApiFault.UNREACHABLE,
                f"The API server of {self._where} is not ready: HTTP {error.status}, {_first_words(error)}.",
                "Try again in a moment. The service itself does not depend on it: its sites go on.",
            )
        if error.status == 404:
            return ApiError(
                ApiFault.NOT_FOUND,
                f"{what} does not exist in namespace {NAMESPACE} of {self._where}.",
                "`graf status` lists the groups; if it lists none, look at what the manager made of Git.",
            )
        if error.status in (401, 403):
            hint = f"The credentials in {self._kubeconfig} may not do this; use an operator's kubeconfig."
        elif error.status == 409:
            hint = "An object of this name exists already; try again."
        else:
            hint = "Correct what the server names and try again."
        said = _first_words(error)
        return ApiError(ApiFault.REFUSED, f"{self._where} refused {what}: HTTP {error.status}, {said}.", hint)

    def _api_client(self) -> Any:
        if self._client is None:
            from kubernetes import client, config
            from kubernetes.config.config_exception import ConfigException

            settings = client.Configuration()
            try:
                config.load_kube_config(  # type: ignore[no-untyped-call]
                    str(self._kubeconfig), client_configuration=settings
                )
            except (ConfigException, OSError) as error:
                raise ApiError(
                    ApiFault.UNREACHABLE,
                    f"The kubeconfig {self._kubeconfig} cannot be used: {error}.",
                    "Name another one with --kubeconfig or KUBECONFIG.",
                ) from error
            settings.retries = False
            self._client = client.ApiClient(settings)
        return self._client

    def _custom(self) -> Any:
        from kubernetes import client

        return client.CustomObjectsApi(self._api_client())

    def _core(self) -> Any:
        from kubernetes import client

        return client.CoreV1Api(self._api_client())

"""Which replica of the manager leads: the Kubernetes client's leader election on a Lease.

Leading is about doing the work once, never about safety: only voters grant, so that two managers that both
believe to lead can at most write the same record twice.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from graf.shell.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable

    from graf_orchestrator.config import ElectionConfig

LOG = logging.getLogger("graf.manager.election")
REQUEST_TIMEOUT_S = 2.0


def _lock_class() -> Any:
    """The library's LeaseLock, with time-outs, and with "no answer" told as what it is: not held."""
    from kubernetes.client.exceptions import ApiException
    from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
    from urllib3.exceptions import HTTPError

    class BoundedLeaseLock(LeaseLock):
        def get(self, name: str, namespace: str) -> tuple[bool, Any]:
            try:
                result: tuple[bool, Any] = super().get(name, namespace)  # type: ignore[no-untyped-call]
            except (HTTPError, OSError) as error:
                return False, ApiException(status=0, reason=f"no answer ({type(error).__name__})")
            return result

        def create(self, name: str, namespace: str, election_record: Any) -> bool:
            try:
                return bool(super().create(name, namespace, election_record))  # type: ignore[no-untyped-call]
            except (HTTPError, OSError):
                return False

        def update(self, name: str, namespace: str, updated_record: Any) -> bool:
            try:
                return bool(super().update(name, namespace, updated_record))  # type: ignore[no-untyped-call]
            except (HTTPError, OSError):
                return False

    return BoundedLeaseLock


def _bounded_client(settings: Any) -> Any:
    """An API client whose every request has a time-out: a hanging server must end the leadership."""
    from kubernetes import client

    class BoundedClient(client.ApiClient):
        def call_api(self, *args: Any, **kwargs: Any) -> Any:
            kwargs["_request_timeout"] = kwargs.get("_request_timeout") or REQUEST_TIMEOUT_S
            return super().call_api(*args, **kwargs)

    return BoundedClient(settings)


class Election:
    """Campaigns in its own thread for as long as the process lives."""

    def __init__(
        self, config: ElectionConfig, namespace: str, identity: str, settings: Any, on_change: Callable[[], None]
    ) -> None:
        self._config, self._namespace, self._identity = config, namespace, identity
        self._settings = settings
        self._on_change = on_change
        self._leading = threading.Event()
        self._stopping = threading.Event()
        self._lock: Any = None

    @property
    def leading(self) -> bool:
        """Whether this replica leads now."""
        return self._leading.is_set() and not self._stopping.is_set()

    def start(self) -> None:
        """Starts to campaign. The thread ends with the process: the library has no way to stop it."""
        # Its lines tell every retry; what matters is told below.
        logging.getLogger("leaderelection").setLevel(logging.WARNING)
        from kubernetes import client

        lock = _lock_class()(self._config.lease_name, self._namespace, self._identity)
        lock.api_instance = client.CoordinationV1Api(_bounded_client(self._settings))
        self._lock = lock
        threading.Thread(target=self._run, name="election", daemon=True).start()

    def resign(self) -> None:
        """Gives the Lease back, so that another replica need not wait for its end."""
        held = self.leading
        self._stopping.set()
        if not held or self._lock is None:
            return
        with contextlib.suppress(Exception):  # only a courtesy: without it the Lease runs out
            lease = self._lock.api_instance.read_namespaced_lease(self._config.lease_name, self._namespace)
            if lease.spec.holder_identity == self._identity:
                lease.spec.holder_identity = ""
                self._lock.api_instance.replace_namespaced_lease(self._config.lease_name, self._namespace, lease)

    def _run(self) -> None:
        from kubernetes.leaderelection import electionconfig, leaderelection

        while not self._stopping.is_set():
            settings = electionconfig.Config(  # type: ignore[no-untyped-call]
                self._lock,
                lease_duration=self._config.lease_seconds,
                renew_deadline=self._config.renew_seconds,
                retry_period=self._config.retry_seconds,
                onstarted_leading=self._won,
                onstopped_leading=lambda: None,
            )
            try:
                leaderelection.LeaderElection(settings).run()  # type: ignore[no-untyped-call]
            except Exception:
                LOG.exception("leader election failed unexpectedly; campaigning again")
            self._lost()
            time.sleep(self._config.retry_seconds)

    def _won(self) -> None:
        if self._stopping.is_set():
            return
        event(LOG, "leading", identity=self._identity)
        self._leading.set()
        self._on_change()

    def _lost(self) -> None:
        if self._leading.is_set():
            event(LOG, "the Lease was lost: not leading any more", logging.WARNING, identity=self._identity)
        self._leading.clear()
        self._on_change()

"""kopf watches GRAF's objects and tells the state what it sees; it decides and writes nothing.

Own thread and own event loop. Only raw watch events are handled (`kopf.on.event`): no finalizers, no annotations,
nothing that keeps an object from being deleted while the manager is away.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

from graf.crd.base import GROUP, VERSION
from graf.shell.logs import event as log_event
from graf_orchestrator.world import KINDS

if TYPE_CHECKING:
    from graf_orchestrator.state import State

LOG = logging.getLogger("graf.manager.operator")
RESTART_S = 3.0
STOP_TIMEOUT_S = 10.0


class Operator:
    """The kopf operator of one leadership."""

    def __init__(self, state: State, namespace: str) -> None:
        self._state = state
        self._namespace = namespace
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="kopf", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watches."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        import kopf

        logging.getLogger("kopf").setLevel(logging.WARNING)
        # It warns that it is not in the main thread, which is the point: the main thread has the signals.
        logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
        while not self._stop.is_set():
            settings = kopf.OperatorSettings()
            settings.posting.enabled = False
            settings.watching.server_timeout = 300
            settings.networking.error_backoffs = (1, 2, 3)
            try:
                asyncio.run(
                    kopf.operator(
                        registry=self._registry(),
                        settings=settings,
                        standalone=True,
                        namespaces=[self._namespace],
                        stop_flag=self._stop,
                    )
                )
            except Exception as error:
                log_event(LOG, "the watches ended; starting them again", logging.ERROR, error=repr(error))
            self._stop.wait(RESTART_S)

    def _registry(self) -> Any:
        import kopf

        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**kwargs: Any) -> Any:
            return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

        async def seen(event: Any, **_: Any) -> None:
            document = dict(event["object"])
            if event["type"] == "DELETED":
                self._state.drop_object(document["kind"], document["metadata"]["name"])
            else:
                self._state.put_object(document)

        for kind in KINDS:
            kopf.on.event(GROUP, VERSION, kind.plural, registry=registry)(seen)
        return registry

"""The gRPC server that the sites' controllers dial: one stream per site, identity by certificate only.

Runs in its own thread with its own event loop. It moves messages between streams and `State`, and waits for
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import grpc

from graf.shell.logs import event
from graf.shell.proto import manager_pb2 as pb
from graf.shell.proto import manager_pb2_grpc as pb_grpc
from graf.shell.tls import identities, server_credentials, voter_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from graf_orchestrator.state import State

LOG = logging.getLogger("graf.manager.link")
QUEUE_LIMIT = 1000
START_TIMEOUT_S = 10.0
KNOWN_WITHIN_S = 3.0
# A site that was cut off must be seen to be gone by pings, not by TCP's patience.
SERVER_OPTIONS = (
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)


class LinkError(Exception):
    """The server could not start; the message says why and what to do."""


class _Stream:
    """One connection of a site. Used in the server's loop only."""

    def __init__(self, site: str, generation: int) -> None:
        self.site = site
        self.generation = generation
        self.queue: asyncio.Queue[pb.ManagerMessage | None] = asyncio.Queue(QUEUE_LIMIT)

    def end(self) -> None:
        """Ends the stream after what is queued, or at once when the queue is full."""
        with contextlib.suppress(asyncio.QueueFull):
            self.queue.put_nowait(None)


class _Servicer(pb_grpc.ManagerLinkServicer):
    def __init__(self, state: State, known_sites: Callable[[], frozenset[str]]) -> None:
        self._state = state
        self._known_sites = known_sites
        self._generation = 0
        self.streams: dict[str, _Stream] = {}

    async def Connect(  # noqa: N802  (name given by the protocol)
        self, request_iterator: AsyncIterator[pb.SiteMessage], context: Any
    ) -> AsyncIterator[pb.ManagerMessage]:
        """One stream of a site, from its admission to its end."""
        stream = await self._admit(context)
        reader = asyncio.create_task(self._read(request_iterator, stream))
        try:
            while (message := await stream.queue.get()) is not None:
                yield message
        finally:
            reader.cancel()
            if self.streams.get(stream.site) is stream:
                del self.streams[stream.site]
            self._state.disconnected(stream.site, stream.generation)
            event(LOG, "site disconnected", site=stream.site)

    async def _admit(self, context: Any) -> _Stream:
        names = identities(context.auth_context())
        site = voter_of(context.auth_context())
        known = await self._known_by_now(site)
        if site is None or site not in known:
            event(
                LOG,
                "connection refused: the certificate is not that of a known site",
                logging.WARNING,
                identity=list(names),
                peer=context.peer(),
                known=sorted(known),
            )
            text = f"{', '.join(names) or 'no name'} is not a known site; known: {', '.join(sorted(known)) or 'none'}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
        assert site is not None
        self._generation += 1
        stream = _Stream(site, self._generation)
        if (old := self.streams.get(site)) is not None:
            event(LOG, "site dialled again: its older stream is closed", site=site)
            old.end()
        self.streams[site] = stream
        self._state.connected(site, stream.generation)
        event(LOG, "site connected", site=site, peer=context.peer())
        return stream

    async def _known_by_now(self, site: str | None) -> frozenset[str]:
        """Known sites; a name that could be a site is waited for: after a start the objects are not read yet."""
        loop = asyncio.get_running_loop()
        end = loop.time() + KNOWN_WITHIN_S
        known = self._known_sites()
        while site is not None and site not in known and loop.time() < end:
            await asyncio.sleep(0.1)
            known = self._known_sites()
        return known

    async def _read(self, messages: AsyncIterator[pb.SiteMessage], stream: _Stream) -> None:
        try:
            async for message in messages:
                self._take(stream.site, message)
        except grpc.RpcError as error:
            event(LOG, "stream broke", logging.WARNING, site=stream.site, error=str(error))
        finally:
            stream.end()

    def _take(self, site: str, message: pb.SiteMessage) -> None:
        match message.WhichOneof("body"):
            case "hello":
                self._state.hello(site, message.hello.incarnation, message.hello.version)
            case "report":
                self._state.report(site, message.report)
            case "record":
                self._state.put_record(site, message.record)
            case "operation":
                self._state.put_update(site, message.operation)
            case _:
                event(LOG, "message of an unknown kind left out", logging.WARNING, site=site)


class SiteLinkServer:
    """The server and its thread."""

    def __init__(self, state: State, listen: str, tls_dir: Path, known_sites: Callable[[], frozenset[str]]) -> None:
        self._listen = listen
        self._tls_dir = tls_dir
        self._state = state
        self._known_sites = known_sites
        self._servicer: _Servicer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._failure: str | None = None
        self.port = 0

    def start(self) -> None:
        """Listens when it returns.

        Raises:
            LinkError: the address cannot be listened on.
            TlsError: the certificate cannot be read.
        """
        credentials = server_credentials(self._tls_dir)
        self._thread = threading.Thread(target=self._run, args=(credentials,), name="link", daemon=True)
        self._thread.start()
        if not self._started.wait(START_TIMEOUT_S):
            self._failure = f"no answer within {START_TIMEOUT_S:.0f} s"
        if self._failure is not None:
            raise LinkError(f"cannot listen on {self._listen}: {self._failure}; free the port or change `listen`")

    def stop(self) -> None:
        """Closes every stream and the port."""
        if self._loop is not None and self._stop is not None and self._thread is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(START_TIMEOUT_S)

    def send(self, site: str, message: pb.ManagerMessage) -> bool:
        """Queues a message for a site; False when it has no stream. Arrival is only known by an answer."""
        servicer, loop = self._servicer, self._loop
        if servicer is None or loop is None or site not in servicer.streams:
            return False

        def put() -> None:
            stream = servicer.streams.get(site)
            if stream is None:
                return
            try:
                stream.queue.put_nowait(message)
            except asyncio.QueueFull:
                event(LOG, "site does not read its stream: closed", logging.ERROR, site=site)
                stream.queue = asyncio.Queue()
                stream.end()

        try:
            loop.call_soon_threadsafe(put)
        except RuntimeError:
            return False
        return True

    def _run(self, credentials: grpc.ServerCredentials) -> None:
        asyncio.run(self._serve(credentials))

    async def _serve(self, credentials: grpc.ServerCredentials) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = grpc.aio.server(options=SERVER_OPTIONS)
        servicer = _Servicer(self._state, self._known_sites)
        pb_grpc.add_ManagerLinkServicer_to_server(servicer, server)
        try:
            self.port = server.add_secure_port(self._listen, credentials)
            await server.start()
        except RuntimeError as error:
            self._failure = str(error)
            self._started.set()
            return
        self._servicer = servicer
        self._started.set()
        await self._stop.wait()
        self._servicer = None
        for stream in list(servicer.streams.values()):
            stream.end()
        await server.stop(grace=1.0)

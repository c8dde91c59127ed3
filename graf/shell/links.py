"""Streams between voters: one bidirectional gRPC stream per pair, mutual TLS.

A link is dialled by the controller whose name sorts first; a witness never dials. A stream that has been silent for
too long is closed and dialled anew on a fresh connection: after a cut, TCP's own retransmission would wait for
seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import grpc

from graf.api.timing import MILLISECOND_NS, SECOND_NS
from graf.shell import tls
from graf.shell.logs import event
from graf.shell.proto import peer_pb2 as pb
from graf.shell.proto import peer_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Coroutine
    from pathlib import Path

LOG = logging.getLogger("graf.links")

DIAL_TIMEOUT_S = 1.0
REDIAL_AFTER_S = 0.2
OUTBOX_LIMIT = 1000


class LinkHandler(Protocol):
    """Who takes what arrives. All calls come from the loop of the links and must not block it."""

    def on_message(self, peer: str, message: pb.PeerMessage) -> None:
        """A message of a peer whose identity is proved."""

    def on_link(self, peer: str, connected: bool) -> None:
        """A stream came up or went down."""


@dataclass(eq=False)
class _Stream:
    outbox: asyncio.Queue[pb.PeerMessage | None] = field(default_factory=lambda: asyncio.Queue(OUTBOX_LIMIT))
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def close(self) -> None:
        self.closed.set()
        with contextlib.suppress(asyncio.QueueFull):
            self.outbox.put_nowait(None)


@dataclass
class Link:
    """The present stream to one peer, if there is one."""

    peer: str
    stream: _Stream | None = None
    heard_ns: int = 0

    def heard_within(self, span_ns: int, now_ns: int) -> bool:
        """Whether the stream is up and the peer was heard lately."""
        return self.stream is not None and now_ns - self.heard_ns <= span_ns


class Links:
    """All links of one process."""

    def __init__(self, name: str, tls_dir: Path, handler: LinkHandler, *, accept_any_voter: bool = False) -> None:
        self.name = name
        self._tls_dir = tls_dir
        self._handler = handler
        self._accept_any_voter = accept_any_voter
        self._links: dict[str, Link] = {}
        self._dialled: dict[str, str] = {}
        self._dialers: dict[str, asyncio.Task[None]] = {}
        self._server: grpc.aio.Server | None = None
        self._watchdog: asyncio.Task[None] | None = None
        self.silence_limit_ns = 2 * SECOND_NS

    def link(self, peer: str) -> Link:
        """The link to a peer; made when first asked for."""
        return self._links.setdefault(peer, Link(peer))

    async def serve(self, listen: str) -> int:
        """Listens; returns the bound port.

        Raises:
            OSError: the address cannot be bound; the message says which.
        """
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        peer_pb2_grpc.add_PeerLinkServicer_to_server(_Servicer(self), server)
        try:
            port = server.add_secure_port(listen, tls.server_credentials(self._tls_dir))
        except RuntimeError as error:
            raise OSError(f"cannot listen on {listen}: {error}; is another process using the port?") from error
        if port == 0:
            raise OSError(f"cannot listen on {listen}: is another process using the port?")
        await server.start()
        self._server = server
        self._watchdog = asyncio.create_task(self._close_silent_streams())
        return port

    def dial(self, peers: dict[str, str]) -> None:
        """Keeps links to these peers (name to endpoint); an endpoint that changed is dialled anew."""
        for peer, endpoint in peers.items():
            self.link(peer)
            if self._dialled.get(peer) == endpoint:
                continue
            self._dialled[peer] = endpoint
            old = self._dialers.pop(peer, None)
            if old is not None:
                old.cancel()
            self._dialers[peer] = asyncio.create_task(self._keep_dialled(peer, endpoint))

    def keep_only(self, peers: Collection[str]) -> None:
        """Hangs up on everybody else; they are strangers from now on."""
        for peer in [name for name in self._links if name not in peers]:
            link = self._links.pop(peer)
            self._dialled.pop(peer, None)
            dialer = self._dialers.pop(peer, None)
            if dialer is not None:
                dialer.cancel()
            if link.stream is not None:
                link.stream.close()
            event(LOG, "link given up", peer=peer)

    def send(self, peer: str, message: pb.PeerMessage) -> bool:
        """Queues a message; False when there is no stream to carry it."""
        link = self._links.get(peer)
        if link is None or link.stream is None:
            return False
        try:
            link.stream.outbox.put_nowait(message)
        except asyncio.QueueFull:
            event(LOG, "link congested, closing it", logging.WARNING, peer=peer)
            link.stream.close()
            return False
        return True

    async def close(self) -> None:
        """Ends all streams."""
        tasks = [*self._dialers.values(), *([self._watchdog] if self._watchdog else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self._links.values():
            if link.stream is not None:
                link.stream.close()
        if self._server is not None:
            await self._server.stop(0.2)

    def _attach(self, peer: str) -> _Stream:
        link = self.link(peer)
        if link.stream is not None:
            link.stream.close()
        link.stream = _Stream()
        link.heard_ns = time.monotonic_ns()
        event(LOG, "link up", peer=peer)
        self._handler.on_link(peer, True)
        return link.stream

    def _detach(self, peer: str, stream: _Stream) -> None:
        stream.close()
        link = self.link(peer)
        if link.stream is stream:
            link.stream = None
            event(LOG, "link down", logging.WARNING, peer=peer)
            self._handler.on_link(peer, False)

    def _heard(self, peer: str, stream: _Stream, message: pb.PeerMessage) -> None:
        link = self.link(peer)
        if link.stream is stream:
            link.heard_ns = time.monotonic_ns()
            self._handler.on_message(peer, message)

    async def _close_silent_streams(self) -> None:
        while True:
            before = time.monotonic_ns()
            await asyncio.sleep(self.silence_limit_ns / 8 / SECOND_NS)
            now = time.monotonic_ns()
            if now - before > self.silence_limit_ns // 4:
                continue  # this process stood still; what it has not read yet proves nothing about others
            for link in self._links.values():
                if link.stream is not None and now - link.heard_ns > self.silence_limit_ns:
                    silent_ms = (now - link.heard_ns) // MILLISECOND_NS
                    event(LOG, "link silent, closing it", logging.WARNING, peer=link.peer, silent_ms=silent_ms)
                    link.stream.close()

    async def _keep_dialled(self, peer: str, endpoint: str) -> None:
        failing = ""
        while True:
            try:
                await self._dial_once(peer, endpoint)
                failing = ""
            except (TimeoutError, asyncio.InvalidStateError, grpc.aio.AioRpcError, tls.TlsError, OSError) as error:
                # InvalidStateError is how grpc.aio tells that the server ended the call before a write.
                cause = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error) or "no answer"
                if cause != failing:
                    event(LOG, "cannot reach peer", logging.WARNING, peer=peer, endpoint=endpoint, cause=cause)
                    failing = cause or ""
            await asyncio.sleep(REDIAL_AFTER_S)

    async def _dial_once(self, peer: str, endpoint: str) -> None:
        channel = grpc.aio.secure_channel(
            endpoint,
            tls.channel_credentials(self._tls_dir),
            options=tls.channel_options(tls.voter_server_name(peer)),
        )
        async with channel:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await channel.channel_ready()
            call = peer_pb2_grpc.PeerLinkStub(channel).Connect()
            # The first answer proves that the peer took the stream; only then does the link count as up.
            await call.write(pb.PeerMessage(hello=pb.Hello()))
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                first = await call.read()
            if not isinstance(first, pb.PeerMessage):
                await call.code()
                raise grpc.aio.AioRpcError(
                    await call.code(),
                    await call.initial_metadata(),
                    await call.trailing_metadata(),
                    await call.details(),
                )
            stream = self._attach(peer)
            try:
                self._heard(peer, stream, first)
                await first_done(self._read_call(peer, stream, call), _write_call(stream, call), stream.closed.wait())
            finally:
                self._detach(peer, stream)
                call.cancel()

    async def _read_call(
        self, peer: str, stream: _Stream, call: grpc.aio.StreamStreamCall[pb.PeerMessage, pb.PeerMessage]
    ) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, pb.PeerMessage):
                return
            self._heard(peer, stream, message)


async def _write_call(stream: _Stream, call: grpc.aio.StreamStreamCall[pb.PeerMessage, pb.PeerMessage]) -> None:
    while (message := await stream.outbox.get()) is not None:
        await call.write(message)


async def first_done(*coroutines: Coroutine[object, object, object]) -> None:
    """Runs until the first ends, then ends the others; the first's error is raised."""
    tasks = [asyncio.create_task(c) for c in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Servicer(peer_pb2_grpc.PeerLinkServicer):
    def __init__(self, links: Links) -> None:
        self._links = links

    async def Connect(  # noqa: N802 - name given by gRPC
        self,
        request_iterator: AsyncIterator[pb.PeerMessage],
        context: grpc.aio.ServicerContext[pb.PeerMessage, pb.PeerMessage],
    ) -> AsyncIterator[pb.PeerMessage]:
        links = self._links
        peer = tls.voter_of(context.auth_context())
        if peer is None or (not links._accept_any_voter and peer not in links._links):
            names = ", ".join(tls.identities(context.auth_context())) or "no name"
            event(LOG, "stranger refused", logging.WARNING, identity=names, address=context.peer())
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{names} is no voter that {links.name} knows; check the certificate and the group's voters",
            )
            return
        stream = links._attach(peer)
        reader = asyncio.create_task(self._read(peer, stream, request_iterator))
        try:
            yield pb.PeerMessage(hello=pb.Hello())
            while (message := await stream.outbox.get()) is not None:
                yield message
        finally:
            links._detach(peer, stream)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, peer: str, stream: _Stream, requests: AsyncIterator[pb.PeerMessage]) -> None:
        try:
            async for message in requests:
                self._links._heard(peer, stream, message)
        finally:
            stream.close()

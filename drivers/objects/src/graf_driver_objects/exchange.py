"""The link between the sites' drivers: HTTPS, TLS 1.3, both sides certified. The standby asks, the active answers.

Nobody can push: a deposed active has no way to write to another site. What is asked for carries the asker's epoch, what
is answered the maker's; each end refuses a lower one. Who may ask is decided by the name in the certificate.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from graf_driver_objects.model import MAX_GENERATION_BYTES, Generation, GenerationError, Position

_HANDSHAKE_S: Final = 5.0
_CONNECT_S: Final = 3.0
LONGEST_WAIT_S: Final = 10.0
_log = logging.getLogger(__name__)


class ExchangeError(Exception):
    """The other site's driver gave nothing usable; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a standby asks.

    Attributes:
        identity: proved by its certificate.
        epoch: the highest that it has seen.
        known: the generation that it has; answered with a body only when there is another one.
        applied: what it has applied whole.
        wait_s: how long to wait for another generation.
        fresh: whether the generation must hold everything that the active's API server has when it is asked.
    """

    identity: str
    epoch: int
    known: str
    applied: str
    wait_s: float
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What an active answers; `status` and `reason` are HTTP's, `body` an encoded generation.

    Attributes:
        age_s: since the current generation was made.
        stale_s: since the active last knew that the generation is all there is; 0 while it watches.
    """

    status: int
    reason: str = ""
    position: str = ""
    age_s: float = 0.0
    stale_s: float = 0.0
    body: bytes = b""


Handler = Callable[[Question], Answer]


class Endpoint:
    """One listening address of this process, for all components that use it."""

    def __init__(self, listen: str, tls_directory: Path) -> None:
        """Listens at once.

        Raises:
            ExchangeError: the address cannot be listened on, or the certificates cannot be used.
        """
        self.listen = listen
        self.tls_directory = tls_directory
        self._contexts = _Contexts(tls_directory, server=True)
        self._contexts.current()
        self.handlers: dict[str, Handler] = {}
        try:
            self._server = _Server(_split(listen), self)
        except OSError as error:
            raise ExchangeError(
                f"{listen} cannot be listened on: {error.strerror or error}; correct the parameter listen"
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="exchange", daemon=True)
        self._thread.start()

    def secure(self, connection: socket.socket) -> ssl.SSLSocket:
        """Does the handshake, with the certificates that are on the disk now."""
        connection.settimeout(_HANDSHAKE_S)
        return self._contexts.current().wrap_socket(connection, server_side=True)

    def close(self) -> None:
        """Listens no more; answers in flight end by themselves."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], endpoint: Endpoint) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.endpoint = endpoint
        super().__init__(address, _Requests)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread: a handshake that hangs keeps nobody else waiting."""
        try:
            secured = self.endpoint.secure(request)
        except (OSError, ExchangeError) as error:
            _log.warning("refused a connection: %s", type(error).__name__)
            return
        with contextlib.suppress(OSError), secured:
            secured.settimeout(LONGEST_WAIT_S + 20.0)
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """No traceback; the standby asks again."""
        _log.warning("a connection of another site's driver ended early")


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """`/v1/GROUP/COMPONENT?epoch=..&known=..&applied=..&wait=..&fresh=..`."""
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        handler = self.server.endpoint.handlers.get(parts.path)
        certificate = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        alternatives: Any = (certificate or {}).get("subjectAltName", ())
        names = [str(value) for kind, value in alternatives if kind == "DNS"]
        try:
            wait_s = min(LONGEST_WAIT_S, max(0.0, float(query.get("wait", "0"))))
            question = Question(
                names[0] if len(names) == 1 else "",
                int(query.get("epoch", "0")),
                query.get("known", ""),
                query.get("applied", ""),
                wait_s,
                query.get("fresh") == "1",
            )
        except ValueError:
            answer = Answer(400, "epoch or wait is no number")
        else:
            answer = handler(question) if handler else Answer(404, "this component has no role here")
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        body = answer.body if answer.status == 200 else answer.reason.encode()
        self.send_response(answer.status)
        self.send_header("Content-Length", "0" if answer.status == 304 else str(len(body)))
        self.send_header("Graf-Position", answer.position)
        self.send_header("Graf-Age-Seconds", f"{answer.age_s:.3f}")
        self.send_header("Graf-Stale-Seconds", f"{answer.stale_s:.3f}")
        if answer.status == 200:
            self.send_header("Graf-Sha256", hashlib.sha256(body).hexdigest())
        self.end_headers()
        if answer.status != 304:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Nothing: a line per poll helps nobody."""


class Asker:
    """Asks one peer; keeps the connection. Not thread-safe: one per follower."""

    def __init__(self, endpoint: str, identity: str, tls_directory: Path, path: str) -> None:
        self._address = _split(endpoint)
        self.endpoint = endpoint
        self._identity = identity
        self._path = path
        self._contexts = _Contexts(tls_directory, server=False)
        self._connection: _Connection | None = None
        self._interrupted = False

    def ask(
        self, epoch: int, known: Position, applied: Position, wait_s: float, *, fresh: bool = False
    ) -> tuple[Answer, Generation | None]:
        """One question; a generation when there is another one, proved whole. `fresh`: see `Question`.

        Raises:
            ExchangeError: no answer, or one that cannot be used.
        """
        query = {"epoch": epoch, "known": str(known), "applied": str(applied), "wait": f"{wait_s:.3f}"}
        if fresh:
            query["fresh"] = "1"
        try:
            response, body = self._get(f"{self._path}?{urlencode(query)}")
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise ExchangeError(
                f"{self.endpoint} does not prove to be {self._identity} ({error.verify_message}); check the peer's "
                f"endpoint and identity, and the certificates at both sites"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise ExchangeError(
                f"the driver at {self.endpoint} gives no answer ({type(error).__name__}); check that site, the path to "
                f"it, and that it accepts this site's certificate"
            ) from None
        answer = _answer(response, body)
        if answer.status == 304:
            return answer, None
        if answer.status != 200:
            self.close()  # a refusal can be about the certificate: ask with the one that is on the disk then
            raise ExchangeError(f"the driver at {self.endpoint} refuses: {answer.reason or answer.status}")
        if hashlib.sha256(body).hexdigest() != response.headers.get("Graf-Sha256"):
            raise ExchangeError(f"what {self.endpoint} sent did not arrive whole; asked again")
        try:
            return answer, Generation.decode(body)
        except GenerationError as error:
            raise ExchangeError(f"the generation of {self.endpoint} is refused: {error}") from None

    def close(self) -> None:
        """Ends the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def interrupt(self) -> None:
        """From another thread: a question in flight ends early, with an error; the asking thread closes."""
        self._interrupted = True
        connection = self._connection
        plain = connection.sock if connection is not None else None
        if plain is not None:
            with contextlib.suppress(OSError):
                plain.shutdown(socket.SHUT_RDWR)

    def _get(self, path: str) -> tuple[http.client.HTTPResponse, bytes]:
        fresh = self._connection is None
        connection = self._connection or _Connection(self._address, self._identity, self._contexts.current())
        self._connection = connection
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read(MAX_GENERATION_BYTES + 1)
        except (OSError, http.client.HTTPException):
            self.close()
            if fresh or self._interrupted:
                raise
            return self._get(path)  # the kept connection was dead; once more on a new one
        return response, body


class _Connection(http.client.HTTPSConnection):
    """Dials an address, and demands a name that need not be the address'."""

    def __init__(self, address: tuple[str, int], identity: str, context: ssl.SSLContext) -> None:
        super().__init__(address[0], address[1], timeout=_CONNECT_S, context=context)
        self._identity = identity
        self._tls = context

    def connect(self) -> None:
        """TCP, then TLS by the identity; afterwards reading may take as long as the longest wait."""
        plain = socket.create_connection((self.host, self.port), _CONNECT_S)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._identity)
        except BaseException:
            plain.close()
            raise
        self.sock.settimeout(LONGEST_WAIT_S + 5.0)


class _Contexts:
    """TLS contexts from a directory, made again when a file changed: certificates rotate without a restart."""

    def __init__(self, directory: Path, *, server: bool) -> None:
        self._directory = directory
        self._server = server
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._context: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def current(self) -> ssl.SSLContext:
        """The context for a new connection.

        Raises:
            ExchangeError: a file is missing or unusable, and there is no earlier context to go on with.
        """
        files = [self._directory / name for name in ("ca.crt", "tls.crt", "tls.key")]
        with self._lock:
            try:
                stats = [path.stat() for path in files]
                stamp = tuple((stat.st_mtime_ns, stat.st_ino) for stat in stats)
                if self._context is None or stamp != self._stamp:
                    self._context, self._stamp = self._make(*map(str, files)), stamp
            except (OSError, ssl.SSLError, ValueError) as error:
                if self._context is None:
                    raise ExchangeError(
                        f"the certificates in {self._directory} cannot be used "
                        f"({getattr(error, 'filename', None) or ''}{' ' if getattr(error, 'filename', None) else ''}"
                        f"{error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__})"
                        f"; mount ca.crt, tls.crt and tls.key there"
                    ) from None
            return self._context

    def _make(self, authority: str, certificate: str, key: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if self._server else ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key)
        return context


class Endpoints:
    """The listening addresses of this process, made when first needed."""

    def __init__(self) -> None:
        self._endpoints: dict[str, Endpoint] = {}
        self._lock = threading.Lock()

    def serve(self, listen: str, tls_directory: Path, path: str, handler: Handler) -> None:
        """Answers `path` by `handler`, which replaces an earlier one.

        Raises:
            ExchangeError: it cannot.
        """
        with self._lock:
            endpoint = self._endpoints.get(listen)
            if endpoint is None:
                endpoint = self._endpoints[listen] = Endpoint(listen, tls_directory)
            elif endpoint.tls_directory != tls_directory:
                raise ExchangeError(f"{listen} is used with other certificates already; one tlsDirectory per address")
            endpoint.handlers[path] = handler

    def forget(self, listen: str, path: str) -> None:
        """Answers `path` no more."""
        with self._lock:
            endpoint = self._endpoints.get(listen)
            if endpoint is not None:
                endpoint.handlers.pop(path, None)
                if not endpoint.handlers:
                    del self._endpoints[listen]
                    endpoint.close()

    def close(self) -> None:
        """All of them."""
        with self._lock:
            for endpoint in self._endpoints.values():
                endpoint.close()
            self._endpoints.clear()


def path_of(group: str, component: str) -> str:
    """Where a component is asked for."""
    return f"/v1/{group}/{component}"


def _answer(response: http.client.HTTPResponse, body: bytes) -> Answer:
    headers = response.headers
    try:
        age_s, stale_s = float(headers.get("Graf-Age-Seconds", "0")), float(headers.get("Graf-Stale-Seconds", "0"))
    except ValueError:
        age_s = stale_s = 0.0
    reason = "" if response.status == 200 else body[:500].decode("utf-8", "replace")
    return Answer(response.status, reason, headers.get("Graf-Position", ""), age_s, stale_s, body)


def _split(endpoint: str) -> tuple[str, int]:
    host, _, port = endpoint.rpartition(":")
    return host.strip("[]"), int(port)

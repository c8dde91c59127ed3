"""What the operator's port makes of an API server's answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from graf.ports.group_api import ApiError, ApiFault
from graf.shell.group_api import KubeGroupApi


class Server(ThreadingHTTPServer):
    """Answers every question with one status and body."""

    status = 200
    body = b"{}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def api(server: Server, tmp_path: Path) -> KubeGroupApi:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    return KubeGroupApi(kubeconfig, "the management cluster")


def fault(api: KubeGroupApi) -> ApiError:
    with pytest.raises(ApiError) as problem:
        api.group("vcu-db")
    return problem.value


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (429, ApiFault.UNREACHABLE),
        (500, ApiFault.UNREACHABLE),
        (503, ApiFault.UNREACHABLE),
        (504, ApiFault.UNREACHABLE),
        (404, ApiFault.NOT_FOUND),
        (401, ApiFault.REFUSED),
        (403, ApiFault.REFUSED),
        (422, ApiFault.REFUSED),
    ],
)
def test_a_server_that_is_not_ready_is_waited_for_and_a_refusal_is_not(
    api: KubeGroupApi, server: Server, status: int, expected: ApiFault
) -> None:
    server.status = status
    assert fault(api).fault is expected


def test_what_the_server_says_for_people_is_told_alone(api: KubeGroupApi, server: Server) -> None:
    server.status = 503
    server.body = json.dumps({"kind": "Status", "message": "not all paths are installed, please try again"}).encode()
    problem = fault(api)
    assert "HTTP 503, not all paths are installed, please try again." in problem.what
    assert "{" not in problem.what


def test_a_server_that_is_gone_is_unreachable(api: KubeGroupApi, server: Server) -> None:
    server.server_close()
    server.shutdown()
    assert fault(api).fault is ApiFault.UNREACHABLE

"""Stand-ins for the API server and for a person at a Git repository."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import yaml
from graf_orchestrator.ports import ClusterError

EXAMPLE = Path(__file__).resolve().parents[2] / "gitops" / "example"


def example() -> dict[str, bytes]:
    return {str(p.relative_to(EXAMPLE)): p.read_bytes() for p in EXAMPLE.rglob("*") if p.is_file()}


class FakeCluster:
    """The `Cluster` port in memory. `away` makes every call fail as an API server that does not answer."""

    def __init__(self) -> None:
        self.documents: dict[tuple[str, str], dict[str, Any]] = {}
        self.config_maps: dict[str, dict[str, str]] = {}
        self.events: list[dict[str, Any]] = []
        self.applied = 0
        self.status_writes = 0
        self.away = False
        self.refuse = ""
        self._version = 0

    def _check(self) -> None:
        if self.away:
            raise ClusterError(0, "the API server does not answer (Fake)")

    def _store(self, document: dict[str, Any]) -> None:
        self._version += 1
        stored = copy.deepcopy(document)
        stored["metadata"]["resourceVersion"] = str(self._version)
        stored["metadata"].setdefault("generation", 1)
        self.documents[document["kind"], document["metadata"]["name"]] = stored

    def objects(self, kind: str) -> list[dict[str, Any]]:
        self._check()
        return [copy.deepcopy(d) for (of, _), d in sorted(self.documents.items()) if of == kind]

    def apply(self, document: dict[str, Any], *, dry_run: bool) -> None:
        self._check()
        if self.refuse and self.refuse == document["metadata"]["name"]:
            raise ClusterError(422, "spec: Invalid value")
        if dry_run:
            return
        self.applied += 1
        old = self.documents.get((document["kind"], document["metadata"]["name"]), {})
        self._store({**document, **({"status": old["status"]} if "status" in old else {})})

    def create(self, document: dict[str, Any]) -> bool:
        self._check()
        if (document["kind"], document["metadata"]["name"]) in self.documents:
            return False
        self._store(document)
        return True

    def write_status(self, kind: str, name: str, status: dict[str, Any]) -> None:
        self._check()
        if (kind, name) not in self.documents:
            raise ClusterError(404, "not found")
        self.status_writes += 1
        self._store({**self.documents[kind, name], "status": copy.deepcopy(status)})

    def write_event(self, event: dict[str, Any]) -> None:
        self._check()
        self.events.append(event)

    def read_config_map(self, name: str) -> dict[str, str] | None:
        self._check()
        return dict(self.config_maps[name]) if name in self.config_maps else None

    def write_config_map(self, name: str, data: dict[str, str]) -> None:
        self._check()
        self.config_maps[name] = dict(data)

    def load_example(self) -> None:
        for path, content in example().items():
            if path.endswith(".yaml"):
                self._store(yaml.safe_load(content))

    def status(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.documents[kind, name].get("status") or {}
        return found


class Person:
    """Somebody with a clone of the repository."""

    def __init__(self, work: Path) -> None:
        self.bare, self.tree = work / "gitops.git", work / "person"
        self.git("init", "-q", "--bare", "--initial-branch=main", str(self.bare), cwd=work)
        for path, content in example().items():
            (self.tree / path).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / path).write_bytes(content)
        self.git("init", "-q", "--initial-branch=main")
        self.git("remote", "add", "origin", str(self.bare))

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        identity = ["-c", "user.name=Person", "-c", "user.email=person@graf.dev"]
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=cwd or self.tree,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, f"git {arguments}: {done.stderr}"
        return done.stdout.strip()

    def push(self, message: str = "Change", *, force: bool = False, **files: str) -> str:
        for path, content in files.items():
            (self.tree / path).write_text(content)
        self.git("add", "--all")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        if not force and self.git("ls-remote", "origin"):
            self.git("pull", "-q", "--rebase", "origin", "main")
        self.git("push", "-q", *(["--force"] if force else []), "origin", "main")
        return self.git("rev-parse", "HEAD")

    def log(self, shape: str = "%B") -> str:
        return self.git("--git-dir", str(self.bare), "log", f"--format={shape}", "main")

    def show(self, path: str) -> Any:
        return yaml.safe_load(self.git("--git-dir", str(self.bare), "show", f"main:{path}"))

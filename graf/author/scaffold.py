"""Makes the folder of a new driver: as a whole, or not at all.

Everything is written into a folder of another name beside the wanted one, locked there, and renamed at the end.
Whatever goes wrong before leaves nothing; what is there already is never touched.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from jinja2 import Environment, StrictUndefined

from graf.author.errors import AuthorError
from graf.author.vendor import KIT, SDK, pack

NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DOMAIN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})+")
LONGEST_DOMAIN: Final = 200
LONGEST_NAME: Final = 40
DRIVERS: Final = "graf.drivers"
# Distributions of ours that are no drivers, by what follows `graf-driver-`.
_TAKEN: Final = ("sdk", "sanity")
_LOCK_S: Final = 300.0
# Of what another program says: the beginning has the reason, the end has its hint.
_SAID: Final = 300


@dataclass(frozen=True, slots=True)
class Names:
    """What everything in the folder is called.

    Attributes:
        name: as given, e.g. `my-store`.
        domain: the author's own; the contract's name of the driver is `<name>.<domain>`.
    """

    name: str
    domain: str

    @property
    def distribution(self) -> str:
        """Of the package index."""
        return f"graf-driver-{self.name}"

    @property
    def package(self) -> str:
        """Of Python's import."""
        return self.distribution.replace("-", "_")

    @property
    def class_name(self) -> str:
        """Of the driver's class."""
        return "".join(part.capitalize() for part in self.name.split("-")) + "Driver"

    @property
    def driver(self) -> str:
        """Of the contract."""
        return f"{self.name}.{self.domain}"


def check_names(name: str, domain: str) -> Names:
    """The names of a new driver.

    Raises:
        AuthorError: they cannot be used, or belong to a driver that is installed here.
    """
    rule = (
        f"Give lower-case letters and digits, a letter first, in parts joined by one dash, e.g. {_near(name)}; "
        f"at most {LONGEST_NAME}. A domain goes into --domain."
    )
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise AuthorError(f"{name!r} is no name for a driver", rule)
    if name in _TAKEN or entry_points(group=DRIVERS, name=name):
        raise AuthorError(f"graf-driver-{name} exists already in this installation of GRAF", "Choose another name.")
    if not DOMAIN.fullmatch(domain) or len(domain) > LONGEST_DOMAIN:
        raise AuthorError(f"{domain!r} is no domain", "Give one that is yours, e.g. --domain example.org.")
    return Names(name, domain)


def _near(name: str) -> str:
    """What the author may have meant."""
    near = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return near if NAME.fullmatch(near) and len(near) <= LONGEST_NAME else "my-store"


def create(names: Names, parent: Path, *, lock: bool = True) -> Path:
    """Makes `parent/<name>` and returns it.

    Raises:
        AuthorError: it exists, cannot be written, or its dependencies cannot be locked. Nothing is left then.
    """
    target = parent / names.name
    if os.path.lexists(target):
        raise AuthorError(
            f"{target} exists already; nothing in it was touched", "Choose another name, or another folder (--into)."
        )
    with _ending_cleanly():
        return _create(names, parent, target, lock=lock)


def _create(names: Names, parent: Path, target: Path, *, lock: bool) -> Path:
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{names.name}-", suffix=".new", dir=parent))
    except OSError as error:
        raise _unwritable(parent, error) from error
    try:
        _fill(names, staging)
        if lock:
            _lock(staging)
        staging.chmod(0o777 & ~_umask())
        target.mkdir()  # claims the name; the rename below replaces only an empty folder
        staging.rename(target)
    except FileExistsError as error:
        raise AuthorError(f"{target} was made by somebody else meanwhile", "Look at it, then choose.") from error
    except OSError as error:
        raise _unwritable(parent, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


@contextmanager
def _ending_cleanly() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end this as Ctrl-C does: the half-made folder is removed, `uv` is ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _unwritable(parent: Path, error: OSError) -> AuthorError:
    return AuthorError(
        f"nothing can be made in {parent}: {error.strerror or error}", "Give a folder that you may write in (--into)."
    )


def _fill(names: Names, staging: Path) -> None:
    vendor = staging / "vendor"
    vendor.mkdir()
    values = {"names": names, "sdk_wheel": pack(SDK, vendor).name, "kit_wheel": pack(KIT, vendor).name}
    environment = Environment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - writes no HTML
    )
    for source, path in _templates(files("graf.author") / "template", Path()):
        place = staging / path.with_suffix("").as_posix().replace("package", names.package).replace("dot.", ".")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(environment.from_string(source.read_text(encoding="utf-8")).render(values), encoding="utf-8")
    (staging / "src" / names.package / "py.typed").touch()


def _templates(folder: Traversable, path: Path) -> list[tuple[Traversable, Path]]:
    found: list[tuple[Traversable, Path]] = []
    for entry in sorted(folder.iterdir(), key=lambda each: each.name):
        if entry.is_dir():
            found += _templates(entry, path / entry.name)
        elif entry.name.endswith(".j2"):
            found.append((entry, path / entry.name))
    return found


def _lock(staging: Path) -> None:
    """Pins every dependency; the author commits the lock."""
    program = shutil.which("uv", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / ".local/bin")]))
    if program is None:
        raise AuthorError("uv is not installed, so dependencies cannot be pinned", "pip install uv; or add --no-lock.")
    try:
        done = subprocess.run(
            [program, "lock", "--quiet"],
            cwd=staging,
            env={key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"},
            capture_output=True,
            text=True,
            timeout=_LOCK_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise AuthorError(f"uv lock did not end within {_LOCK_S:g} s", "Is the package index reachable?") from error
    if done.returncode != 0:
        raise AuthorError(
            f"the dependencies cannot be locked: {_short(done.stderr)}",
            "Make the package index reachable, or add --no-lock: then `make test` locks them.",
        )


def _short(said: str) -> str:
    words = " ".join(said.split())
    return words if len(words) <= 2 * _SAID else f"{words[:_SAID]} ... {words[-_SAID:]}"


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current

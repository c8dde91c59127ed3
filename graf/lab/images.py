"""Container images of the lab, built from the Containerfiles in `images/` and kept as OCI layouts.

An image's tag is a hash of everything that goes into it: nothing is built twice, and a change of our code rebuilds
one small layer. The engine is buildah, Podman or Docker, the first that is installed. The base is what
`GRAF_BASE_IMAGE` names, or a Debian that mmdebstrap makes when it is installed, or else the registry's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from graf.lab import aptbase, pythonpath
from graf.lab.build import REPOSITORY
from graf.lab.errors import LabError
from graf.lab.state import one_builder
from graf.lab.topology import cache_root

Tell = Callable[[str], None]
IMAGES = REPOSITORY / "images"
ENGINES = ("buildah", "podman", "docker")
_EPOCH_S = 1_700_000_000
REGISTRY_BASE = "docker.io/library/debian:bookworm-slim"


@dataclass(frozen=True)
class ImageSpec:
    """One image of the repository.

    Attributes:
        name: Folder under `images/`.
        packages: Workspace distributions that the image installs; empty: the image has no code of ours.
    """

    name: str
    packages: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """Name without tag, as manifests use it."""
        return {
            "graf": "localhost/graf",
            "base": "localhost/graf-base",
            "pause": "localhost/graf-pause",
        }.get(self.name, f"localhost/graf-driver-{self.name}")


BASE = ImageSpec("base")
SPECS = (
    ImageSpec("pause"),
    ImageSpec("graf", ("graf-framework", "graf-orchestrator", "graf-driver-sdk")),
    ImageSpec("mysql", ("graf-driver-sdk", "graf-driver-mysql")),
    ImageSpec("network", ("graf-driver-sdk", "graf-driver-network")),
)
# Of a lab with a volume only: what no group uses costs each cluster an import.
PV = ImageSpec("pv", ("graf-driver-sdk", "graf-driver-pv"))
# Of a lab with an application only.
APPLICATION = (
    ImageSpec("workload", ("graf-driver-sdk", "graf-driver-workload")),
    ImageSpec("objects", ("graf-driver-sdk", "graf-driver-objects")),
)
FAKE = ImageSpec("fake", ("graf-driver-sdk", "graf-driver-fake"))
ALL_SPECS = (*SPECS, PV, *APPLICATION, FAKE)
AT_MANAGEMENT = ("pause", "graf")


@dataclass(frozen=True)
class Image:
    """A built image.

    Attributes:
        spec: What it was built from.
        tag: Hash of everything that went into it.
        manifest: Digest of its manifest in the layout.
        size_bytes: Sum of its layers.
    """

    spec: ImageSpec
    tag: str
    manifest: str
    size_bytes: int

    @property
    def name(self) -> str:
        return f"{self.spec.reference}:{self.tag}"

    @property
    def dev_name(self) -> str:
        """The name by which manifests of the example ask for it."""
        return f"{self.spec.reference}:dev"


def layout_dir() -> Path:
    """The OCI layout with all images; layers that images share are there once."""
    return cache_root() / "images" / "layout"


def engine() -> str:
    """The installed engine that builds images.

    Raises:
        LabError: None is installed.
    """
    for name in ENGINES:
        if shutil.which(name):
            return name
    raise LabError(
        "no program that builds container images is installed",
        f"looked for {', '.join(ENGINES)}",
        "make setup (or: apt-get install buildah)",
    )


def ensure(specs: tuple[ImageSpec, ...], tell: Tell) -> list[Image]:
    """Build what is not built yet.

    Args:
        specs: The images wanted.
        tell: Told what is being done.

    Returns:
        One built image for each of `specs`, in their order.

    Raises:
        LabError: A tool is missing or a build failed.
    """
    base = _base_name()
    built: list[Image] = []
    with one_builder(cache_root() / "images"):
        for spec in specs:
            tag = image_tag(spec, base)
            built.append(_recorded(spec, tag) or _build(spec, tag, base, tell))
    return built


def _base_name() -> str:
    content = digest_of([IMAGES / "base"], aptbase.SUITE + os.environ.get("GRAF_BASE_IMAGE", ""))
    return f"{BASE.reference}:{content}"


def _foundation_name(spec: ImageSpec, base: str, locked: str) -> str:
    """Name of the image below our code: packages of the distribution and locked dependencies."""
    return f"{spec.reference}-foundation:{digest_of([IMAGES / spec.name], base + locked)}"


def image_tag(spec: ImageSpec, base: str) -> str:
    """Hash of everything that goes into an image."""
    sources = [IMAGES / spec.name]
    if spec.packages:
        lock = [REPOSITORY / "uv.lock", IMAGES / "code"]
        sources += [*pythonpath.source_dirs(spec.packages), *lock]
    return digest_of(sources, base)


def digest_of(sources: list[Path], extra: str = "") -> str:
    """Hash of files and of the files below folders: names and contents, not times."""
    digest = hashlib.sha256(extra.encode())
    for source in sources:
        files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
        for path in files:
            if "__pycache__" in path.parts or path.suffix == ".pyc":
                continue
            digest.update(str(path.relative_to(REPOSITORY) if REPOSITORY in path.parents else path.name).encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _record_file(spec: ImageSpec, tag: str) -> Path:
    return cache_root() / "images" / f"{spec.name}-{tag}.json"


def _recorded(spec: ImageSpec, tag: str) -> Image | None:
    try:
        data = json.loads(_record_file(spec, tag).read_text())
        image = Image(spec, tag, data["manifest"], data["size_bytes"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return image if all(blob.is_file() for blob in blobs(image)) else None


def blob_path(digest: str) -> Path:
    """Where a blob of the layout lies."""
    return layout_dir() / "blobs" / digest.replace(":", "/")


def blobs(image: Image) -> list[Path]:
    """The files of the layout that make up an image: manifest, configuration, layers."""
    manifest_path = blob_path(image.manifest)
    if not manifest_path.is_file():
        return [manifest_path]
    manifest = json.loads(manifest_path.read_text())
    digests = [manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
    return [manifest_path, *(blob_path(digest) for digest in digests)]


def _ensure_base(name: str, tell: Tell) -> None:
    if _engine_has(name):
        return
    parent = os.environ.get("GRAF_BASE_IMAGE", "")
    if not parent and shutil.which("mmdebstrap"):
        parent = name.replace("graf-base", "graf-debian")
        if not _engine_has(parent):
            tell("making the Debian base with mmdebstrap")
            archive = cache_root() / "images" / f"debian-{name.rsplit(':', 1)[1]}.tar"
            _from_scratch(aptbase.make(IMAGES / "base" / "packages.txt", archive), parent)
            archive.unlink()
    tell("building image localhost/graf-base")
    _bud(IMAGES / "base", name, parent or REGISTRY_BASE)


def _build(spec: ImageSpec, tag: str, base: str, tell: Tell) -> Image:
    """Build an image in two steps, so that a change of our code repeats only the second."""
    name = f"{spec.reference}:{tag}"
    locked = pythonpath.requirements(spec.packages) if spec.packages else ""
    foundation = _foundation_name(spec, base, locked) if spec.packages else name
    with tempfile.TemporaryDirectory(prefix="context-", dir=cache_root() / "images") as scratch:
        if not _engine_has(foundation):
            _ensure_base(base, tell)
            tell(f"building image {foundation}")
            context = Path(scratch) / "foundation"
            shutil.copytree(IMAGES / spec.name, context)
            if locked:
                pythonpath.fill_dependencies(context / "dependencies", locked)
            _fix_times(context)
            _bud(context, foundation, base)
        if spec.packages:
            tell(f"building image {name}")
            context = Path(scratch) / "code"
            shutil.copytree(IMAGES / "code", context)
            pythonpath.fill_code(context / "code", spec.packages)
            _fix_times(context)
            _bud(context, name, foundation)
    manifest = _export(name)
    layers = json.loads(blob_path(manifest).read_text())["layers"]
    image = Image(spec, tag, manifest, sum(layer["size"] for layer in layers))
    record = {"manifest": image.manifest, "size_bytes": image.size_bytes}
    _record_file(spec, tag).write_text(json.dumps(record))
    _forget_older(spec, tag)
    return image


def _forget_older(spec: ImageSpec, tag: str, keep: int = 3) -> None:
    """Remove older builds of an image, here and in the engine; the newest few stay for the labs that run them."""
    records = sorted((cache_root() / "images").glob(f"{spec.name}-*.json"), key=lambda p: p.stat().st_mtime)
    for record in records[:-keep]:
        record.unlink()
        old = record.stem.removeprefix(f"{spec.name}-")
        if old != tag:
            subprocess.run([engine(), "rmi", f"{spec.reference}:{old}"], capture_output=True, check=False)
    kept: set[Path] = set()
    for record in (cache_root() / "images").glob("*-*.json"):
        kept.update(blobs(Image(spec, "", json.loads(record.read_text())["manifest"], 0)))
    for blob in (layout_dir() / "blobs" / "sha256").iterdir():
        if blob not in kept:
            blob.unlink()


def _fix_times(context: Path) -> None:
    """Give every file of a build context the same time: engines then find unchanged layers in their cache."""
    for current, folders, files in os.walk(context):
        for name in (*folders, *files):
            os.utime(Path(current) / name, (_EPOCH_S, _EPOCH_S), follow_symlinks=False)
        os.utime(current, (_EPOCH_S, _EPOCH_S))


# -- engines -----------------------------------------------------------------------------------------------


def _run(argv: list[str], what: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        text = (done.stderr.strip() or done.stdout.strip())[-900:]
        raise LabError(f"{what} failed", text, "graf lab up goes on where this stopped")


def _engine_has(name: str) -> bool:
    argv = {"docker": ["docker", "image", "inspect"]}.get(engine(), [engine(), "inspect", "--type", "image"])
    return subprocess.run([*argv, name], capture_output=True, check=False).returncode == 0


def _bud(context: Path, name: str, base: str) -> None:
    """Build a Containerfile."""
    program = engine()
    argv = [program, "bud"] if program == "buildah" else [program, "build"]
    argv += ["--file", str(context / "Containerfile"), "--tag", name, "--build-arg", f"BASE={base}"]
    with tempfile.TemporaryDirectory(prefix="graf-apt-") as scratch:
        if program == "buildah":
            # chroot isolation needs neither user namespaces nor a runtime of its own.
            argv += ["--isolation", "chroot", "--layers", "--pull=false" if "/graf-" in base else "--pull"]
        if program != "docker" and "/graf-" in base:
            # Our own base names no mirror: the machine's package sources are lent to the build and leave no trace.
            aptbase.lend(Path(scratch))
            argv += ["--volume", f"{scratch}:/etc/apt:ro"]
        _run([*argv, str(context)], f"building image {name}")


def _from_scratch(archive: Path, name: str) -> None:
    """Make an image of one layer from a file system archive."""
    if engine() != "buildah":
        _run([engine(), "import", str(archive), name], f"importing {name}")
        return
    with tempfile.TemporaryDirectory(prefix="graf-base-") as scratch:
        context = Path(scratch)
        os.link(archive, context / "base.tar") if _same_device(archive, context) else shutil.copy(
            archive, context / "base.tar"
        )
        (context / "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
        _run(["buildah", "bud", "--isolation", "chroot", "--tag", name, str(context)], f"building {name}")


def _same_device(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _export(name: str) -> str:
    """Copy an image into the shared layout, layers uncompressed so that importing them costs least.

    Returns:
        Digest of the image's manifest.
    """
    program = engine()
    store = layout_dir() / "blobs" / "sha256"
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="export-", dir=cache_root() / "images") as scratch:
        here = Path(scratch)
        if program == "docker":
            archive = here / "image.tar"
            _run(["docker", "save", "--output", str(archive), name], f"exporting {name}")
            _run(["tar", "--extract", "--directory", scratch, "--file", str(archive)], f"reading {name}")
            for blob in (here / "blobs" / "sha256").iterdir():
                blob.replace(store / blob.name)
            return str(json.loads((here / "index.json").read_text())["manifests"][0]["digest"])
        argv = [program, "push", "--quiet", "--format", "oci", "--disable-compression", name, f"dir:{scratch}"]
        _run(argv, f"exporting {name}")
        manifest = (here / "manifest.json").read_bytes()
        digest = hashlib.sha256(manifest).hexdigest()
        (store / digest).write_bytes(manifest)
        for blob in here.iterdir():
            if len(blob.name) == hashlib.sha256().digest_size * 2:
                blob.replace(store / blob.name)
    return f"sha256:{digest}"

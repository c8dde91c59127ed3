"""Which cluster the command talks to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from graf.cli.errors import CliError
from graf.ports.group_api import GroupApi

# Where `graf lab up` puts it; kept as a convention of paths, since the command line does not import the lab.
LAB_DIR_VARIABLE = "GRAF_LAB_DIR"
LAB_DIR = "/var/lib/graf-lab"
DEFAULT_LAB = "lab"


def find_kubeconfig(option: Path | None, lab_name: str | None = None) -> Path:
    """The operator's kubeconfig: the option, else that of the named lab, else KUBECONFIG, else the default lab's."""
    if option is not None:
        if not option.is_file():
            raise CliError(f"the kubeconfig {option} does not exist", "Name an existing file with --kubeconfig.")
        return option
    if lab_name is not None:
        return _of_lab(lab_name, f"there is no lab {lab_name!r}", f"Start it with `graf lab up --name {lab_name}`.")
    for part in os.environ.get("KUBECONFIG", "").split(os.pathsep):
        if part and Path(part).is_file():
            return Path(part)
    if os.environ.get("KUBECONFIG"):
        raise CliError(
            f"KUBECONFIG names no existing file: {os.environ['KUBECONFIG']}",
            f"Correct it, or unset it to use the lab's ({_lab_kubeconfig(DEFAULT_LAB)}).",
        )
    return _of_lab(
        DEFAULT_LAB,
        "there is no management cluster to talk to: no --kubeconfig, no KUBECONFIG, and no lab is up",
        "Start a lab with `graf lab up`, or name the management cluster's kubeconfig with --kubeconfig.",
    )


def _lab_kubeconfig(name: str) -> Path:
    return Path(os.environ.get(LAB_DIR_VARIABLE) or LAB_DIR) / name / "mgmt" / "admin.kubeconfig"


def _of_lab(name: str, absent: str, next_step: str) -> Path:
    lab = _lab_kubeconfig(name)
    try:
        present = lab.is_file()
    except PermissionError as error:
        raise CliError(
            f"{lab} cannot be read: {error.strerror}", "Run as root, or name another --kubeconfig."
        ) from error
    if not present:
        raise CliError(absent, next_step)
    return lab


def _real_api(kubeconfig: Path) -> GroupApi:
    from graf.shell.group_api import KubeGroupApi

    return KubeGroupApi(kubeconfig, "the management cluster")


# Tests put another maker here; nothing else does.
api_maker: Callable[[Path], GroupApi] = _real_api


def connect(option: Path | None, lab: str | None = None) -> GroupApi:
    """The management cluster's API. Opens nothing yet."""
    return api_maker(find_kubeconfig(option, lab))

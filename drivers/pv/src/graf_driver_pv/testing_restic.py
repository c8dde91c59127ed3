"""For tests: repositories that open quickly, and restic asked by nothing of the driver."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def make_repository(folder: Path, *, made: bool = True, **parameters: Any) -> dict[str, Any]:
    """The `repository` parameter for one in a folder; quick to tell and to look.

    Args:
        folder: for its password and its data.
        made: it is there already, and opens quickly; else whoever needs it makes it.
        parameters: others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    password = folder / "password"
    password.write_text(f"{os.urandom(12).hex()}\n")
    password.chmod(0o600)
    own = {
        "location": str(folder / "repository"),
        "passwordFile": str(password),
        "create": True,
        "pollSeconds": 0.5,
        "confirmSeconds": 1,
        **parameters,
    }
    if made:
        restic(own, "init")
        _open_quickly(Path(own["location"]), password.read_text().strip().encode())
    return own


def restic(parameters: Mapping[str, Any], *arguments: str, folder: Path | None = None) -> str:
    """What restic says of a repository, asked in a folder by nothing of the driver."""
    own = {"RESTIC_REPOSITORY": parameters["location"], "RESTIC_PASSWORD_FILE": parameters["passwordFile"]}
    command = ["restic", "--no-cache", *arguments]
    environment = {**os.environ, **own}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=folder).stdout


def _open_quickly(repository: Path, password: bytes) -> None:
    """Wraps the repository's key anew, with a key derivation of no strength.

    restic takes about 0.4 s of a core to derive its key, each time that it is started, and cannot be told otherwise.
    (https://restic.readthedocs.io/en/stable/100_references.html#keys-encryption-and-mac)
    """
    [file] = (repository / "keys").iterdir()
    raw = json.loads(file.read_text())
    salt, data = base64.b64decode(raw["salt"]), base64.b64decode(raw["data"])
    nonce, sealed, tag = data[:16], data[16:-16], data[-16:]
    encrypt, mac_k, mac_r = _derive(password, salt, raw["N"], raw["r"], raw["p"])
    if _mac(nonce, sealed, mac_k, mac_r) != tag:
        raise AssertionError("the repository's key is not understood")
    plain = _aes("ctr", encrypt, sealed, "-iv", nonce.hex())
    encrypt, mac_k, mac_r = _derive(password, salt, 2, 1, 1)
    sealed = _aes("ctr", encrypt, plain, "-iv", nonce.hex())
    wrapped = base64.b64encode(nonce + sealed + _mac(nonce, sealed, mac_k, mac_r)).decode()
    content = json.dumps(raw | {"N": 2, "r": 1, "p": 1, "data": wrapped}).encode()
    file.with_name(hashlib.sha256(content).hexdigest()).write_bytes(content)
    file.unlink()


def _derive(password: bytes, salt: bytes, n: int, r: int, p: int) -> tuple[bytes, bytes, bytes]:
    key = hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=1 << 30, dklen=64)
    return key[:32], key[32:48], key[48:]


def _aes(mode: str, key: bytes, data: bytes, *more: str) -> bytes:
    command = ["openssl", "enc", f"-aes-{8 * len(key)}-{mode}", "-K", key.hex(), "-nopad", "-nosalt", *more]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def _mac(nonce: bytes, data: bytes, mac_k: bytes, mac_r: bytes) -> bytes:
    """Poly1305-AES."""
    r = int.from_bytes(mac_r, "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    total = 0
    for begin in range(0, len(data), 16):
        total = (total + int.from_bytes(data[begin : begin + 16] + b"\1", "little")) * r % ((1 << 130) - 5)
    return ((total + int.from_bytes(_aes("ecb", mac_k, nonce), "little")) % (1 << 128)).to_bytes(16, "little")

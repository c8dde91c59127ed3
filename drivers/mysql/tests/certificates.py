"""Authorities and certificates for tests, made with openssl."""

import subprocess
from pathlib import Path


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def openssl_output(*arguments: str, given: str = "") -> str:
    """What it prints, "" where it fails."""
    done = subprocess.run(["openssl", *arguments], input=given.encode(), capture_output=True, timeout=10, check=False)
    return done.stdout.decode("utf-8", "replace")


def authority(folder: Path) -> Path:
    """Makes `ca.crt` and `ca.key` there."""
    folder.mkdir(parents=True, exist_ok=True)
    openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"),
        *("-subj", f"/CN=authority {folder.name}", "-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.crt")),
    )
    return folder


def identity(folder: Path, name: str, address: str = "127.0.0.1", *, expired: bool = False) -> dict[str, str]:
    """A certificate for an address by the folder's authority; gives the `tls` parameter."""
    key, request, certificate = (folder / f"{name}.{suffix}" for suffix in ("key", "csr", "crt"))
    openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}"),
        *("-addext", f"subjectAltName=IP:{address}", "-keyout", str(key), "-out", str(request)),
    )
    if expired:
        (folder / "index.txt").write_text("")
        (folder / "serial").write_text("77\n")
        (folder / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={folder}/index.txt\nserial={folder}/serial\n"
            f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=any\ncopy_extensions=copy\n[any]\ncommonName=supplied\n"
        )
        openssl(
            *("ca", "-batch", "-config", str(folder / "ca.cnf"), "-in", str(request), "-out", str(certificate)),
            *("-cert", str(folder / "ca.crt"), "-keyfile", str(folder / "ca.key")),
            *("-startdate", "20200101000000Z", "-enddate", "20200201000000Z"),
        )
    else:
        openssl(
            *("x509", "-req", "-in", str(request), "-CA", str(folder / "ca.crt"), "-CAkey", str(folder / "ca.key")),
            *("-CAcreateserial", "-days", "30", "-copy_extensions", "copy", "-out", str(certificate)),
        )
    return {"ca": str(folder / "ca.crt"), "cert": str(certificate), "key": str(key)}

"""For tests of drivers: the command lines of a real etcd and kube-apiserver on loopback, and kubectl.

Whoever starts them has put `sa.key` (an RSA key in PEM) and `tokens.csv` into the working folder; kube-apiserver writes
its certificate to `pki/apiserver.crt` there. How a process is started and ended is left to the test.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path


def etcd_command(programs: Path, work: Path, client: int, peer: int) -> list[str]:
    """An etcd alone, with its data in `work`; it syncs nothing, so its data do not outlive the machine.

    Args:
        programs: the folder of the binaries.
        work: where its data are.
        client: TCP port for kube-apiserver.
        peer: TCP port for other members; there are none.
    """
    return [
        str(programs / "etcd"),
        f"--data-dir={work / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{client}",
        f"--advertise-client-urls=http://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=default=http://127.0.0.1:{peer}",
        "--unsafe-no-fsync",
    ]


def apiserver_command(
    programs: Path, work: Path, etcd: int, secure: int, services: str = "198.19.240.0/24"
) -> list[str]:
    """A kube-apiserver with RBAC and static tokens.

    Args:
        programs: the folder of the binaries.
        work: where keys, tokens and certificate are.
        etcd: TCP port of etcd.
        secure: TCP port to serve at.
        services: network of the ClusterIPs.
    """
    return [
        str(programs / "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        f"--secure-port={secure}",
        "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1",
        f"--cert-dir={work / 'pki'}",
        f"--token-auth-file={work / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://graf.test",
        f"--service-account-key-file={work / 'sa.key'}",
        f"--service-account-signing-key-file={work / 'sa.key'}",
        f"--service-cluster-ip-range={services}",
        "--endpoint-reconciler-type=none",
        "--disable-admission-plugins=ServiceAccount",
    ]


def kubeconfig(work: Path, port: int, token: str) -> str:
    """For somebody with that token, at the server that `apiserver_command` starts."""
    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority": str(work / "pki" / "apiserver.crt"),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    }
    return json.dumps(content)


def kubectl(command: Sequence[str], *arguments: str, stdin: str | None = None) -> str:
    """Runs kubectl and returns what it printed.

    Args:
        command: how it is started here, with the kubeconfig.
        arguments: what it is asked for.
        stdin: what it reads.

    Raises:
        AssertionError: it failed; the message has its words.
    """
    done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout

"""Certificates of a lab: kubeadm's for each cluster, and a certificate authority for GRAF's own streams."""

from __future__ import annotations

import datetime
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from graf.lab import process
from graf.lab.errors import LabError
from graf.lab.state import write_atomically
from graf.lab.topology import Location, Topology

IDENTITIES = {
    "east": "east.voter.graf.dev",
    "west": "west.voter.graf.dev",
    "witness": "witness.voter.graf.dev",
    "manager": "manager.graf.dev",
    "operator": "operator.graf.dev",
}
_LIFETIME = datetime.timedelta(days=365)
_SKEW = datetime.timedelta(hours=1)


def ensure_graf_identities(topology: Topology) -> Path:
    """Make the GRAF certificate authority and one certificate for each identity, where missing.

    Returns:
        The directory with `ca.crt` and `NAME.crt`, `NAME.key` for each of `IDENTITIES`.
    """
    directory = topology.pki_dir
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if all((directory / f"{name}.key").exists() for name in ("ca", *IDENTITIES)):
        return directory
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"GRAF lab {topology.name}")])
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    _write(directory, "ca", ca, ca_key)
    for name, dns_name in IDENTITIES.items():
        _issue(directory, name, dns_name, ca_name, ca_key)
    return directory


def ensure_identities(topology: Topology, identities: Mapping[str, str]) -> None:
    """Make further certificates by the lab's authority, where missing: file name to the name in it."""
    directory = ensure_graf_identities(topology)
    missing = {name: dns for name, dns in identities.items() if not (directory / f"{name}.crt").exists()}
    if not missing:
        return
    authority = x509.load_pem_x509_certificate((directory / "ca.crt").read_bytes())
    key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    for name, dns_name in missing.items():
        _issue(directory, name, dns_name, authority.subject, key)


def _issue(directory: Path, name: str, dns_name: str, ca_name: x509.Name, ca_key: ec.EllipticCurvePrivateKey) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, dns_name)])
    certificate = (
        _builder(subject, ca_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name)]), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    _write(directory, name, certificate, key)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write(directory: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    write_atomically(directory / f"{name}.key", private, mode=0o600)
    write_atomically(directory / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM).decode())


def kubeadm_config(location: Location, certificates: Path) -> str:
    """The kubeadm configuration from which a cluster's certificates and kubeconfigs are made.

    Args:
        location: The cluster.
        certificates: Where the certificates are made, as a path on this machine.
    """
    documents = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": location.address, "bindPort": 6443},
            "nodeRegistration": {"name": location.name, "criSocket": "unix:///run/containerd/containerd.sock"},
        },
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "kubernetesVersion": "v1.36.3",
            "clusterName": location.name,
            "certificatesDir": str(certificates),
            "encryptionAlgorithm": "ECDSA-P256",
            "controlPlaneEndpoint": f"{location.address}:6443",
            "networking": {"podSubnet": location.pod_cidr, "serviceSubnet": location.service_cidr},
            "apiServer": {"certSANs": ["127.0.0.1", location.address]},
            "etcd": {"local": {"serverCertSANs": ["127.0.0.1"], "peerCertSANs": ["127.0.0.1"]}},
        },
    ]
    return yaml.safe_dump_all(documents, sort_keys=False)


def ensure_cluster(topology: Topology, location: Location, kubeadm: Path) -> None:
    """Make a cluster's certificates and kubeconfigs with kubeadm, where missing.

    Raises:
        LabError: kubeadm failed.
    """
    etc = process.disk_path(topology, location.name, "/etc/kubernetes")
    admin = topology.kubeconfig(location.name)
    if admin.exists():
        return
    etc.mkdir(parents=True, exist_ok=True)
    config = etc / "kubeadm.yaml"
    # The directory is put over /etc/kubernetes only at the location, so the files are made where they lie.
    config.write_text(kubeadm_config(location, etc / "pki"))
    common = ["--config", str(config)]
    _run(location, kubeadm, "init", "phase", "certs", "all", *common)
    for name in ("super-admin", "kubelet", "controller-manager", "scheduler"):
        _run(location, kubeadm, "init", "phase", "kubeconfig", name, "--kubeconfig-dir", str(etc), *common)
    proxy = _run(location, kubeadm, "kubeconfig", "user", "--client-name", "system:kube-proxy", *common)
    write_atomically(etc / "kube-proxy.conf", proxy, mode=0o600)
    write_atomically(admin, (etc / "super-admin.conf").read_text(), mode=0o600)


def _run(location: Location, kubeadm: Path, *argv: str) -> str:
    done = subprocess.run(
        [str(kubeadm), *argv],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HOME": "/root"},
    )
    if done.returncode != 0:
        raise LabError(f"kubeadm {' '.join(argv[:4])} failed for {location.name}", done.stderr.strip()[-600:])
    return done.stdout

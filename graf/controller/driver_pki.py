"""The certificates between this site's controller and its drivers: a certificate authority of the site alone.

The authority's key never leaves the controller's disk. Drivers get certificates for servers only, the controller keeps
the only one for a client: a driver cannot call another one. A certificate lives for weeks and is replaced after the
first third, so that an API server that is away for long stops no driver.
"""

from __future__ import annotations

import base64
import datetime
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from graf.controller.rendering import server_name
from graf.shell.disk import write_durably
from graf.shell.logs import event

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOG = logging.getLogger("graf.deploy")

LIFETIME = datetime.timedelta(days=30)
RENEW_AFTER = LIFETIME / 3
AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
# Clocks of two nodes differ: a certificate is valid a little earlier than it was made.
SKEW = datetime.timedelta(hours=1)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(frozen=True, slots=True)
class Pem:
    """A certificate with its key, and the authority that the other side is checked by."""

    ca: bytes
    certificate: bytes
    key: bytes

    def secret(self) -> dict[str, str]:
        """Data of a Secret of type kubernetes.io/tls, with the authority."""
        files = {"ca.crt": self.ca, "tls.crt": self.certificate, "tls.key": self.key}
        return {name: base64.b64encode(content).decode() for name, content in files.items()}


class DriverPki:
    """The authority of one site, kept in a directory of the controller; made when there is none."""

    def __init__(self, directory: Path, site: str, clock: Callable[[], datetime.datetime] = _now) -> None:
        self._directory, self._site, self._clock = directory, site, clock
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key, self._certificate = self._load_or_make()
        self._client: Pem | None = None
        self._client_due = clock()

    @property
    def ca(self) -> bytes:
        """The authority's certificate."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def client(self) -> Pem:
        """The controller's own certificate; kept in memory, made anew when it is due."""
        if self._client is None or self._clock() >= self._client_due:
            name = f"{self._site}.controller.graf.dev"
            self._client, self._client_due = (
                self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH),
                self._clock() + RENEW_AFTER,
            )
        return self._client

    def driver(self, driver_class: str) -> Pem:
        """The certificate of a driver; the same one until it is due, over restarts of this process too."""
        certificate, key = self._directory / f"{driver_class}.crt", self._directory / f"{driver_class}.key"
        try:
            kept = Pem(self.ca, certificate.read_bytes(), key.read_bytes())
            if self._usable(kept, driver_class):
                return kept
        except (OSError, ValueError):
            pass  # none yet, or half written: another one costs nothing
        made = self._issue(server_name(driver_class), ExtendedKeyUsageOID.SERVER_AUTH)
        write_durably(key, made.key)
        write_durably(certificate, made.certificate)
        event(LOG, "certificate made", driver_class=driver_class, days=LIFETIME.days)
        return made

    def _usable(self, pem: Pem, driver_class: str) -> bool:
        certificate = x509.load_pem_x509_certificate(pem.certificate)
        key = serialization.load_pem_private_key(pem.key, None)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return (
            certificate.public_key() == key.public_key()
            and server_name(driver_class) in names.get_values_for_type(x509.DNSName)
            and certificate.issuer == self._certificate.subject
            and not self._due(pem.certificate)
        )

    def _due(self, certificate: bytes) -> bool:
        return self._clock() >= x509.load_pem_x509_certificate(certificate).not_valid_before_utc + SKEW + RENEW_AFTER

    def _issue(self, name: str, usage: x509.ObjectIdentifier) -> Pem:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(name, self._certificate.subject, key, self._clock(), LIFETIME)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Pem(self.ca, certificate.public_bytes(serialization.Encoding.PEM), _private(key))

    def _load_or_make(self) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key_path, certificate_path = self._directory / "ca.key", self._directory / "ca.crt"
        try:
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key():
                return key, certificate
            event(LOG, "the drivers' authority is not whole, making another", logging.ERROR, file=str(key_path))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            event(
                LOG,
                "the drivers' authority is unreadable, making another; drivers follow when they have new certificates",
                logging.ERROR,
                file=str(key_path),
                cause=str(error),
            )
        made = ec.generate_private_key(ec.SECP256R1())
        # A number in the name: an authority that replaces a lost one must not be taken for it.
        name = f"GRAF drivers of {self._site}"[:50] + f" {os.urandom(4).hex()}"
        signed = (
            _builder(name, None, made, self._clock(), AUTHORITY_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_AUTHORITY_USAGE, critical=True)
            .sign(made, hashes.SHA256())
        )
        write_durably(key_path, _private(made))
        write_durably(certificate_path, signed.public_bytes(serialization.Encoding.PEM))
        return made, signed


_AUTHORITY_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    name: str,
    issuer: x509.Name | None,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    lifetime: datetime.timedelta,
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lifetime)
    )

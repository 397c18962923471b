"""Certificates for tests, valid for an hour."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HOUR = datetime.timedelta(hours=1)


class Authority:
    """A CA that stores each certificate and its key in a folder, as NAME.pem and NAME.key."""

    def __init__(self, folder, name="ca"):
        self.folder = folder
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = folder / (name + ".pem")
        self._key = None  # the CA signs its own certificate
        self._key = self._create(name, ca=True)

    def issue(self, name, address="127.0.0.1", alternative_names=None):
        """Issue a certificate, and return its path and the path of its key.

        `alternative_names` replaces the default extension, which contains the address.
        """
        self._create(name, address, alternative_names)
        return str(self.folder / (name + ".pem")), str(self.folder / (name + ".key"))

    def revoke(self, name):
        """Return a certificate revocation list (CRL), in PEM format, that revokes a certificate."""
        certificate = x509.load_pem_x509_certificate((self.folder / (name + ".pem")).read_bytes())
        now = datetime.datetime.now(datetime.timezone.utc)
        revoked_certificate = (
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(now - HOUR)
            .build()
        )
        revocation_list = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now - HOUR)
            .next_update(now + HOUR)
            .add_revoked_certificate(revoked_certificate)
            .sign(self._key, hashes.SHA256())
        )
        return revocation_list.public_bytes(serialization.Encoding.PEM)

    def _create(self, name, address="127.0.0.1", alternative_names=None, ca=False):
        """Write a certificate and its key to the folder, and return the key."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        if alternative_names is None:
            subject_address = x509.IPAddress(ipaddress.ip_address(address))
            alternative_names = x509.SubjectAlternativeName([subject_address])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + HOUR)
            .add_extension(alternative_names, critical=False)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .sign(self._key or key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (self.folder / (name + ".pem")).write_bytes(pem)
        key_pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        (self.folder / (name + ".key")).write_bytes(key_pem)
        return key

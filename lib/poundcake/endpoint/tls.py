"""TLS for the endpoint: the server side of a connection, and the certificate files.

The server accepts TLS 1.2 and later, with the ciphers that Python's ssl module chooses. It loads
changed files without a restart.
"""

from __future__ import annotations

import _ssl
import logging
import os
import ssl
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Tuple, TypeVar

from poundcake.config import TLS_FILES, Config
from poundcake.credentials import MAX_NAME_CHARACTERS
from poundcake.endpoint.timed_socket import TimedSocket
from poundcake.errors import PoundCakeError

# The first byte that a TLS client sends: the record type "handshake" (RFC 8446, section 5.1).
HANDSHAKE_RECORD = b"\x16"
_CHUNK = 65536
# What Python's ssl module returns for a name in a certificate that it cannot decode.
_UNSUPPORTED = "<unsupported>"

_Result = TypeVar("_Result")
# Inode, modification time in nanoseconds and size of each file; None if the file is missing.
_FileVersions = List[Optional[Tuple[int, int, int]]]


class TLSError(PoundCakeError):
    """A certificate, key or CA file cannot be used. The message contains the configuration key."""


@dataclass(frozen=True)
class ClientCertificate:
    """The certificate of a client, signed by the client CA.

    Attributes:
        name: The name that the trail shows for its owner.
        expires_at: When it expires, in seconds since the epoch.
    """

    name: str
    expires_at: float

    @property
    def is_expired(self) -> bool:
        """Whether it has expired, by this machine's clock."""
        return time.time() >= self.expires_at


class TLSStream:
    """A ByteStream with the server side of TLS over a plain connection.

    TLS runs in memory, between the plain socket and this object. Under eventlet, the sockets of
    Python's ssl module cannot limit the time of a whole handshake, and they break if another
    thread shuts them down.
    """

    def __init__(self, plain: TimedSocket, context: ssl.SSLContext) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def do_handshake(self) -> ClientCertificate | None:
        """Do the handshake.

        Returns:
            The client's certificate, if the client authenticated with one that the client CA
            signed; otherwise None.

        Raises:
            ssl.SSLError: The handshake failed, or the certificate cannot be used.
            socket.timeout: The client was too slow.
            OSError: The connection was lost.
        """
        try:
            self._run_step(self._tls.do_handshake)
        finally:
            self._flush()  # if the handshake failed, this tells the client why
        try:
            fields = self._tls.getpeercert()
        except ValueError as error:  # a name contains bytes that are not UTF-8
            raise ssl.SSLError(f"the client's certificate cannot be decoded: {error}") from None
        if not fields:
            return None
        expires_at = ssl.cert_time_to_seconds(str(fields["notAfter"]))
        certificate = ClientCertificate(_certificate_name(fields), expires_at)
        # OpenSSL does not check the dates again if the client resumes a session.
        if certificate.is_expired:
            raise ssl.SSLError(f"the client's certificate has expired: {certificate.name}")
        return certificate

    def expire_in(self, seconds: float) -> None:
        """Set the deadline for all later calls, including the handshake, in seconds from now."""
        self._plain.expire_in(seconds)

    def receive(self, size: int) -> bytes:
        """Return 1 to `size` bytes, or b"" if the client has closed its side."""
        try:
            return self._run_step(lambda: self._tls.read(size))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self._tls.write(data)
        self._flush()

    def linger(self, seconds: float, max_bytes: int) -> None:
        """Send the closing alert, and discard the data that the client still sends."""
        # unwrap() writes the server's alert, then raises because the client's has not arrived yet.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()
        self._plain.linger(seconds, max_bytes)

    def _run_step(self, step: Callable[[], _Result]) -> _Result:
        """Return the result of step(). If it needs more data, receive some and call it again."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._flush()
                chunk = self._plain.receive(_CHUNK)
                if chunk:
                    self._incoming.write(chunk)
                else:
                    self._incoming.write_eof()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._plain.send(data)


class LoadedFiles(NamedTuple):
    """The certificate files, as they were loaded together.

    Attributes:
        context: The context with the certificate, the key and the client CA.
        client_ca: The content of the client CA file, or b"" if there is none. A client that was
            verified against different content has to be verified again.
    """

    context: ssl.SSLContext
    client_ca: bytes


class Certificates:
    """The certificate, key and client CA files of the configuration.

    Attributes:
        problem: Why the current files cannot be used; empty if they can.
        expires_at: When the certificate in use expires, or None if that cannot be read.

    Raises:
        TLSError: A file cannot be used when the endpoint starts.
    """

    def __init__(self, config: Config, log: logging.Logger) -> None:
        paths = {key: str(getattr(config, key)) for key in TLS_FILES}
        self._paths = {key: path for key, path in paths.items() if path}
        self._log = log
        self._lock = threading.Lock()
        self._versions = self._current_versions()
        self._loaded = _load(self._paths)
        self.expires_at = _read_expiry(self._paths["tls_certificate"])
        self.problem = ""

    def current(self) -> LoadedFiles:
        """Return the current files, or the previous ones if the current ones are unusable."""
        with self._lock:
            versions = self._current_versions()
            if versions != self._versions:
                self._versions = versions
                try:
                    self._loaded = _load(self._paths)
                    self.expires_at = _read_expiry(self._paths["tls_certificate"])
                    self.problem = ""
                    self._log.info("TLS: using the changed certificate files")
                except TLSError as error:
                    self.problem = f"{error}; keeping the previous certificate, key and client CA"
                    self._log.error("%s", self.problem)
            return self._loaded

    def _current_versions(self) -> _FileVersions:
        versions: _FileVersions = []
        for path in self._paths.values():
            try:
                status = os.stat(path)
                versions.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                versions.append(None)
        return versions


def _load(paths: dict[str, str]) -> LoadedFiles:
    contents: dict[str, bytes] = {}
    for key, path in paths.items():
        try:
            with open(path, "rb") as file:
                contents[key] = file.read()
        except OSError as error:
            raise TLSError(f"{key}: cannot read {path}: {error.strerror}") from None
    return LoadedFiles(_create_context(paths), contents.get("tls_client_ca", b""))


def _read_expiry(path: str) -> datetime | None:
    """Return when the first certificate in a PEM file expires, or None if that cannot be read."""
    # The public functions decode only the certificates of peers and of CAs. This one is in every
    # release of Python, but it is private, so the endpoint also has to work without it.
    try:
        fields = _ssl._test_decode_cert(path)  # type: ignore[attr-defined]
        expires_at = ssl.cert_time_to_seconds(fields["notAfter"])
    except (AttributeError, OSError, ValueError):
        return None
    return datetime.fromtimestamp(expires_at, timezone.utc)


def _create_context(paths: dict[str, str]) -> ssl.SSLContext:
    certificate, private_key = paths["tls_certificate"], paths["tls_key"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # With TLS 1.2, a client could make the server renegotiate endlessly.
    context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    try:
        # Without a password function, OpenSSL would ask for a passphrase on the terminal.
        context.load_cert_chain(certificate, private_key, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        raise TLSError(
            f"tls_certificate, tls_key: {certificate} and {private_key} must be a PEM "
            f"certificate and its key, without a passphrase ({_reason(error)})"
        ) from None
    client_ca = paths.get("tls_client_ca")
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, OSError) as error:
            raise TLSError(
                f"tls_client_ca: {client_ca} contains no PEM certificate ({_reason(error)})"
            ) from None
        # A client without a certificate may still have another credential.
        context.verify_mode = ssl.CERT_OPTIONAL
        if context.cert_store_stats()["crl"]:
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def _certificate_name(certificate: Mapping[str, Any]) -> str:
    """Return the name that the trail shows for the owner of a certificate, usually `CN=name`.

    The equals sign distinguishes it from the names of other credentials, regardless of which
    names the CA signs.
    """
    subject = [pair for pairs in certificate.get("subject", ()) for pair in pairs]
    candidates = [("CN", value) for key, value in subject if key == "commonName"]
    candidates += certificate.get("subjectAltName", ())
    names = [f"{key}={value}" for key, value in candidates if value not in ("", _UNSUPPORTED)]
    names.append(f"serial={certificate.get('serialNumber', '')}")
    printable = "".join(c if c.isprintable() else " " for c in names[0])
    return printable[:MAX_NAME_CHARACTERS]


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)

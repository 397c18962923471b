"""TLS for the endpoint: its certificate, the clients' certificates, and both anew when they change.

TLS 1.2 and later, with the ciphers that Python's ssl chooses.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from typing import Any, Callable

from poundcake.config import TLS_FILES, Config
from poundcake.errors import PoundCakeError

# What a client sends first: RFC 8446, section 5.1, a record of the type handshake.
HANDSHAKE = b"\x16"


class TLSError(PoundCakeError):
    """A file that TLS needs cannot be used. The message names the key of the configuration."""


class Secured:
    """A server's side of TLS over a connected socket; of a socket's methods those that an HTTP
    server needs.

    The socket is read and written as any other is: the sockets of Python's ssl do not keep a time
    limit for a whole handshake where eventlet has patched them, and another thread that shuts one
    down breaks it.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext):
        self._plain = plain
        self._seconds = 0.0
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)

    def do_handshake(self, seconds: float) -> bool:
        """Returns whether the client has shown a certificate, which was verified. Raises OSError,
        of which ssl.SSLError and socket.timeout are."""
        self._seconds = seconds
        try:
            self._with_more(self._tls.do_handshake)
        finally:
            self._flush()  # where it failed, the client is told why
        return bool(self._tls.getpeercert())

    def recv(self, size: int) -> bytes:
        """At least one byte, at most so many; b'' at the end. Raises OSError."""
        try:
            return self._with_more(lambda: self._tls.read(size))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def sendall(self, data: bytes) -> None:
        """Raises OSError."""
        self._tls.write(data)
        self._flush()

    def settimeout(self, seconds: float) -> None:
        """For each recv as a whole, and for each write of the socket."""
        self._seconds = seconds
        self._plain.settimeout(seconds)

    def shutdown(self, how: int) -> None:
        """Says that nothing more is sent, if it is not all that ends. Raises OSError."""
        if how == socket.SHUT_WR:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # the client's own word is still to come
            self._flush()
        self._plain.shutdown(how)

    def _with_more(self, step: Callable[[], Any]) -> Any:
        """What the step returns once enough has come for it. A record that trickles in has the
        time of one read of a plain socket, not that time for each of its bytes."""
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise socket.timeout("too slow") from None
                self._plain.settimeout(left)
                self._flush()
                self._fill()

    def _flush(self) -> None:
        data = self._to_send.read()
        if data:
            self._plain.sendall(data)

    def _fill(self) -> None:
        chunk = self._plain.recv(65536)
        if chunk:
            self._received.write(chunk)
        else:
            self._received.write_eof()


class Certificates:
    """The files tls_certificate, tls_key and tls_client_ca, as an SSLContext for each connection.

    Raises TLSError at opening where they cannot be used.
    """

    def __init__(self, config: Config, log: Any):
        self._config = config
        self._log = log
        self._lock = threading.Lock()
        self._looked = self._look()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """The context of the files as they are now; the last that could be used, where these
        cannot be."""
        with self._lock:
            looked = self._look()
            if looked != self._looked:
                self._looked = looked
                try:
                    self._context = self._load()
                    self._log.info("TLS: the changed files are in use")
                except TLSError as error:
                    self._log.error("%s; the files of before stay in use", error)
            return self._context

    def _files(self) -> dict[str, str]:
        """The paths by their keys."""
        paths = {name: getattr(self._config, name) for name in TLS_FILES}
        return {name: path for name, path in paths.items() if path}

    def _look(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._files().values():
            try:
                status = os.stat(path)
                found.append((status.st_ino, status.st_mtime_ns, status.st_size))
            except OSError:
                found.append(None)
        return found

    def _load(self) -> ssl.SSLContext:
        config = self._config
        for name, path in self._files().items():
            try:
                open(path, "rb").close()
            except OSError as error:
                raise TLSError(f"{name}: cannot read {path}: {error.strerror}") from None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Of TLS 1.2: work that a client can make a server do for nothing.
        context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
        try:
            # Without a function for it a key with a passphrase would ask the terminal.
            context.load_cert_chain(config.tls_certificate, config.tls_key, password=lambda: "")
        except (ssl.SSLError, OSError) as error:
            raise TLSError(
                f"tls_certificate, tls_key: {config.tls_certificate} and {config.tls_key} are no "
                "certificate and its key, in PEM and without a passphrase "
                f"({getattr(error, 'reason', None) or error})"
            ) from None
        if config.tls_client_ca:
            try:
                context.load_verify_locations(config.tls_client_ca)
            except (ssl.SSLError, OSError) as error:
                raise TLSError(
                    f"tls_client_ca: {config.tls_client_ca} has no certificate in PEM "
                    f"({getattr(error, 'reason', None) or error})"
                ) from None
            # Who has none may still have another credential.
            context.verify_mode = ssl.CERT_OPTIONAL
        return context

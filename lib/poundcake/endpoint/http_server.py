"""The HTTP server: a thread for each connection, over plain TCP or TLS.

It uses only threads and sockets, so it runs on native threads, and on green threads in a process
that eventlet has patched. StackStorm patches its sensors today, but is moving away from eventlet.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress

from poundcake.endpoint import http_connection
from poundcake.endpoint.http_connection import Client, HTTPConnection
from poundcake.endpoint.http_messages import Application
from poundcake.endpoint.open_connections import OpenConnections, Slot
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger
from poundcake.endpoint.timed_socket import ByteStream, TimedSocket
from poundcake.endpoint.tls import HANDSHAKE_RECORD, Certificates, TLSStream

try:
    import resource
except ImportError:  # not on POSIX
    resource = None  # type: ignore[assignment]  # checked where it is used

_RESERVED_FILES = 64  # for the journal, the database and the broker
_BACKLOG = 1024
# Seconds.
_ACCEPT_TIMEOUT = 0.5
_RETRY_WAIT = 0.1
_STOP_POLL_WAIT = 0.02


class Server:
    """Serve an application until the server is stopped.

    Args:
        host: The address to listen on, an IP address or a name.
        port: The port to listen on.
        application: Answers the requests.
        max_connections: The maximum number of open connections. It is lowered if the process
            cannot open that many files.
        log: The logger for failures.
        certificates: The certificates of a TLS server; None for plain HTTP.
        predecessor: The server that this one replaces. If it listens on the same address, its
            listening socket is taken over, so that no connection is refused.

    Raises:
        OSError: The address is in use or does not exist.
        UnicodeError: `host` is not a valid host name.
    """

    def __init__(
        self,
        host: str,
        port: int,
        application: Application,
        max_connections: int,
        log: logging.Logger,
        certificates: Certificates | None = None,
        predecessor: Server | None = None,
    ) -> None:
        self._application = application
        self._log = log
        self._rate_limited_log = RateLimitedLogger(log)
        self.certificates = certificates
        self._open_connections = OpenConnections(_allowed_connections(max_connections))
        self._lock = threading.Lock()
        # The number of connections whose TLS handshake failed.
        self.failed_handshakes = 0
        self.bound_to = (host, port)
        self._successor: Server | None = None
        if predecessor and predecessor.bound_to == self.bound_to:
            # A copy, because two green threads must not wait for the same file descriptor.
            self._listener: socket.socket = predecessor._listener.dup()
            predecessor._successor = self
        else:
            self._listener = _listen(host, port)
        # The URL that the server listens on, without a trailing slash.
        self.address = _url("https" if certificates else "http", self._listener)

    @property
    def connections(self) -> int:
        """Number of open connections."""
        return len(self._open_connections)

    @property
    def evicted(self) -> int:
        """Number of connections that were closed because there were too many."""
        return self._open_connections.evicted

    def limit_connections(self, limit: int) -> None:
        """Change the limit of open connections."""
        self._open_connections.limit = _allowed_connections(limit)

    def serve(self) -> None:
        """Accept connections until `stop()` is called."""
        self._accept_connections()
        if self._successor:
            self._listener.close()  # the successor has a copy

    def _accept_connections(self) -> None:
        while not self._open_connections.is_stopping:
            try:
                client_socket, address = self._listener.accept()
            except socket.timeout:
                continue
            except OSError as error:
                if self._open_connections.is_stopping:
                    return
                # The process may have too many open files. Closing connections frees some.
                self._rate_limited_log.warning(
                    "cannot accept a connection: %s; retrying (if files or memory ran out, lower "
                    "max_connections or raise the sensor's limits)",
                    error,
                )
                time.sleep(_RETRY_WAIT)
                continue
            server = self._successor or self
            server._start_connection(client_socket, str(address[0]))

    def close(self) -> None:
        """Stop listening."""
        # With close() alone, the socket keeps listening while another thread waits in accept().
        _shut_down(self._listener)
        self._listener.close()

    def stop(self, timeout: float) -> None:
        """Stop accepting requests, and let those in flight finish.

        Args:
            timeout: How long to wait for the requests in flight, in seconds.
        """
        self._open_connections.stop()
        if not self._successor:
            self.close()
        deadline = time.monotonic() + timeout
        while self._open_connections.abort_idle() and time.monotonic() < deadline:
            time.sleep(_STOP_POLL_WAIT)

    def _start_connection(self, client_socket: socket.socket, client_host: str) -> None:
        slot = self._open_connections.admit(lambda: _shut_down(client_socket))
        if slot is None:
            client_socket.close()
            return
        thread = threading.Thread(
            target=self._serve_connection,
            args=(client_socket, slot, client_host),
            name="poundcake-connection",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:  # the machine is out of threads
            self._rate_limited_log.warning(
                "cannot serve a connection: %s; closing it (lower max_connections, or raise the "
                "sensor's limit of threads)",
                error,
            )
            self._open_connections.remove(slot)
            client_socket.close()

    def _serve_connection(self, client_socket: socket.socket, slot: Slot, client_host: str) -> None:
        try:
            client_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream, client = self._open_stream(TimedSocket(client_socket), client_host)
            HTTPConnection(stream, self._application, slot, client).serve()
        except OSError:
            pass  # the client disconnected or was too slow
        except Exception:
            self._log.exception(
                "the connection of %s: unexpected error; please report this traceback", client_host
            )
        finally:
            self._open_connections.remove(slot)
            client_socket.close()

    def _open_stream(
        self, plain_stream: TimedSocket, client_host: str
    ) -> tuple[ByteStream, Client]:
        """Do the TLS handshake if this is a TLS server. Return the stream and the client."""
        if not self.certificates:
            return plain_stream, Client(client_host)
        try:
            plain_stream.expire_in(http_connection.HEADER_TIMEOUT)
            if plain_stream.peek() != HANDSHAKE_RECORD:
                refusal = "this port accepts only TLS: use https://"
                return plain_stream, Client(client_host, refusal=refusal)
            return self._open_tls_stream(plain_stream, client_host, self.certificates)
        except OSError as error:
            with self._lock:
                self.failed_handshakes += 1
            reason = getattr(error, "reason", None) or error
            self._rate_limited_log.warning("TLS with %s failed: %s", client_host, reason)
            raise

    @staticmethod
    def _open_tls_stream(
        plain_stream: TimedSocket, client_host: str, certificates: Certificates
    ) -> tuple[ByteStream, Client]:
        context, client_ca = certificates.current()
        tls_stream = TLSStream(plain_stream, context)
        certificate = tls_stream.do_handshake()
        if certificate is None:
            return tls_stream, Client(client_host)

        def may_continue() -> bool:
            return not certificate.is_expired and certificates.current().client_ca == client_ca

        return tls_stream, Client(client_host, certificate.name, may_continue=may_continue)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
        listener.settimeout(_ACCEPT_TIMEOUT)
    except BaseException:
        listener.close()
        raise
    return listener


def _url(scheme: str, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _allowed_connections(limit: int) -> int:
    if resource is None:
        return limit
    soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft_limit == resource.RLIM_INFINITY:
        return limit
    return max(1, min(limit, soft_limit - _RESERVED_FILES))


def _shut_down(sock: socket.socket) -> None:
    """Shut down a socket, to wake the thread that waits for it."""
    with suppress(OSError):  # it is already closed
        sock.shutdown(socket.SHUT_RDWR)

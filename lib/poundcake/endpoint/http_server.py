"""The HTTP server under the receiver: a thread for each connection, with bounds.

It is built on the standard library alone, so that it runs on plain threads and, in a process that
eventlet has patched, on green ones: StackStorm patches its sensors today and is moving away from
that.
"""

from __future__ import annotations

import io
import json
import select
import socket
import socketserver
import sys
import threading
import time
import uuid
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Callable, Dict, Iterable

from poundcake.endpoint.rate_limited_logger import RateLimitedLogger
from poundcake.endpoint.tls import HANDSHAKE, Certificates, Secured

try:
    import resource
except ImportError:  # not on POSIX
    resource = None

# Seconds.
HEADER_TIME = 10
BODY_TIME = 30
IDLE_TIME = 75  # Alertmanager keeps its connections for the next notification
_LINGER = 1
_LINGER_BYTES = 1 << 20
_RESERVED_FILES = 64

WSGIApp = Callable[[Dict[str, Any], Callable], Iterable[bytes]]


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Serves a WSGI application (PEP 3333) until it is stopped; with certificates, over TLS.

    ``environ["poundcake.client_certificate"]`` says whether the client has shown a certificate of
    the client CA. Raises OSError at opening where the address cannot be had.
    """

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(
        self,
        host: str,
        port: int,
        app: WSGIApp,
        max_connections: int,
        log: Any,
        certificates: Certificates | None = None,
    ):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.app = app
        self.log = log
        self.seldom = RateLimitedLogger(log)
        self.certificates = certificates
        self.stopping = False
        self._most = _cap(max_connections)
        self._handlers: dict[int, _Handler] = {}
        # Connections closed because there was no room for all.
        self.evicted = 0
        # Connections on which TLS did not come about.
        self.failed_handshakes = 0
        self._guard = threading.Lock()
        super().__init__((host, port), _Handler)

    @property
    def address(self) -> str:
        """Where it listens, as a URL without a slash at the end."""
        host, port = self.server_address[:2]
        scheme = "https" if self.certificates else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._handlers)

    def serve(self) -> None:
        """Accepts connections until stop() is called."""
        # Not serve_forever: its selector is one of those that eventlet's patch removes in some
        # versions, and its shutdown() waits for ever where the loop has not begun.
        while not self.stopping:
            try:
                ready, _, _ = select.select([self.socket], [], [], 0.5)
                if ready:
                    self._handle_request_noblock()
            except (OSError, ValueError):
                if self.stopping:
                    return
                # Out of files, for one: connections that end give some back.
                self.log.warning("accept failed", exc_info=True)
                time.sleep(0.1)

    def stop(self, timeout: float) -> None:
        """Takes no new request, lets those under way finish, for so many seconds at most."""
        self.stopping = True
        try:
            # close() alone leaves it listening for as long as another thread waits for it.
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already
        self.server_close()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            with self._guard:
                open_handlers = list(self._handlers.values())
            for handler in open_handlers:
                if not handler.busy:
                    handler.abort()
            if not any(handler.busy for handler in open_handlers):
                return
            time.sleep(0.02)

    def enter(self, handler: _Handler) -> None:
        """Counts a connection in; the oldest that has sent no whole header goes if it is full."""
        with self._guard:
            self._handlers[id(handler)] = handler
            if len(self._handlers) <= self._most:
                return
            waiting = [h for h in self._handlers.values() if not h.busy and h is not handler]
            victim = min(waiting, key=lambda h: h.waiting_since, default=handler)
            # Its thread takes a moment to end, and must not be chosen again meanwhile.
            self._handlers.pop(id(victim), None)
            self.evicted += 1
        victim.abort()

    def leave(self, handler: _Handler) -> None:
        """Counts a connection out."""
        with self._guard:
            self._handlers.pop(id(handler), None)

    def handshake_failed(self, client: str, error: Exception) -> None:
        """A connection did not come to TLS."""
        with self._guard:
            self.failed_handshakes += 1
        reason = getattr(error, "reason", None) or error
        self.seldom.warning("TLS with %s failed: %s", client, reason)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keeps socketserver from printing tracebacks of clients that went away."""
        error = sys.exc_info()[1]
        if not isinstance(error, (OSError, ValueError)):
            self.log.error("connection of %s failed", client_address, exc_info=True)


def _cap(wanted: int) -> int:
    if resource is None:
        return wanted
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - _RESERVED_FILES))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server
    disable_nagle_algorithm = True
    rbufsize = 65536

    def setup(self) -> None:
        # Busy from the whole header to the end of the answer.
        self.busy = False
        self.waiting_since = time.monotonic()
        self.timeout = IDLE_TIME
        super().setup()
        self.rfile = _Timed(self.connection, HEADER_TIME, IDLE_TIME)
        # Why the connection is of no use, to be said in answer to its first request.
        self.refusal = ""
        self.certified = False
        self.server.enter(self)

    def handle(self) -> None:
        if not self.server.certificates or self._shake_hands(self.server.certificates):
            super().handle()

    def _shake_hands(self, certificates: Certificates) -> bool:
        """Makes the connection one of TLS. Returns whether a request can be read from it."""
        try:
            self.connection.settimeout(HEADER_TIME)
            if self.connection.recv(1, socket.MSG_PEEK) != HANDSHAKE:
                self.refusal = "this port takes TLS: https://"
                return True
            secured = Secured(self.connection, certificates.context())
            self.certified = secured.do_handshake(HEADER_TIME)
        except OSError as error:
            self.server.handshake_failed(self.client_address[0], error)
            return False
        self.connection = secured
        self.wfile = _Writer(secured)
        self.rfile = _Timed(secured, HEADER_TIME, IDLE_TIME)
        return True

    def finish(self) -> None:
        self.server.leave(self)
        try:
            super().finish()
            if self.connection is not self.request:  # of TLS, which has an end of its own
                self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client went away before its answer

    def abort(self) -> None:
        """Ends the connection from another thread."""
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def handle_one_request(self) -> None:
        # Of the request before; what cannot be parsed is answered without.
        self.requestline = self.request_version = self.command = ""
        self.rfile.expect_header()
        try:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or self.server.stopping:
                self.close_connection = True
                return
            if len(self.raw_requestline) > 65536:
                self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)
                return
            if self.refusal:
                self.send_error(HTTPStatus.BAD_REQUEST)
                return
            if not self.parse_request():
                return
            # What the header's parser cannot read it drops, lengths included: the body would
            # be taken for the next request (RFC 9112, section 5.1).
            if self.headers.defects or self.rfile.bare_cr:
                self.send_error(HTTPStatus.BAD_REQUEST)
                return
            self.busy = True
            self.rfile.expect_body(BODY_TIME)
            self._answer()
        except (socket.timeout, TimeoutError):
            self.close_connection = True
        finally:
            self.waiting_since = time.monotonic()
            self.busy = False

    def handle_expect_100(self) -> bool:
        # The application decides by the header; the body is asked for when it reads it.
        return True

    def send_error(self, code: int, message: Any = None, explain: Any = None) -> None:
        """Answers what is no HTTP; the application never sees it."""
        self.close_connection = True
        # No input gets a 5xx, which says that trying again would help.
        status = HTTPStatus(code if code < 500 else HTTPStatus.BAD_REQUEST)
        problem = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "detail": self.refusal or "this is no request of HTTP/1.1 (RFC 9112)",
            "request_id": str(uuid.uuid4()),
        }
        body = json.dumps(problem).encode()
        # Without a version that can be read the standard library takes HTTP/0.9, which has no head.
        self.request_version = self.protocol_version
        self.send_response_only(status.value)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "poundcake"

    def log_message(self, format: str, *args: Any) -> None:
        self.server.log.debug("%s: %s", self.client_address[0], format % args)

    def _answer(self) -> None:
        lengths = self.headers.get_all("Content-Length") or []
        length = lengths[0].strip() if lengths else ""
        coded = self.headers.get("Transfer-Encoding")
        # RFC 9112, section 6.3: what cannot be framed for sure ends the connection.
        broken = len(set(lengths)) > 1 or (length and not (length.isascii() and length.isdigit()))
        if broken or (coded and lengths):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        waits = (
            self.headers.get("Expect", "").lower() == "100-continue"
            and self.request_version >= "HTTP/1.1"
        )
        body = _Body(self, int(length[:19] or 0), waits)
        environ = self._environ(body, length)
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None):
            head[:] = [status, headers]

        chunks = b"".join(self.server.app(environ, start_response))
        status, headers = head
        code, _, phrase = status.partition(" ")
        # A body that nobody read stands between this request and the next.
        if coded or body.left or self.server.stopping:
            self.close_connection = True
        self.send_response_only(int(code), phrase)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(chunks)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(chunks)
        if body.left or coded:
            self._linger()

    def _linger(self) -> None:
        """Reads on for a moment: closing at once would reset the connection, and the client would
        lose the answer (RFC 9112, section 9.6)."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.rfile.expect_body(_LINGER)
        left = _LINGER_BYTES
        try:
            while left > 0:
                chunk = self.rfile.read(min(left, 65536))
                if not chunk:
                    return
                left -= len(chunk)
        except OSError:
            pass

    def _environ(self, body: _Body, length: str) -> dict[str, Any]:
        path, _, query = self.path.partition("?")
        environ: dict[str, Any] = {
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "SERVER_PROTOCOL": self.request_version,
            "REMOTE_ADDR": self.client_address[0],
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": length,
            "wsgi.input": body,
            "wsgi.url_scheme": "https" if self.server.certificates else "http",
            "poundcake.client_certificate": self.certified,
            "wsgi.multithread": True,
        }
        for name, value in self.headers.items():
            key = "HTTP_" + name.upper().replace("-", "_")
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        return environ


class _Body(io.RawIOBase):
    """The body of one request, and not a byte of the next."""

    def __init__(self, handler: _Handler, length: int, waits: bool):
        super().__init__()
        self._handler = handler
        self._waits = waits
        self.left = length

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most so many; b'' at the end. Raises TimeoutError, OSError."""
        if self._waits:
            self._waits = False
            self._handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        wanted = self.left if size < 0 else min(size, self.left)
        chunks = []
        while wanted > 0:
            chunk = self._handler.rfile.read(min(wanted, 65536))
            if not chunk:
                raise ConnectionResetError("the body ended early")
            chunks.append(chunk)
            wanted -= len(chunk)
            self.left -= len(chunk)
        return b"".join(chunks)


class _Writer(io.BufferedIOBase):
    """What is written goes out at once."""

    def __init__(self, connection: Secured):
        super().__init__()
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        self._connection.sendall(data)
        return len(data)


class _Timed:
    """Reads a socket with a deadline for the whole header and for the whole body.

    A time limit for each read alone lets a client hold a connection for ever, a byte at a time.
    """

    def __init__(self, connection: socket.socket, header_time: float, idle_time: float):
        self._connection = connection
        self._header_time = header_time
        self._idle_time = idle_time
        self._buffer = b""
        self._deadline = 0.0
        self._idle = True
        # Whether a header line had a CR within, which its parser takes for the line's end and
        # others on the way do not (RFC 9112, section 2.2).
        self.bare_cr = False

    def expect_header(self) -> None:
        """The next request may be long in coming, but once begun its header has its time."""
        self._idle = not self._buffer
        self._deadline = time.monotonic() + (self._idle_time if self._idle else self._header_time)

    def expect_body(self, seconds: float) -> None:
        """What is read from now on has so many seconds, all together."""
        self._idle = False
        self._deadline = time.monotonic() + seconds

    def readline(self, limit: int = -1) -> bytes:
        """A line with its end; what there is, at the end of the stream or of the limit."""
        while True:
            end = self._buffer.find(b"\n") + 1
            if not end and 0 <= limit <= len(self._buffer):
                end = limit
            if end or not self._fill():
                end = end or len(self._buffer)
                if 0 <= limit < end:
                    end = limit
                line, self._buffer = self._buffer[:end], self._buffer[end:]
                self.bare_cr = self.bare_cr or b"\r" in line[:-2]
                return line

    def read(self, size: int) -> bytes:
        """At least one byte, at most so many; b'' at the end of the stream."""
        if not self._buffer:
            self._fill()
        chunk, self._buffer = self._buffer[:size], self._buffer[size:]
        return chunk

    def close(self) -> None:
        """Nothing to do: the socket is closed by its server."""

    def _fill(self) -> bool:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout("too slow")
        self._connection.settimeout(left)
        chunk = self._connection.recv(65536)
        if self._idle and chunk:
            self._idle = False
            self._deadline = time.monotonic() + self._header_time
        # The answer has a time of its own.
        self._connection.settimeout(BODY_TIME)
        self._buffer += chunk
        return bool(chunk)

"""Serve the requests of one connection, one after the other (RFC 9112).

h11 tracks the state of the connection and writes the responses; `request_head` parses and checks
requests. This module transfers the bytes, and sets a time limit for each part of an exchange.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Callable

import h11

from poundcake.endpoint import request_head
from poundcake.endpoint.http_messages import (
    Application,
    ClientGoneError,
    FramingError,
    HTTPRequest,
    HTTPResponse,
)
from poundcake.endpoint.open_connections import Phase, Slot
from poundcake.endpoint.timed_socket import ByteStream

# Seconds.
IDLE_TIMEOUT = 75  # Alertmanager keeps its connections for the next notification
HEADER_TIMEOUT = 10
BODY_TIMEOUT = 30
ANSWER_TIMEOUT = 30
LINGER_TIMEOUT = 2
# A body that is refused because of its size is already in transit. If the server closed the
# connection without reading the body, the sender would see a reset instead of the response. So the
# server first reads and discards up to this many bytes.
LINGER_BYTES = 16 << 20
_CHUNK = 65536


@dataclass(frozen=True)
class Client:
    """The client of a connection.

    Attributes:
        host: The IP address.
        certificate_name: The name of the client's certificate, if the client authenticated with
            one that the configured client CA signed; otherwise empty.
        refusal: Why all of its requests are refused, or an empty string.
        may_continue: Returns False once its certificate is no longer accepted. The connection is
            then closed without a response, so that the client retries with a new handshake.
    """

    host: str
    certificate_name: str = ""
    refusal: str = ""
    may_continue: Callable[[], bool] = lambda: True


class HTTPConnection:
    """One connection of a client."""

    def __init__(
        self, stream: ByteStream, application: Application, slot: Slot, client: Client
    ) -> None:
        self._stream = stream
        self._application = application
        self._slot = slot
        self._client = client
        self._http = h11.Connection(h11.SERVER, request_head.MAX_HEAD_BYTES)
        self._received = bytearray()  # bytes not yet passed to h11

    def serve(self) -> None:
        """Answer requests until the connection ends.

        Raises:
            OSError: The client disconnected or was too slow.
        """
        while self._serve_request():
            self._http.start_next_cycle()
            # Let other green threads run: if the client pipelines, this one may never block.
            time.sleep(0)

    def _serve_request(self) -> bool:
        """Answer the next request. Return True if another may follow."""
        try:
            head = self._read_head()
            if head is None:
                return False
            if not self._client.may_continue():
                return self._close()
            if self._client.refusal:
                raise FramingError(HTTPStatus.BAD_REQUEST, self._client.refusal, head)
            request = self._parse(head)
        except FramingError as error:
            response = self._application.refuse(error, self._client.host)
            return self._respond(response, error.method, must_close=True)
        if not self._slot.enter(Phase.BUSY):
            return False
        response = self._application(request)
        # On an open connection, the unread part of the body would be parsed as the next request.
        has_unread_body = self._http.their_state is h11.SEND_BODY
        must_close = has_unread_body or self._slot.is_last_request
        return self._respond(response, request.method, must_close)

    def _read_head(self) -> bytes | None:
        """Return the head of the next request, or None if the client ended the connection."""
        received, searched = self._received, 0
        has_begun = bool(received)
        self._stream.expire_in(HEADER_TIMEOUT if has_begun else IDLE_TIMEOUT)
        while True:
            # RFC 9112, section 2.2: empty lines before a request are ignored.
            while received.startswith(b"\r\n"):
                del received[:2]
            end = 0 if received == b"\r" else request_head.find_end(received, searched)
            if end:
                head = bytes(received[:end])
                del received[:end]
                return head
            searched = len(received)
            chunk = self._stream.receive(request_head.MAX_HEAD_BYTES + 1 - searched)
            if not chunk:
                return None
            if not has_begun:
                has_begun = True
                self._stream.expire_in(HEADER_TIMEOUT)
            received += chunk

    def _parse(self, head: bytes) -> HTTPRequest:
        parsed = request_head.parse(head, self._http)
        if not parsed.content_length:
            self._http.next_event()  # the end of a message without a body
        return HTTPRequest(
            method=parsed.method,
            path=parsed.path,
            query=parsed.query,
            host=parsed.host,
            headers=parsed.headers,
            client_host=self._client.host,
            certificate_name=self._client.certificate_name,
            body=_Body(self._http, self._stream, self._received, parsed.content_length),
        )

    def _respond(self, response: HTTPResponse, method: str, must_close: bool) -> bool:
        """Send a response. Return True if another request may follow; if not, linger first."""
        headers = [*response.headers.items(), ("Date", formatdate(usegmt=True))]
        # RFC 9110, section 8.6: with 304, the field would be the length of the body of a 200.
        if response.status != HTTPStatus.NOT_MODIFIED:
            headers.append(("Content-Length", str(len(response.body))))
        if must_close:
            headers.append(("Connection", "close"))
        status = response.status
        data = self._http.send(
            h11.Response(status_code=status.value, reason=status.phrase, headers=headers)
        )
        if method != "HEAD":
            data += self._http.send(h11.Data(data=response.body))
        if not must_close:
            data += self._http.send(h11.EndOfMessage())
        self._slot.enter(Phase.ANSWERING)
        self._stream.expire_in(ANSWER_TIMEOUT)
        self._stream.send(data)
        if self._http.our_state is h11.DONE:
            return self._slot.enter(Phase.WAITING)
        return self._close()

    def _close(self) -> bool:
        """Close the connection after the client has read what was sent, and return False."""
        if self._slot.enter(Phase.LINGERING):
            self._stream.linger(LINGER_TIMEOUT, LINGER_BYTES)
        return False


class _Body:
    """The body of one request. It never reads into the next request."""

    def __init__(
        self, http: h11.Connection, stream: ByteStream, received: bytearray, length: int | None
    ) -> None:
        self._http = http
        self._stream = stream
        self._received = received
        self.length = length

    def read(self) -> bytes:
        try:
            return self._read()
        except OSError as error:
            raise ClientGoneError(str(error)) from None

    def _read(self) -> bytes:
        self._stream.expire_in(BODY_TIMEOUT)
        if self._http.they_are_waiting_for_100_continue:
            proceed = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            self._stream.send(self._http.send(proceed))
        chunks = []
        remaining = self.length or 0
        while remaining:
            chunk = self._next_chunk(min(remaining, _CHUNK))
            chunks.append(chunk)
            remaining -= len(chunk)
            self._http.receive_data(chunk)
            self._http.next_event()
        self._http.next_event()  # the end of the message
        return b"".join(chunks)

    def _next_chunk(self, size: int) -> bytes:
        """Return at least one byte of the body and at most `size`."""
        chunk = bytes(self._received[:size])
        if chunk:
            del self._received[:size]
            return chunk
        chunk = self._stream.receive(size)
        if not chunk:
            raise ConnectionResetError("the client disconnected while sending a body")
        return chunk

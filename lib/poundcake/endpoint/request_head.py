"""Parse the head of a request (request line and header) as strictly as RFC 9112 allows.

h11 does the parsing, but it is also made for clients, and is lenient where the RFC leaves a choice.
A server behind a proxy must refuse anything that the proxy may have read differently. So before
h11 parses a head, this module refuses lines that end with LF only, continuation lines, and control
characters. Afterwards, it checks what h11 does not: it refuses other major versions, a missing
Host in HTTP/1.2 and later, a malformed Host, any Transfer-Encoding, and malformed targets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

import h11

from poundcake.endpoint.http_messages import FramingError

MAX_HEAD_BYTES = 64 << 10
MAX_FIELDS = 100

_HEAD_END = re.compile(rb"\n\r?\n")
# Each line begins with a visible character, has no control character except tab, and ends in CRLF.
_LINES = re.compile(rb"(?:[\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*\r\n)+\r\n")
_METHOD_START = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]")
_LEADING_ZEROS = re.compile(rb"(?i)(\r\ncontent-length:[ \t]*)0+(?=[0-9])")
# h11 accepts lengths of up to 20 digits.
_HUGE_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*[0-9]{21,}[ \t]*\r\n")
# RFC 3986, section 3.2, without the user information that RFC 9110 forbids.
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[-A-Za-z0-9._~%!$&'()*+,;=]*)(?::[0-9]*)?\Z")
_ABSOLUTE_TARGET = re.compile(r"(?i)https?://([^/?]+)([^?]*)(?:\?(.*))?\Z")


@dataclass(frozen=True)
class RequestHead:
    """The parsed head of a request. See `HTTPRequest` for the other attributes.

    Attributes:
        content_length: The length of the body in bytes, or None if the request does not state it.
    """

    method: str
    path: str
    query: str
    host: str
    headers: dict[str, str]
    content_length: int | None


def find_end(received: bytearray, searched: int = 0) -> int:
    """Return the length of the head at the start of `received`, or 0 if it is not complete.

    Args:
        received: The bytes that have arrived, without leading empty lines.
        searched: How many of these bytes an earlier call has already searched.

    Raises:
        FramingError: These bytes can never become a valid request.
    """
    if received and not _METHOD_START.match(received):
        raise FramingError(
            HTTPStatus.BAD_REQUEST, "a request must start with its method (RFC 9112)"
        )
    match = _HEAD_END.search(received, max(0, searched - 2))
    end = match.end() if match else 0
    if end > MAX_HEAD_BYTES or (not end and len(received) > MAX_HEAD_BYTES):
        line_end = received.find(b"\n", 0, MAX_HEAD_BYTES)
        raise FramingError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            if line_end >= 0
            else HTTPStatus.REQUEST_URI_TOO_LONG,
            f"the request line and the header are limited to {MAX_HEAD_BYTES} bytes",
            bytes(received[: max(0, line_end)]),
        )
    return end


def parse(head: bytes, connection: h11.Connection) -> RequestHead:
    """Parse a head, and pass it to `connection`, which needs it to read the body.

    Raises:
        FramingError: Another recipient might read these bytes differently, or not at all.
    """
    try:
        _check_lines(head)
        connection.receive_data(_LEADING_ZEROS.sub(rb"\1", head))
        event = connection.next_event()
        if not isinstance(event, h11.Request):
            raise FramingError(HTTPStatus.BAD_REQUEST, "the request line is missing")
        return _validate(event)
    except h11.RemoteProtocolError as error:
        if error.error_status_hint == HTTPStatus.NOT_IMPLEMENTED:
            raise _transfer_encoding_error(head) from None
        # In h11's messages, the text after a colon comes from the client.
        reason = str(error).partition(":")[0].lower()
        raise FramingError(
            HTTPStatus.BAD_REQUEST, f"not a valid HTTP/1.1 request (RFC 9112): {reason}", head
        ) from None
    except FramingError as error:
        raise FramingError(error.status, error.detail, head) from None


def _check_lines(head: bytes) -> None:
    if not _LINES.fullmatch(head):
        raise FramingError(
            HTTPStatus.BAD_REQUEST,
            "a line of the header is folded, has a control character, or does not end with CRLF",
        )
    if head.count(b"\r\n") - 2 > MAX_FIELDS:
        raise FramingError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the header is limited to {MAX_FIELDS} fields",
        )
    if _HUGE_LENGTH.search(_LEADING_ZEROS.sub(rb"\1", head)):
        raise FramingError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the Content-Length is too large")


def _validate(request: h11.Request) -> RequestHead:
    if not request.http_version.startswith(b"1."):
        raise FramingError(HTTPStatus.BAD_REQUEST, "only HTTP/1.0 and HTTP/1.1 are supported")
    headers = _join_repeated_fields(request)
    if "transfer-encoding" in headers:
        # RFC 9112, section 6.1: with Content-Length, or in HTTP/1.0, it may be request smuggling.
        if "content-length" in headers or request.http_version == b"1.0":
            raise FramingError(
                HTTPStatus.BAD_REQUEST,
                "Transfer-Encoding is not allowed with Content-Length or in HTTP/1.0",
            )
        raise _transfer_encoding_error()
    host = headers.get("host", "")
    if "host" not in headers and request.http_version != b"1.0":
        raise FramingError(HTTPStatus.BAD_REQUEST, "the Host field is missing")
    if not _AUTHORITY.match(host):
        raise FramingError(
            HTTPStatus.BAD_REQUEST, "the Host field must have the form host or host:port"
        )
    method = request.method.decode("ascii")
    path, query, target_host = _split_target(method, request.target.decode("ascii"))
    length = headers.get("content-length")
    return RequestHead(
        method=method,
        path=path,
        query=query,
        # RFC 9112, section 3.2.2: the host in the target overrides the Host field.
        host=target_host or host,
        headers=headers,
        content_length=int(length) if length is not None else None,
    )


def _transfer_encoding_error(head: bytes = b"") -> FramingError:
    return FramingError(
        HTTPStatus.LENGTH_REQUIRED,
        "send the body with Content-Length; Transfer-Encoding is not accepted",
        head,
    )


def _join_repeated_fields(request: h11.Request) -> dict[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _split_target(method: str, target: str) -> tuple[str, str, str]:
    """Return (path, query, host) of a target, with host '' if it has none (RFC 9112, 3.2)."""
    if "#" not in target:
        if target.startswith("/"):
            path, _, query = target.partition("?")
            return path, query, ""
        if method == "OPTIONS" and target == "*":
            return target, "", ""
        if method == "CONNECT" and ":" in target and _AUTHORITY.match(target):
            return "", "", target
        absolute = _ABSOLUTE_TARGET.match(target)
        if absolute and _AUTHORITY.match(absolute[1]):
            return absolute[2] or "/", absolute[3] or "", absolute[1]
    raise FramingError(
        HTTPStatus.BAD_REQUEST, "the request target is neither a path nor an http:// URL"
    )

"""Requests whose framing is normal, unusual, ambiguous or broken, and the expected responses.

A case contains the bytes that a client sends on one connection, and the statuses of all responses.
Most cases end with SMUGGLED. If the request before it is ambiguous, a response to SMUGGLED would
mean that the endpoint took part of a body for a request.
"""

from __future__ import annotations

from typing import NamedTuple

LIVE = "/api/v1/health/live"
WEBHOOK = "/api/v1/webhook"
BODY = b'{"alerts": []}'  # 14 bytes
CHUNKED = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


class Case(NamedTuple):
    name: str
    data: bytes
    statuses: tuple[int, ...]

    @property
    def stores_a_webhook(self) -> bool:
        return 202 in self.statuses


def get(head=b"", line=b"GET /api/v1/health/live HTTP/1.1", host=b"Host: 127.0.0.1\r\n"):
    """Return a GET of the liveness route with additional header lines."""
    return line + b"\r\n" + host + head + b"\r\n"


def post(head, body=BODY, version=b"1.1"):
    """Return a webhook with additional header lines."""
    start = b"POST /api/v1/webhook HTTP/" + version + b"\r\nHost: 127.0.0.1\r\n"
    return start + b"Content-Type: application/json\r\n" + head + b"\r\n" + body


def _content_lengths():
    """Yield cases for Content-Length: RFC 9110, section 8.6, and RFC 9112, section 6.3."""
    for name, head in (
        ("single value", b"Content-Length: 14\r\n"),
        ("without a space", b"Content-Length:14\r\n"),
        ("between spaces and tabs", b"Content-Length: \t 14 \t\r\n"),
        ("in lower case", b"content-length: 14\r\n"),
        ("leading zeros", b"Content-Length: 00014\r\n"),
        ("many leading zeros", b"Content-Length: " + b"0" * 60 + b"14\r\n"),
        ("duplicate", b"Content-Length: 14\r\nContent-Length: 14\r\n"),
        ("list of equal values", b"Content-Length: 14, 14\r\n"),
        ("another field with a similar name", b"Content_Length: 15\r\nContent-Length: 14\r\n"),
    ):
        yield Case(f"length: {name}", post(head) + SMUGGLED, (202, 404))
    for name, value in (
        ("list of different values", b"14, 15"),
        ("list with an empty element", b"14,"),
        ("list with leading zeros", b"0014, 0015"),
        ("plus", b"+14"),
        ("minus", b"-14"),
        ("hexadecimal", b"0x0e"),
        ("space between the digits", b"1 4"),
        ("underscore", b"1_4"),
        ("fraction", b"14.0"),
        ("exponent", b"1e1"),
        ("superscript", b"\xb2"),
        ("empty", b""),
        ("vertical tab", b"14\x0b"),
        ("form feed", b"\x0c14"),
        ("no-break space", b"\xa014"),
        ("NUL", b"14\x00"),
        ("quoted", b'"14"'),
    ):
        head = b"Content-Length: " + value + b"\r\n"
        yield Case(f"length: {name}", post(head) + SMUGGLED, (400,))
    different_lengths = b"Content-Length: 14\r\nContent-Length: 15\r\n"
    yield Case("length: two different values", post(different_lengths) + SMUGGLED, (400,))
    zero_and_14 = b"Content-Length: 0\r\nContent-Length: 14\r\n"
    yield Case("length: zero and another value", post(zero_and_14) + SMUGGLED, (400,))
    for digits in (20, 21, 5000):
        head = b"Content-Length: " + b"9" * digits + b"\r\n"
        yield Case(f"length: {digits} digits", post(head) + SMUGGLED, (413,))
    # The endpoint used to read only the first digits, so the body seemed to be empty.
    head = b"Content-Length: " + b"0" * 30 + b"%d\r\n" % len(SMUGGLED)
    yield Case("length: leading zeros before a smuggled request", post(head, SMUGGLED), (400,))


def _transfer_encodings():
    """Yield cases for Transfer-Encoding: RFC 9112, section 6.1. No coding is accepted."""
    for name, head in (
        ("chunked", b"Transfer-Encoding: chunked\r\n"),
        ("in upper case", b"TRANSFER-ENCODING: CHUNKED\r\n"),
        ("identity", b"Transfer-Encoding: identity\r\n"),
        ("list of two", b"Transfer-Encoding: gzip, chunked\r\n"),
        ("chunked, then another", b"Transfer-Encoding: chunked, identity\r\n"),
        ("unknown", b"Transfer-Encoding: xchunked\r\n"),
        ("quoted", b'Transfer-Encoding: "chunked"\r\n'),
        ("empty", b"Transfer-Encoding:\r\n"),
        ("two fields", b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        ("duplicate field", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        # The endpoint used to read only the first field.
        ("empty field before another", b"Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n"),
    ):
        yield Case(f"coding: {name}", post(head, CHUNKED) + SMUGGLED, (411,))
    both_fields = b"Content-Length: 14\r\nTransfer-Encoding: chunked\r\n"
    yield Case("coding: after Content-Length", post(both_fields, CHUNKED) + SMUGGLED, (400,))
    both_fields = b"Transfer-Encoding: chunked\r\nContent-Length: 14\r\n"
    yield Case("coding: before Content-Length", post(both_fields, CHUNKED) + SMUGGLED, (400,))
    both_fields = b"Transfer-Encoding:\r\n" + both_fields
    yield Case("coding: after an empty field", post(both_fields, CHUNKED) + SMUGGLED, (411,))
    unknown_coding = b"Content-Length: 14\r\nTransfer-Encoding: x\r\n"
    yield Case("coding: unknown, with Content-Length", post(unknown_coding) + SMUGGLED, (411,))
    chunked = b"Transfer-Encoding: chunked\r\n"
    yield Case("coding: in HTTP/1.0", post(chunked, CHUNKED, b"1.0") + SMUGGLED, (400,))
    yield Case("coding: in a GET", get(chunked) + CHUNKED + SMUGGLED, (411,))
    for name, head in (
        ("space before the colon", b"Transfer-Encoding : chunked\r\n"),
        ("tab before the colon", b"Transfer-Encoding\t: chunked\r\n"),
        ("leading space", b" Transfer-Encoding: chunked\r\n"),
        ("vertical tab", b"Transfer-Encoding:\x0bchunked\r\n"),
        ("NUL", b"Transfer-Encoding: chunked\x00\r\n"),
        ("after a bare CR", b"X: y\rTransfer-Encoding: chunked\r\n"),
        ("after a bare LF", b"X: y\nTransfer-Encoding: chunked\r\n"),
        ("folded", b"Transfer-Encoding:\r\n chunked\r\n"),
    ):
        data = post(b"Content-Length: 14\r\n" + head) + SMUGGLED
        yield Case(f"coding: {name}", data, (400,))
    similar_field = b"Transfer_Encoding: chunked\r\nContent-Length: 14\r\n"
    yield Case(
        "coding: another field with a similar name", post(similar_field) + SMUGGLED, (202, 404)
    )


def _fields():
    """Yield cases for field lines: RFC 9112, section 5, and RFC 9110, section 5.5."""
    for name, head in (
        ("space before the colon", b"Content-Length : 14\r\n"),
        ("no colon", b"no colon\r\nContent-Length: 14\r\n"),
        ("no name", b": x\r\nContent-Length: 14\r\n"),
        ("NUL in a name", b"\x00: x\r\nContent-Length: 14\r\n"),
        ("NUL in a value", b"X: a\x00b\r\nContent-Length: 14\r\n"),
        ("control character", b"X: a\x01b\r\nContent-Length: 14\r\n"),
        ("DEL", b"X: a\x7fb\r\nContent-Length: 14\r\n"),
        ("obs-text in a name", b"X\xe9: y\r\nContent-Length: 14\r\n"),
        ("slash in a name", b"X/Y: y\r\nContent-Length: 14\r\n"),
        ("folded by a space", b"Content-Length: 14\r\nX: y\r\n Content-Length: 15\r\n"),
        ("folded by a tab", b"Content-Length: 14\r\nX: y\r\n\tz\r\n"),
        ("bare CR in a value", b"X: y\rContent-Length: 14\r\n"),
        ("bare CR at the end", b"X: y\r\r\nContent-Length: 14\r\n"),
        ("bare LF", b"X: y\nContent-Length: 14\r\n"),
        ("LF and CR", b"X: y\n\rContent-Length: 14\r\n"),
    ):
        yield Case(f"field: {name}", post(head) + SMUGGLED, (400,))
    folded_first_line = b"GET /api/v1/health/live HTTP/1.1\r\n X: y\r\nHost: 127.0.0.1\r\n\r\n"
    yield Case("field: folded first field", folded_first_line + SMUGGLED, (400,))
    yield Case("field: tab in a value", get(b"X: a\tb\r\n") + SMUGGLED, (200, 404))
    yield Case("field: obs-text in a value", get(b"X: \xe9\xff\r\n") + SMUGGLED, (200, 404))
    yield Case("field: empty value", get(b"X:\r\n") + SMUGGLED, (200, 404))
    yield Case("field: 100 fields", get(b"X: y\r\n" * 99) + SMUGGLED, (200, 404))
    yield Case("field: 101 fields", get(b"X: y\r\n" * 100) + SMUGGLED, (431,))
    yield Case("field: long", get(b"X: " + b"x" * 60000 + b"\r\n") + SMUGGLED, (200, 404))
    yield Case("field: too long", get(b"X: " + b"x" * 70000 + b"\r\n") + SMUGGLED, (431,))
    many_long = (b"X: " + b"x" * 9000 + b"\r\n") * 10
    yield Case("field: too long in total", get(many_long) + SMUGGLED, (431,))


def _request_lines():
    """Yield cases for request lines: RFC 9112, section 3, and RFC 9110, section 2.5."""
    for name, line in (
        ("no version", b"GET /"),
        ("only a method", b"GET"),
        ("one word", b"hello"),
        ("lower-case protocol", b"GET / http/1.1"),
        ("another protocol", b"GET / XTTP/1.1"),
        ("version without a number", b"GET / HTTP/x.y"),
        ("version with three parts", b"GET / HTTP/1.1.1"),
        ("version with two digits", b"GET / HTTP/1.10"),
        ("negative version", b"GET / HTTP/-1.1"),
        ("HTTP/0.9", b"GET / HTTP/0.9"),
        ("HTTP/2", b"GET / HTTP/2.0"),
        ("HTTP/9.9", b"GET / HTTP/9.9"),
        ("word after the version", b"GET / HTTP/1.1 x"),
        ("space after the version", b"GET / HTTP/1.1 "),
        ("two spaces", b"GET  / HTTP/1.1"),
        ("tab", b"GET\t/\tHTTP/1.1"),
        ("space in the target", b"GET /a b HTTP/1.1"),
        ("obs-text in the target", b"GET /\xe9 HTTP/1.1"),
        ("control character in the target", b"GET /\x01 HTTP/1.1"),
        ("fragment", b"GET /#x HTTP/1.1"),
        ("target without a slash", b"GET x HTTP/1.1"),
        ("asterisk with another method", b"GET * HTTP/1.1"),
        ("authority with another method", b"GET 127.0.0.1:80 HTTP/1.1"),
        ("CONNECT with a path", b"CONNECT x HTTP/1.1"),
        ("URL with another scheme", b"GET ftp://127.0.0.1/ HTTP/1.1"),
        ("URL with a user", b"GET http://a@127.0.0.1/ HTTP/1.1"),
        ("URL without a host", b"GET http:///api/v1/health/live HTTP/1.1"),
        ("separator in the method", b"GE(T / HTTP/1.1"),
        ("leading space", b" GET / HTTP/1.1"),
        ("leading NUL", b"\x00GET / HTTP/1.1"),
    ):
        yield Case(f"line: {name}", get(line=line) + SMUGGLED, (400,))
    long_line = b"GET /" + b"x" * 70000 + b" HTTP/1.1"
    yield Case("line: too long", get(line=long_line) + SMUGGLED, (414,))
    bare_lf = b"GET /api/v1/health/live HTTP/1.1\nHost: 127.0.0.1\n\n"
    yield Case("line: bare LF", bare_lf + SMUGGLED, (400,))
    tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100
    yield Case("line: TLS", tls, (400,))
    yield Case("line: HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400,))
    for name, data, status in (
        ("leading empty lines", b"\r\n\r\n" + get(), 200),
        ("HTTP/1.2", get(line=b"GET /api/v1/health/live HTTP/1.2"), 200),
        ("URL", get(line=b"GET http://127.0.0.1/api/v1/health/live HTTP/1.1"), 200),
        ("URL in upper case", get(line=b"GET HTTP://LOCALHOST/api/v1/health/live HTTP/1.1"), 200),
        ("URL with https", get(line=b"GET https://localhost:8/api/v1/health/live?x HTTP/1.1"), 200),
        ("URL without a path", get(line=b"GET http://127.0.0.1 HTTP/1.1"), 302),
        ("OPTIONS for the server", get(line=b"OPTIONS * HTTP/1.1"), 200),
        ("OPTIONS for a path", get(line=b"OPTIONS /api/v1/health HTTP/1.1"), 405),
        ("CONNECT", get(line=b"CONNECT 127.0.0.1:80 HTTP/1.1"), 405),
        ("unknown method", get(line=b"BREW /api/v1/health HTTP/1.1"), 405),
        ("lower-case method", get(line=b"get /api/v1/health HTTP/1.1"), 405),
    ):
        yield Case(f"line: {name}", data + SMUGGLED, (status, 404))
    absolute_target = post(b"Content-Length: 14\r\n").replace(b"POST /", b"POST http://localhost/")
    yield Case("line: webhook with an absolute URL", absolute_target + SMUGGLED, (202, 404))


def _hosts():
    """Yield cases for Host: RFC 9112, section 3.2."""
    for name, head in (
        ("missing", b""),
        ("duplicate", b"Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n"),
        ("two different values", b"Host: 127.0.0.1\r\nHost: x\r\n"),
        ("list", b"Host: 127.0.0.1, x\r\n"),
        ("space before another word", b"Host: 127.0.0.1 x\r\n"),
        ("user", b"Host: a@127.0.0.1\r\n"),
        ("path", b"Host: 127.0.0.1/x\r\n"),
        ("port that is not a number", b"Host: 127.0.0.1:x\r\n"),
        ("open bracket", b"Host: [::1\r\n"),
    ):
        yield Case(f"host: {name}", get(host=head) + SMUGGLED, (400,))
    http_1_2 = get(line=b"GET /api/v1/health/live HTTP/1.2", host=b"")
    yield Case("host: missing in HTTP/1.2", http_1_2 + SMUGGLED, (400,))
    http_1_0 = get(line=b"GET /api/v1/health/live HTTP/1.0", host=b"")
    yield Case("host: missing in HTTP/1.0", http_1_0 + SMUGGLED, (200,))
    for name, head in (
        ("with a port", b"Host: 127.0.0.1:8000\r\n"),
        ("with an empty port", b"Host: localhost:\r\n"),
        ("IPv6", b"Host: [::1]:8000\r\n"),
        ("empty", b"Host:\r\n"),
    ):
        yield Case(f"host: {name}", get(host=head) + SMUGGLED, (200, 404))


def _connections():
    """Yield cases for persistence and upgrades: RFC 9112, section 9.3; RFC 9110, section 7.8."""
    http_1_0_line = b"GET /api/v1/health/live HTTP/1.0"
    for name, data in (
        ("close", get(b"Connection: close\r\n")),
        ("close among other options", get(b"Connection: x, CLOSE\r\n")),
        ("close in a second field", get(b"Connection: x\r\nConnection: close\r\n")),
        ("HTTP/1.0", get(line=http_1_0_line)),
        # The server may close the connection anyway.
        ("HTTP/1.0 with keep-alive", get(b"Connection: keep-alive\r\n", http_1_0_line)),
    ):
        yield Case(f"connection: {name}", data + SMUGGLED, (200,))
    for name, data in (
        ("HTTP/1.1", get()),
        ("keep-alive", get(b"Connection: keep-alive\r\n")),
        ("upgrade to another protocol offered", get(b"Connection: Upgrade\r\nUpgrade: h2c\r\n")),
    ):
        yield Case(f"connection: {name}", data + SMUGGLED, (200, 404))
    body = b"Content-Length: %d\r\n" % len(SMUGGLED)
    yield Case("connection: GET with a body", get(body) + SMUGGLED, (200,))
    other_route = post(body, SMUGGLED).replace(WEBHOOK.encode(), b"/api/v1/health")
    yield Case("connection: refused POST with a body", other_route, (405,))
    head = b"Content-Length: 14\r\nExpect: 100-continue\r\n"
    yield Case("connection: 100-continue", post(head) + SMUGGLED, (100, 202, 404))
    yield Case("connection: 100-continue, HTTP/1.0", post(head, BODY, b"1.0"), (202,))
    head = b"Content-Length: 14\r\nExpect: something else\r\n"
    yield Case("connection: another expectation", post(head) + SMUGGLED, (202, 404))


CASES = [
    *_content_lengths(),
    *_transfer_encodings(),
    *_fields(),
    *_request_lines(),
    *_hosts(),
    *_connections(),
]

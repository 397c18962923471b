"""Generate malformed and hostile requests. The same seed generates the same requests."""

from __future__ import annotations

import json
import random
import string
import uuid
from typing import NamedTuple

from tests.lib.samples import DELIMITERS, alert, webhook

WEBHOOK = "/api/v1/webhook"
VIEWS = ("/api/v1/executions/recent", "/api/v1/alerts/active", "/api/v1/st2/executions")
PATHS = (
    WEBHOOK,
    *VIEWS,
    "/api/v1/status/" + str(uuid.UUID(int=5)),
    "/api/v1/health",
    "/api/v1/health/live",
    "/api/v1/health/ready",
    "/api/v1/openapi.json",
    "/metrics",
)
TEXTS = (
    *DELIMITERS,
    "{{ st2kv.system.x }}",
    "<% ctx() %>",
    "",
    "\0",
    "\ud800",
    "é🍰",
    "%s%n",
    "$(reboot)",
    "'; DROP TABLE poundcake_alerts; --",
    "../../etc/passwd",
    "x" * 5000,
    "\r\nX-Evil: 1",
    "9" * 400,
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:60+23:59",
)
NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, 10**30, 1.5, -0.0, 1e308)
# Bytes that make JSON invalid, or test the edges of its syntax.
TOKENS = (
    b'"',
    b"\\",
    b"\\u",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"[" * 200,
    b'{"a":' * 100,
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"NaN",
    b"-",
    b"1e999",
    b"9" * 500,
    b"null",
    b"\r\n",
)
HEADERS = (
    "X-Request-ID",
    "Content-Type",
    "Content-Encoding",
    "User-Agent",
    "Traceparent",
    "X-Forwarded-For",
    "Accept",
    "Expect",
    "Connection",
    "Host",
    "Cookie",
    "Upgrade",
    "Range",
)
METHODS = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get")
FILTERS = (
    "since until severity alert_name instance status outcome fingerprint before limit offset x"
).split()
VALUES = (
    "",
    "1",
    "1000",
    "-1",
    "1h",
    "firing",
    "admitted",
    "HostDown",
    "2026-01-14T12:00:00Z",
    "2026-01-14T12:00:00Z/5",
    "%00",
    "%ff",
    "%27%20OR%201=1",
    "%7B%7B",
    "%F0%9F%8D%B0",
)


class Request(NamedTuple):
    """The bytes of a request."""

    data: bytes
    head: bool = False
    """Whether the method is HEAD, so that the response has no body."""
    ends: bool = False
    """Whether, after this request, the endpoint may close the connection or wait for more bytes."""


class RequestGenerator:
    """Generates any number of requests.

    Args:
        seed: Any value. The same seed generates the same requests.
        token: A bearer token, which nearly all requests carry.
        accepted: The share of requests that the endpoint should accept: notifications as
            Alertmanager sends them, some with a few values changed.
    """

    def __init__(self, seed, token="", accepted=0.02):
        self._random = random.Random(seed)
        self._token = token
        self._accepted = accepted
        self._corpus = [
            json.dumps(webhook(*alerts, **fields)).encode()
            for alerts, fields in (
                ((), {}),
                ((alert(),), {}),
                ((alert(), alert("B"), alert("C", "resolved")), {"status": "resolved"}),
                ((alert(labels={"job": "{{x}}"}, annotations={}),), {"truncatedAlerts": 5}),
                ((alert(starts_at=None, fingerprint="2993e3e5da48cfe2"), 5), {"groupKey": 10**20}),
            )
        ]
        self._framings = (
            self._with_bytes_changed,
            lambda plain: self._bytes(self._random.randrange(1, 2000)),
            lambda plain: plain[: self._random.randrange(len(plain))],
            self._with_two_lengths,
            self._with_other_headers,
            self._with_other_line_endings,
            self._with_another_first_line,
            lambda plain: self._with_an_unexpected_body(),
        )

    def random_number(self, limit):
        """Return an integer from 0 up to, but not including, the limit."""
        return self._random.randrange(limit)

    def framed_request(self):
        """Return a request whose end is clear, so that the connection can be reused."""
        pick = self._random.random()
        if pick < self._accepted / 2:
            return self._post(self._random.choice(self._corpus))
        if pick < self._accepted:
            return self._post(json.dumps(self._with_values_changed()).encode())
        kinds = {
            lambda: self._post(self._broken_json()): 0.45,
            lambda: self._post(self._bytes(self._random.randrange(200))): 0.15,
            lambda: self._post(json.dumps(self._value(3)).encode()): 0.18,
            lambda: self._get(self._path()): 0.19,
            lambda: self._get(self._random.choice(VIEWS) + "?" + self._query()): 0.015,
            lambda: self._get(self._random.choice(PATHS[1:])): 0.005,
            lambda: self._get(self._random.choice(PATHS), self._random.choice(METHODS)): 0.01,
        }
        (make_request,) = self._random.choices(list(kinds), weights=list(kinds.values()))
        return make_request()

    def unframed_request(self):
        """Return a request whose end may be ambiguous."""
        plain = self._post(self._random.choice(self._corpus)).data
        return Request(self._random.choice(self._framings)(plain), ends=True)

    def _with_bytes_changed(self, plain):
        return self._mutated(plain, 12)

    def _with_two_lengths(self, plain):
        """Add a header that contradicts the length of the body."""
        size = plain.partition(b"Content-Length: ")[2].partition(b"\r\n")[0].decode()
        headers = (
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: identity, chunked",
            "Content-Length: 0",
            "Content-Length: +" + size,
            "Content-Length: 0x1f",
            "Content-Length : " + size,
            "Content-Length:\t" + size,
            " Content-Length: 1",
            "Content-Length: " + "9" * self._random.randrange(1, 5000),
        )
        added = "Host: x\r\n" + self._random.choice(headers)
        return plain.replace(b"Host: x", added.encode())

    def _with_other_headers(self, plain):
        """Replace a header with up to 200 headers, some of them long."""
        choice = self._random.choice
        count = choice((1, 2, 5, 99, 200))
        lines = "".join(f"{choice(HEADERS)}: {self._header()}\r\n" for _ in range(count))
        return plain.replace(b"Host: x\r\n", lines.encode("utf-8", "replace"))

    def _with_other_line_endings(self, plain):
        endings = (b"\n", b"\r", b"\n\r", b"\r\r\n", b"\0\r\n")
        return plain.replace(b"\r\n", self._random.choice(endings))

    def _with_another_first_line(self, plain):
        choice = self._random.choice
        path = choice((*PATHS, "*", "//", "x" * 70000, "http://x/" + WEBHOOK, self._path()))
        version = choice(("", "HTTP/0.9", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "SIP/2.0", "HTTP/"))
        line = f"{choice((*METHODS, 'POST'))} {path} {version}"
        return line.encode("utf-8", "replace") + plain[plain.index(b"\r\n") :]

    def _with_an_unexpected_body(self):
        """Post a body where none is expected, or a long one."""
        choice = self._random.choice
        body = choice(self._corpus)
        if self._random.random() < 0.05:
            body = b" " * (70 << 10) + body
        path = choice((WEBHOOK, choice(PATHS)))
        return self._message("POST", path, body, choice(("text/plain", "application/json")))

    def _bytes(self, count):
        return self._random.getrandbits(8 * count + 1).to_bytes(count + 1, "big")[1:]

    def _message(self, method, path, body=None, media_type="application/json"):
        lines = [f"{method} {path} HTTP/1.1", "Host: x"]
        if self._token and self._random.random() < 0.995:
            lines.append("Authorization: Bearer " + self._token)
        if body is not None:
            lines += ["Content-Type: " + media_type, f"Content-Length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")

    def _post(self, body):
        return Request(self._message("POST", WEBHOOK, body))

    def _get(self, path, method="GET"):
        return Request(self._message(method, path), head=method == "HEAD")

    def _path(self):
        pick = self._random.random()
        if pick < 0.1:
            return "/api/v1/status/" + str(uuid.UUID(int=self._random.getrandbits(128)))
        if pick < 0.5:
            return "/api/v1/health/live"
        letters = "".join(self._random.choices(string.printable[:94], k=self._random.randrange(30)))
        return self._random.choice(("/", "/api/v1/", "/api/v1/status/", *PATHS)) + letters

    def _query(self):
        names = self._random.choices(FILTERS, k=self._random.randrange(1, 5))
        return "&".join(name + "=" + self._random.choice(VALUES) for name in names)

    def _header(self):
        text = self._random.choice((*TEXTS, str(uuid.UUID(int=self._random.getrandbits(128)))))
        return text.replace("\r\n", "\r\n\t") if self._random.random() < 0.5 else text

    def _broken_json(self):
        """Return a notification with some bytes changed, which is usually no longer valid JSON."""
        body = self._mutated(self._random.choice(self._corpus), 4)
        index = self._random.randrange(len(body) + 1)
        added = self._random.choice((b'"', b"\xff", b"\0", b"]", b"}"))
        return body[:index] + added + body[index:]

    def _mutated(self, data, max_changes):
        """Return the data with bytes changed in 1 to `max_changes` places."""
        randrange = self._random.randrange
        for _ in range(randrange(1, max_changes + 1)):
            index = randrange(len(data) + 1)
            kind = randrange(5)
            if kind == 0 and index < len(data):
                data = data[:index] + bytes([randrange(256)]) + data[index + 1 :]
            elif kind == 1:
                data = data[:index] + self._random.choice(TOKENS) + data[index:]
            elif kind == 2:
                data = data[:index] + data[index + randrange(20) :]
            elif kind == 3:
                data = data[:index] + data[max(0, index - randrange(60)) :]
            else:
                data = data[:index]
        return data

    def _with_values_changed(self):
        """Return a notification with some values changed."""
        notification = json.loads(self._random.choice(self._corpus))
        for _ in range(self._random.randrange(1, 4)):
            self._change_a_value(notification)
        return notification

    def _change_a_value(self, container):
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        if not keys:
            return
        key = self._random.choice(keys)
        if isinstance(container[key], (dict, list)) and self._random.random() < 0.8:
            self._change_a_value(container[key])
        else:
            container[key] = self._value(2)

    def _value(self, depth):
        """Return a JSON value, nested at most `depth` levels."""
        kind = self._random.randrange(7 if depth else 5)
        if kind < 2:
            return self._random.choice(TEXTS)
        if kind == 2:
            return self._random.choice(NUMBERS)
        if kind < 5:
            return self._random.choice((None, True, False))
        if kind == 5:
            return [self._value(depth - 1) for _ in range(self._random.randrange(4))]
        return {
            self._random.choice((*TEXTS, "alerts", "labels", "status")): self._value(depth - 1)
            for _ in range(self._random.randrange(4))
        }

"""Requests that no client should send; of one seed they are always the same."""

import json
import random
import string
import uuid

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
# What breaks a JSON text, and what stands at the edges of one.
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


class Request:
    """The bytes of one. ends: whether the connection may end with it, or wait for more."""

    def __init__(self, data, head=False, ends=False):
        self.data, self.head, self.ends = data, head, ends


class Wild:
    """An endless source of requests. accepted: which share of them is a notification as
    Alertmanager sends it, or one that is near enough to be put on record."""

    def __init__(self, seed, token="", accepted=0.02):
        self._random = random.Random(seed)
        self._token = token
        self._accepted = accepted
        self._corpus = [
            json.dumps(webhook(*alerts, **more)).encode()
            for alerts, more in (
                ((), {}),
                ((alert(),), {}),
                ((alert(), alert("B"), alert("C", "resolved")), {"status": "resolved"}),
                ((alert(labels={"job": "{{x}}"}, annotations={}),), {"truncatedAlerts": 5}),
                ((alert(starts_at=None, fingerprint="2993e3e5da48cfe2"), 5), {"groupKey": 10**20}),
            )
        ]

    def number(self, most):
        """Any from 0, below most."""
        return self._random.randrange(most)

    def keeping(self):
        """A request after which the connection goes on."""
        pick = self._random.random()
        if pick < self._accepted / 2:
            return self._post(self._random.choice(self._corpus))
        if pick < self._accepted:
            return self._post(json.dumps(self._twisted()).encode())
        pick = self._random.random()
        if pick < 0.45:
            return self._post(self._broken())
        if pick < 0.60:
            return self._post(self._bytes(self._random.randrange(200)))
        if pick < 0.78:
            return self._post(json.dumps(self._value(3)).encode())
        if pick < 0.97:
            return self._get(self._path())
        if pick < 0.985:
            return self._get(self._random.choice(VIEWS) + "?" + self._query())
        if pick < 0.99:
            return self._get(self._random.choice(PATHS[1:]))
        method = self._random.choice(METHODS)
        return self._get(self._random.choice(PATHS), method)

    def ending(self):
        """A request that may leave nobody knows what on the connection."""
        choice = self._random.choice
        kind = self._random.randrange(8)
        body = choice(self._corpus)
        plain = self._post(body).data
        if kind == 0:  # bytes changed anywhere in it
            data = self._mutated(plain, 12)
        elif kind == 1:
            data = self._bytes(self._random.randrange(1, 2000))
        elif kind == 2:  # cut
            data = plain[: self._random.randrange(len(plain))]
        elif kind == 3:  # two opinions on where it ends
            size = str(len(body))
            opinions = (
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
            data = plain.replace(b"Host: x", ("Host: x\r\n" + choice(opinions)).encode())
        elif kind == 4:  # headers, many or long
            count = choice((1, 2, 5, 99, 200))
            lines = "".join(f"{choice(HEADERS)}: {self._header()}\r\n" for _ in range(count))
            data = plain.replace(b"Host: x\r\n", lines.encode("utf-8", "replace"))
        elif kind == 5:  # other ends of lines
            data = plain.replace(b"\r\n", choice((b"\n", b"\r", b"\n\r", b"\r\r\n", b"\0\r\n")))
        elif kind == 6:  # another first line
            path = choice((*PATHS, "*", "//", "x" * 70000, "http://x/" + WEBHOOK, self._path()))
            version = choice(("", "HTTP/0.9", "HTTP/1.0", "HTTP/2.0", "HTTP/9", "SIP/2.0", "HTTP/"))
            line = " ".join((choice((*METHODS, "POST")), path, version))
            data = line.encode("utf-8", "replace") + plain[plain.index(b"\r\n") :]
        else:  # a body where none is read, or a long one
            target = choice((WEBHOOK, choice(PATHS)))
            if self._random.random() < 0.05:
                body = b" " * (70 << 10) + body
            data = self._message("POST", target, body, choice(("text/plain", "application/json")))
        return Request(data, ends=True)

    def _bytes(self, count):
        return self._random.getrandbits(8 * count + 1).to_bytes(count + 1, "big")[1:]

    def _message(self, method, path, body=None, media="application/json"):
        lines = [f"{method} {path} HTTP/1.1", "Host: x"]
        if self._token and self._random.random() < 0.995:
            lines.append("Authorization: Bearer " + self._token)
        if body is not None:
            lines += ["Content-Type: " + media, f"Content-Length: {len(body)}"]
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

    def _broken(self):
        """A notification with some bytes changed, most often so that it is no JSON any more."""
        body = self._mutated(self._random.choice(self._corpus), 4)
        at = self._random.randrange(len(body) + 1)
        return body[:at] + self._random.choice((b'"', b"\xff", b"\0", b"]", b"}")) + body[at:]

    def _mutated(self, data, most):
        randrange = self._random.randrange
        for _ in range(randrange(1, most + 1)):
            at = randrange(len(data) + 1)
            kind = randrange(5)
            if kind == 0 and at < len(data):
                data = data[:at] + bytes([randrange(256)]) + data[at + 1 :]
            elif kind == 1:
                data = data[:at] + self._random.choice(TOKENS) + data[at:]
            elif kind == 2:
                data = data[:at] + data[at + randrange(20) :]
            elif kind == 3:
                data = data[:at] + data[max(0, at - randrange(60)) :]
            else:
                data = data[:at]
        return data

    def _twisted(self):
        """A notification with other values at places of it."""
        found = json.loads(self._random.choice(self._corpus))
        for _ in range(self._random.randrange(1, 4)):
            place = found
            while True:
                keys = list(place) if isinstance(place, dict) else list(range(len(place)))
                if not keys:
                    break
                key = self._random.choice(keys)
                if isinstance(place[key], (dict, list)) and self._random.random() < 0.8:
                    place = place[key]
                    continue
                place[key] = self._value(2)
                break
        return found

    def _value(self, depth):
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

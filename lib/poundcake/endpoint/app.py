"""The endpoint as a WSGI application: routes, limits, authentication, problem answers.

Of the answers to a webhook Alertmanager retries 5xx alone; every 4xx drops the notification for
good (notify/util.go, Retrier). So 4xx is for what can never succeed, and 503 for our own state.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
import uuid
from datetime import datetime, timezone
from http import HTTPStatus
from typing import Any, Callable, Iterable, Sequence
from urllib.parse import parse_qsl

from poundcake import alertmanager
from poundcake.alertmanager import PayloadError
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.endpoint import metrics, native, openapi
from poundcake.endpoint.journal import JournalError
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger
from poundcake.request_ids import body_sha256
from poundcake.trail import queries, search
from poundcake.trail.database import DatabaseError
from poundcake.trail.search import FilterError

WEBHOOK_PATH = metrics.WEBHOOK_ROUTE
# What of a request's headers is kept. Never one that carries a credential.
KEPT_HEADERS = (
    "User-Agent",
    "Content-Type",
    "Content-Length",
    "X-Request-ID",
    "X-Forwarded-For",
    "Traceparent",
)
_HEADER_LENGTH = 1024
_FILTERS = (
    "since",
    "until",
    "severity",
    "alert_name",
    "instance",
    "status",
    "outcome",
    "fingerprint",
    "before",
)
_LARGE = 64 << 10


class Problem(Exception):
    """An answer that is no success: an RFC 9457 problem document."""

    def __init__(self, status: HTTPStatus, detail: str, headers: dict | None = None, **more: Any):
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}
        self.more = more


class Receiver:
    """The WSGI application (PEP 3333). ``station`` is the endpoint it belongs to."""

    def __init__(self, config: Config, station: Any, log: Any):
        self._config = config
        self._station = station
        self._log = log
        self._seldom = RateLimitedLogger(log)
        self._ways = config.authentication
        self._credentials = [("bearer", token.encode()) for token in config.auth_tokens]
        if config.basic_auth:
            self._credentials.append(("basic", config.basic_auth.encode()))
        self._routes: list[tuple[str, str, Callable]] = [
            ("POST", WEBHOOK_PATH, self._webhook),
            ("GET", "/api/v1/status/{request_id}", self._status),
            ("GET", "/api/v1/executions/recent", self._recent),
            ("GET", "/api/v1/alerts/active", self._active),
            ("GET", "/api/v1/st2/executions", self._executions),
            ("GET", "/api/v1/health", self._health),
            ("GET", "/api/v1/health/live", self._live),
            ("GET", "/api/v1/health/ready", self._health),
            ("GET", "/api/v1/openapi.json", self._describe),
            ("GET", "/metrics", self._scrape),
        ]
        self._description = json.dumps(openapi.description(self._ways)).encode()

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        began = time.monotonic()
        request_id = str(uuid.uuid4())
        try:
            status, answer, headers = self._handle(environ)
        except Problem as problem:
            status, headers = problem.status, problem.headers
            answer = {
                "type": "about:blank",
                "title": problem.status.phrase,
                "status": problem.status.value,
                "detail": problem.detail,
                "request_id": request_id,
                **problem.more,
            }
            headers.setdefault("Content-Type", "application/problem+json")
            headers.setdefault("X-Request-ID", request_id)
        except OSError:
            raise  # the client went away or was too slow; there is nobody to answer
        # A fault of ours: Alertmanager must send the notification again.
        except Exception:
            self._log.exception("request %s failed", request_id)
            status = HTTPStatus.SERVICE_UNAVAILABLE
            headers = {"Content-Type": "application/problem+json", "X-Request-ID": request_id}
            answer = {
                "type": "about:blank",
                "title": status.phrase,
                "status": status.value,
                "detail": "an error of the endpoint itself; its log has it under the request_id",
                "request_id": request_id,
            }
        headers.setdefault("Content-Type", "application/json")
        headers.setdefault("Cache-Control", "no-store")
        self._station.metrics.answered(
            self._template(environ["PATH_INFO"]),
            environ["REQUEST_METHOD"],
            status.value,
            time.monotonic() - began,
        )
        start_response(f"{status.value} {status.phrase}", list(headers.items()))
        return [answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n"]

    def _handle(self, environ: dict[str, Any]) -> tuple[HTTPStatus, Any, dict]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        handler, argument = self._route(method, path)
        if handler != self._live:
            self._authenticate(environ)
        try:
            return handler(environ, argument)
        except FilterError as error:
            raise Problem(HTTPStatus.BAD_REQUEST, str(error), field=error.field) from None
        except DatabaseError as error:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the tracking database cannot be read now: {error}; webhooks are still taken",
            ) from None
        except JournalError as error:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None

    def _route(self, method: str, path: str) -> tuple[Callable, str]:
        allowed = []
        for verb, pattern, handler in self._routes:
            argument = _argument(pattern, path)
            if argument is None:
                continue
            if method == verb or (method == "HEAD" and verb == "GET"):
                return handler, argument
            allowed.append(verb)
        if allowed:
            raise Problem(
                HTTPStatus.METHOD_NOT_ALLOWED,
                f"{path} takes {' and '.join(allowed)}, not {method[:20]}",
                {"Allow": ", ".join(allowed)},
            )
        known = ", ".join(f"{verb} {pattern}" for verb, pattern, _ in self._routes)
        raise Problem(HTTPStatus.NOT_FOUND, f"no such path; there are {known}")

    def _template(self, path: str) -> str:
        """The route of a path, with the name of what differs instead of what the client sent."""
        patterns = (p for _, p, _ in self._routes if _argument(p, path) is not None)
        return next(patterns, metrics.OTHER)

    def _authenticate(self, environ: dict[str, Any]) -> None:
        if not self._ways or environ.get("poundcake.client_certificate"):
            return
        scheme, _, text = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        scheme = scheme.lower()
        given = text.strip().encode("latin-1", "replace")
        if scheme == "basic":
            try:
                given = base64.b64decode(given, validate=True)
            except ValueError:
                given = b""
        # All are compared, each in constant time: the time taken tells nothing.
        matches = [
            hmac.compare_digest(given, known) and scheme == way for way, known in self._credentials
        ]
        if not any(matches):
            self._station.metrics.failed_authentications.inc()
            self._seldom.warning(
                "unauthenticated request from %s refused", environ.get("REMOTE_ADDR", "?")
            )
            challenges = [
                f'{way.capitalize()} realm="poundcake"'
                for way in self._ways
                if way in ("bearer", "basic")
            ]
            raise Problem(
                HTTPStatus.UNAUTHORIZED,
                "one of these is expected, as the pack's configuration has it: "
                + ", ".join(self._ways),
                {"WWW-Authenticate": ", ".join(challenges)} if challenges else {},
            )

    # -- the webhook

    def _webhook(self, environ: dict[str, Any], _: str) -> tuple[HTTPStatus, Any, dict]:
        self._check_media(environ)
        journal = self._station.journal
        if journal is None:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, self._station.journal_problem())
        if journal.backlog >= self._config.backlog_limit:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"{journal.backlog} requests wait to be recorded, backlog_limit is "
                f"{self._config.backlog_limit}",
            )
        received_at = datetime.now(timezone.utc)
        # A body that is too slow ends the connection without an answer, which Alertmanager
        # retries: a 408 it would not.
        raw = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        try:
            # A large one would stop every green thread for as long as it takes.
            large = len(raw) > _LARGE
            webhook = (
                native.run_in_native_thread(alertmanager.parse, raw)
                if large
                else alertmanager.parse(raw)
            )
            # A byte order mark has done its work once it was read.
            body = raw.decode("utf-8-sig")
        except PayloadError as error:
            raise Problem(HTTPStatus.BAD_REQUEST, str(error), field=error.field) from None
        request = Request(
            request_id="",
            received_at=received_at,
            client_host=environ.get("REMOTE_ADDR", ""),
            client_request_id="",
            method="POST",
            path=environ["PATH_INFO"],
            headers=_kept_headers(environ),
            body=body,
        )
        try:
            request_id = journal.accept(
                request, _usable_id(environ), body_sha256(body), len(webhook.alerts)
            )
        except JournalError as error:
            self._station.journal_failed(str(error))
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE, f"the journal cannot be written now: {error}"
            ) from None
        self._station.accepted()
        count = len(webhook.alerts)
        self._station.metrics.alerts_received.inc(count)
        answer = {
            "status": "accepted",
            "request_id": request_id,
            "alerts_received": count,
            "message": f"{count} alert{'' if count == 1 else 's'} on record",
        }
        return HTTPStatus.ACCEPTED, answer, {"X-Request-ID": request_id}

    def _check_media(self, environ: dict[str, Any]) -> None:
        length = environ.get("CONTENT_LENGTH", "")
        if not length:
            raise Problem(
                HTTPStatus.LENGTH_REQUIRED, "Content-Length is expected; chunked is not taken"
            )
        if len(length) > 18 or int(length) > self._config.max_body_bytes:
            raise Problem(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the body may have {self._config.max_body_bytes} bytes (max_body_bytes); set "
                "max_alerts in Alertmanager's webhook_config, or raise it here",
            )
        media, *parameters = environ.get("CONTENT_TYPE", "").lower().split(";")
        charset = [p.split("=", 1)[1].strip(' "') for p in parameters if "charset=" in p]
        if media.strip() not in ("application/json", "") or charset not in ([], ["utf-8"]):
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "Content-Type: application/json is expected"
            )
        if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
            raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a Content-Encoding is not taken")

    # -- the views

    def _status(self, environ: dict[str, Any], request_id: str) -> tuple[HTTPStatus, Any, dict]:
        _query(environ, {})
        answer = self._station.status(request_id.lower())
        if answer is None:
            raise Problem(HTTPStatus.NOT_FOUND, "no request with this request_id is on record")
        return HTTPStatus.OK, answer, {}

    def _recent(self, environ: dict[str, Any], _: str) -> tuple[HTTPStatus, Any, dict]:
        query = _filtered(environ, 20, _FILTERS)
        return HTTPStatus.OK, self._station.read(queries.executions_recent, **query), {}

    def _active(self, environ: dict[str, Any], _: str) -> tuple[HTTPStatus, Any, dict]:
        query = _filtered(environ, 100, [name for name in _FILTERS if name != "status"])
        query["stale_after_hours"] = self._config.stale_after_hours
        return HTTPStatus.OK, self._station.read(queries.alerts_active, **query), {}

    def _executions(self, environ: dict[str, Any], _: str) -> tuple[HTTPStatus, Any, dict]:
        others = [name for name in _FILTERS if name not in ("status", "outcome")]
        query = _filtered(environ, 20, others, status="")
        query["web_url"] = self._config.st2_web_url
        return HTTPStatus.OK, self._station.read(queries.st2_executions, **query), {}

    def _health(self, environ: dict[str, Any], _: str) -> tuple[HTTPStatus, Any, dict]:
        answer = self._station.health()
        ready = answer["status"] != "unavailable"
        return HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, answer, {}

    def _live(self, environ: dict[str, Any], _: str) -> tuple[HTTPStatus, Any, dict]:
        return HTTPStatus.OK, {"status": "alive"}, {}

    def _describe(self, environ: dict[str, Any], _: str) -> tuple[HTTPStatus, Any, dict]:
        return HTTPStatus.OK, self._description, {}

    def _scrape(self, environ: dict[str, Any], _: str) -> tuple[HTTPStatus, Any, dict]:
        text, media_type = self._station.metrics.text(environ.get("HTTP_ACCEPT", ""))
        return HTTPStatus.OK, text, {"Content-Type": media_type}


def _argument(pattern: str, path: str) -> str | None:
    """What the path has for the pattern's placeholder, '' where there is none; None where the
    path does not fit the pattern."""
    prefix, placeholder, _ = pattern.partition("{")
    if not placeholder:
        return "" if path == pattern else None
    return path[len(prefix) :] or None if path.startswith(prefix) else None


def _filtered(
    environ: dict[str, Any], limit: int, names: Sequence[str], **more: Any
) -> dict[str, Any]:
    """The query's parameters, those of the names as Filters."""
    known = {"limit": limit, "offset": 0, **more, **dict.fromkeys(names, "")}
    query = _query(environ, known)
    query["filters"] = search.parse(**{name: query.pop(name) for name in names})
    return query


def _query(environ: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The query's parameters over their defaults, checked."""
    values = dict(known)
    try:
        pairs = parse_qsl(
            environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=20
        )
    except ValueError:
        raise Problem(HTTPStatus.BAD_REQUEST, "the query has too many parameters") from None
    for name, text in pairs:
        if name not in known:
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                f"{name[:40]}: no such parameter; there are {', '.join(known) or 'none'}",
                field=name[:40],
            )
        if isinstance(known[name], int):
            least, most = (1, search.MOST_ROWS) if name == "limit" else (0, search.MOST_OFFSET)
            if not (text.isascii() and text.isdigit() and len(text) < 11) or not (
                least <= int(text) <= most
            ):
                raise Problem(
                    HTTPStatus.BAD_REQUEST,
                    f"{name}: a whole number from {least} to {most} is expected",
                    field=name,
                )
            values[name] = int(text)
        else:
            values[name] = text[:1024]
    return values


def _kept_headers(environ: dict[str, Any]) -> dict[str, str]:
    kept = {}
    for name in KEPT_HEADERS:
        key = name.upper().replace("-", "_")
        value = environ.get(key if key.startswith("CONTENT_") else "HTTP_" + key)
        if value:
            kept[name] = value[:_HEADER_LENGTH]
    return kept


def _usable_id(environ: dict[str, Any]) -> str:
    """The sender's X-Request-ID where it is a UUID as we write them; '' else."""
    given = environ.get("HTTP_X_REQUEST_ID", "")
    try:
        return given if len(given) == 36 and str(uuid.UUID(given)) == given else ""
    except ValueError:
        return ""

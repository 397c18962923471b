"""The endpoint as a web application: authenticate, find the route, answer.

Alertmanager retries a notification only after a 5xx (notify/util.go, Retrier). After a 4xx, it
sends what still fires again at the next group_interval. So the endpoint answers 4xx only if a retry
cannot succeed, and 503 if it is temporarily unable to process the request.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import replace
from http import HTTPStatus

from poundcake.config import Config
from poundcake.credentials import Scope
from poundcake.endpoint import browser_guard, metrics, openapi, routes
from poundcake.endpoint.app_service import Service
from poundcake.endpoint.authentication import Authentication
from poundcake.endpoint.board.board_process import BoardProcess
from poundcake.endpoint.board.error_page import render_error
from poundcake.endpoint.board.live_state import LiveState
from poundcake.endpoint.board.static_routes import static_routes
from poundcake.endpoint.http_messages import (
    ClientGoneError,
    FramingError,
    HTTPRequest,
    HTTPResponse,
)
from poundcake.endpoint.journal import JournalError
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger
from poundcake.endpoint.refused_webhooks import RefusalReason, RefusedWebhooks
from poundcake.endpoint.routes import LIVE_PATH, WEBHOOK_PATH, Route
from poundcake.endpoint.trail_routes import TrailRoutes
from poundcake.endpoint.webhook import WebhookReceiver
from poundcake.trail.database import DatabaseError
from poundcake.trail.search import FilterError

__all__ = ["Receiver", "Service"]

# Sent with every response: a browser must neither guess its content type nor cache it.
_SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class Receiver:
    """The application that the HTTP server serves.

    Args:
        config: The pack's configuration.
        service: The endpoint that the application is part of.
        log: The logger for failures and refusals.
        refused_webhooks: The counter of refused webhooks; a new one by default.
    """

    def __init__(
        self,
        config: Config,
        service: Service,
        log: logging.Logger,
        refused_webhooks: RefusedWebhooks | None = None,
    ) -> None:
        self._service = service
        self._log = log
        self._rate_limited_log = RateLimitedLogger(log)
        self.refused_webhooks = refused_webhooks or RefusedWebhooks(service.metrics, log)
        self._board: BoardProcess | None = None
        self.configure(config)

    def close(self) -> None:
        """Stop the process that computes the pages of the board."""
        if self._board:
            self._board.close()

    def configure(self, config: Config) -> None:
        """Use a new configuration for all later requests."""
        self._authentication_methods = config.authentication
        self._has_scopes = any(c.scope != Scope.BOTH for c in config.all_credentials)
        webhook = WebhookReceiver(config, self._service)
        self._authentication = Authentication(
            config, self._service.metrics, webhook.check_before_body
        )
        previous_board = self._board
        self._board = BoardProcess(
            config, LiveState(self._service, self.refused_webhooks.report), self._log
        )
        self.routes = [
            Route("POST", WEBHOOK_PATH, webhook.accept),
            *TrailRoutes(config, self._service).routes(),
            *self._board.routes(),
            *static_routes(),
            Route("GET", "/api/v1/health", self._health),
            Route("GET", LIVE_PATH, self._live),
            Route("GET", "/api/v1/health/ready", self._health),
            Route("GET", "/api/v1/openapi.json", self._openapi),
            Route("GET", "/metrics", self._metrics),
        ]
        if previous_board:
            previous_board.close()

    def __call__(self, request: HTTPRequest) -> HTTPResponse:
        """Answer a request.

        Raises:
            ClientGoneError: The body did not arrive.
        """
        started_at = time.monotonic()
        request_id = str(uuid.uuid4())
        try:
            response = self._answer(request)
            if request.path == WEBHOOK_PATH and response.status == HTTPStatus.ACCEPTED:
                self.refused_webhooks.note_accepted(request.client_host)
        except ProblemError as problem:
            response = _refuse(request, problem, request_id)
            reason = self._refusal_reason(request, problem.status)
            if reason:
                self._note_refusal(reason, problem, request.client_host)
            elif problem.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                self._log_denial(request, problem)
        except ClientGoneError:
            raise
        # A bug in the endpoint: answer 503, so that Alertmanager retries the notification.
        except Exception:
            self._log.exception(
                "request %s: unexpected error; answered 503, so that Alertmanager retries it; "
                "please report this traceback",
                request_id,
            )
            failure = ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the endpoint failed unexpectedly; its log has the reason under this request_id",
            )
            response = _refuse(request, failure, request_id)
        return self._finish(response, request.method, request.path, time.monotonic() - started_at)

    def refuse(self, error: FramingError, client_host: str) -> HTTPResponse:
        """Return the response to bytes that are not a valid request."""
        problem = ProblemError(error.status, error.detail)
        path = error.target.partition("?")[0]
        if path == WEBHOOK_PATH:
            self._note_refusal(
                RefusalReason.from_framing_status(error.status), problem, client_host
            )
        return self._finish(problem.response(str(uuid.uuid4())), error.method, path, None)

    def _answer(self, request: HTTPRequest) -> HTTPResponse:
        is_live = request.path == LIVE_PATH and request.method in ("GET", "HEAD")
        if not is_live:
            authentication = self._authentication  # read only once: configure() may replace it
            needed_scope = routes.needed_scope(request.path)
            request = authentication.authenticate(request, needed_scope)
            if not authentication.is_required:
                browser_guard.refuse_cross_site_request(request)
        try:
            return routes.answer(self.routes, request)
        except FilterError as error:
            raise ProblemError(HTTPStatus.BAD_REQUEST, str(error), field=error.field) from None
        except DatabaseError as error:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the tracking database cannot be read now: {error}; webhooks are still accepted",
            ) from None
        except JournalError as error:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from None

    def _refusal_reason(self, request: HTTPRequest, status: HTTPStatus) -> RefusalReason | None:
        """Return why a webhook was refused.

        Return None if the request is not a webhook, or if Alertmanager retries it.
        """
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return None
        if request.path != WEBHOOK_PATH:
            # Only webhooks are posted, so the sender has the wrong URL. A sender without a valid
            # credential may be a scanner that posts to any path.
            is_posted = request.method == "POST" and status != HTTPStatus.UNAUTHORIZED
            return RefusalReason.WRONG_PATH if is_posted else None
        reason = RefusalReason.from_status(status)
        if reason is RefusalReason.CROSS_SITE and self._authentication_methods:
            return RefusalReason.WRONG_SCOPE
        return reason

    def _log_denial(self, request: HTTPRequest, problem: ProblemError) -> None:
        """Log that a client was denied something other than to post a webhook."""
        self._rate_limited_log.warning(
            "refused a request to %s: answered %s to %s: %s",
            routes.matching_template(self.routes, request.path) or "an unknown path",
            problem.status.value,
            request.client_host,
            problem.reason,
        )

    def _note_refusal(self, reason: RefusalReason, problem: ProblemError, sender: str) -> None:
        self.refused_webhooks.add(reason, problem.status, problem.reason, sender)

    def _finish(
        self, response: HTTPResponse, method: str, path: str, seconds: float | None
    ) -> HTTPResponse:
        """Count a response, and return it with the headers that all responses have."""
        template = routes.matching_template(self.routes, path) or metrics.OTHER
        self._service.metrics.count_response(template, method, response.status.value, seconds)
        return replace(response, headers={**_SECURITY_HEADERS, **response.headers})

    def _health(self, request: HTTPRequest, _: str) -> HTTPResponse:
        health = self._service.health()
        is_ready = health["status"] != "unavailable"
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return HTTPResponse.json(status, {**health, "refused": self.refused_webhooks.report()})

    def _live(self, request: HTTPRequest, _: str) -> HTTPResponse:
        return HTTPResponse.json(HTTPStatus.OK, {"status": "alive"})

    def _openapi(self, request: HTTPRequest, _: str) -> HTTPResponse:
        description = openapi.build_description(self._authentication_methods, self._has_scopes)
        return HTTPResponse.json(HTTPStatus.OK, description)

    def _metrics(self, request: HTTPRequest, _: str) -> HTTPResponse:
        text, media_type = self._service.metrics.render(request.headers.get("accept", ""))
        return HTTPResponse(HTTPStatus.OK, text, {"Content-Type": media_type})


def _refuse(request: HTTPRequest, problem: ProblemError, request_id: str) -> HTTPResponse:
    """Return the response to a request that is refused: a page for people, or a document."""
    if routes.is_page_request(request):
        return render_error(problem, request_id)
    return problem.response(request_id)

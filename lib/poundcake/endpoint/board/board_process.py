"""Let another process compute the pages of the board, so that no webhook waits for a page."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import poundcake
from poundcake.config import Config
from poundcake.endpoint.board.board_service import EndpointState
from poundcake.endpoint.board.channel import Call, Channel, Failure, Result
from poundcake.endpoint.board.page_cache import BusyError
from poundcake.endpoint.board.paths import PAGE_TEMPLATES
from poundcake.endpoint.http_messages import HTTPRequest, HTTPResponse, NoBody
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.rate_limited_logger import RateLimitedLogger
from poundcake.endpoint.routes import Route

MAX_REQUESTS = 16
"""Maximum number of requests that the process answers at the same time."""

WAIT_SECONDS = 5.0
"""Maximum number of seconds for which a request waits until the process has answered others."""

ANSWER_SECONDS = 30.0
"""Seconds without a message from the process after which it counts as hung, and is replaced."""

_LIB = str(Path(poundcake.__file__).parent.parent)
_COMMAND = (sys.executable, "-m", "poundcake.endpoint.board.page_server")
_FUNCTIONS = frozenset(
    (
        "recent_health",
        "refused_webhooks",
        "waiting_candidates",
        "newest_waiting_at",
        "journal_status",
        "get_executions",
        "get_children",
    )
)


class BoardProcess:
    """A process that is started for the first page, and again when it has ended.

    Args:
        config: The configuration.
        state: What the process asks the endpoint.
        log: The logger for failures.
    """

    def __init__(self, config: Config, state: EndpointState, log: logging.Logger) -> None:
        self._config = config
        self._state = state
        self._log = RateLimitedLogger(log)
        self._lock = threading.Lock()
        self._running: _PageServer | None = None
        self._is_closed = False

    def routes(self) -> list[Route]:
        """Return the routes of all pages."""
        return [Route("GET", template, self._answer) for template in PAGE_TEMPLATES]

    def close(self) -> None:
        """Let the process end, after it has answered the requests in progress."""
        with self._lock:
            self._is_closed = True
            if self._running:
                self._running.retire()
                self._running = None

    def _answer(self, request: HTTPRequest, _: str) -> HTTPResponse:
        """Return the response of the process. It may have ended, so try again once.

        Raises:
            ProblemError: The page cannot be shown.
        """
        try:
            try:
                return self._ask(request)
            except ConnectionError:
                return self._ask(request)
        except OSError as error:
            self._log.warning(
                "the process that computes the pages of the board has failed: %s; webhooks are "
                "still accepted, and the next request for a page starts the process again",
                error,
            )
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the process that computes the pages has failed: {error}; webhooks are still "
                "accepted",
            ) from None

    def _ask(self, request: HTTPRequest) -> HTTPResponse:
        server = self._started()
        try:
            channel = server.take_channel()
        except queue.Empty:
            raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(BusyError())) from None
        try:
            reply = self._exchange(channel, request)
        except BaseException:
            # What would arrive next on the channel is unknown. This includes a connection that is
            # aborted while it waits here.
            channel.close()
            self._discard(server)
            raise
        server.give_back(channel)
        if isinstance(reply, Failure):
            raise reply.error
        response: HTTPResponse = reply.value
        return response

    def _exchange(self, channel: Channel, request: HTTPRequest) -> Result | Failure:
        """Send a request, answer the questions of the process, and return its reply."""
        channel.send(replace(request, headers=dict(request.headers), body=NoBody()))
        while True:
            message = channel.receive()
            if not isinstance(message, Call):
                reply: Result | Failure = message
                return reply
            channel.send(self._call(message))

    def _call(self, call: Call) -> Result | Failure:
        if call.function not in _FUNCTIONS:
            raise ValueError(f"the process of the board called {call.function}")
        try:
            return Result(getattr(self._state, call.function)(*call.arguments))
        except Exception as error:
            return Failure(error)

    def _started(self) -> _PageServer:
        with self._lock:
            if self._is_closed:
                raise ProblemError(
                    HTTPStatus.SERVICE_UNAVAILABLE, "the endpoint is being reconfigured"
                )
            if self._running is None:
                self._running = _PageServer(self._config)
            return self._running

    def _discard(self, server: _PageServer) -> None:
        """End a process that did not answer. The next request starts another one."""
        with self._lock:
            server.kill()
            if self._running is server:
                self._running = None


class _PageServer:
    """A running page_server, and its channels.

    Args:
        config: The configuration.

    Raises:
        OSError: The process cannot be started.
    """

    def __init__(self, config: Config) -> None:
        self._free: queue.Queue[Channel] = queue.Queue()
        self._is_retired = False
        with contextlib.ExitStack() as stack:
            theirs = []
            ours = []
            for _ in range(MAX_REQUESTS):
                our_end, their_end = socket.socketpair()
                theirs.append(stack.enter_context(their_end))
                our_end.settimeout(ANSWER_SECONDS)
                ours.append(Channel(our_end))
            numbers = [end.fileno() for end in theirs]
            self._process = subprocess.Popen(
                [*_COMMAND, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                cwd=_LIB,
                # Without StackStorm's packages, which come first in a sensor and may be too old.
                env={**os.environ, "PYTHONPATH": _LIB},
                pass_fds=numbers,
            )
        ours[0].send(config)
        for channel in ours:
            self._free.put(channel)

    def take_channel(self) -> Channel:
        """Return a channel that nobody uses, until give_back(). Raises queue.Empty."""
        return self._free.get(timeout=WAIT_SECONDS)

    def give_back(self, channel: Channel) -> None:
        """Let others use a channel."""
        if self._is_retired:
            channel.close()
        else:
            self._free.put(channel)

    def retire(self) -> None:
        """Close the channels, those in use after their requests are answered."""
        self._is_retired = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._free.get_nowait().close()

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()
        self.retire()
        # Do not wait: other green threads would wait as well. Popen reaps the process later.
        self._process.poll()

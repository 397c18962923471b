"""The process that computes the pages of the board, so that no webhook waits for a page.

The endpoint starts it when somebody asks for a page: `page_server.py FILE_DESCRIPTOR...`. Each file
descriptor is a channel on which the endpoint sends one request at a time. The process reads the
tracking database itself. It asks the endpoint for what only the endpoint knows: its health, and the
requests in its journal. The process ends when the endpoint closes its channels, and after some time
without requests.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import traceback
from datetime import datetime
from time import monotonic
from typing import Any, Mapping, Sequence

from poundcake.config import Config
from poundcake.endpoint import routes
from poundcake.endpoint.board.board_routes import BoardRoutes
from poundcake.endpoint.board.board_service import EndpointState
from poundcake.endpoint.board.channel import Call, Channel, Failure, Result
from poundcake.endpoint.problems import ProblemError
from poundcake.endpoint.request_status import JournalStatus
from poundcake.endpoint.tracking_reader import TrackingReader, open_engine
from poundcake.endpoint.trail_views import TrailViews
from poundcake.endpoint.waiting_requests import Candidates
from poundcake.errors import PoundCakeError
from poundcake.stackstorm import Execution
from poundcake.trail.search import Filters

IDLE_SECONDS = 600.0
"""Seconds without requests after which the process ends, because it uses about 70 MB of memory."""

NICENESS = 5
"""Added to the niceness of the endpoint, so that webhooks come first if the CPUs are busy.

With 5, the process still gets a third of the time that an equally busy normal process gets, so that
pages are also shown on an overloaded machine.
"""


class RemoteEndpoint:
    """The endpoint that sent the request of the current thread."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def use(self, channel: Channel) -> None:
        """Make the current thread ask the endpoint on this channel."""
        self._of_thread.channel = channel

    def recent_health(self) -> dict[str, Any]:
        """See LiveFacts."""
        health: dict[str, Any] = self._call("recent_health")
        return health

    def refused_webhooks(self) -> Mapping[str, Any]:
        """See LiveFacts."""
        report: Mapping[str, Any] = self._call("refused_webhooks")
        return report

    def waiting_candidates(self, filters: Filters, limit: int, offset: int) -> Candidates:
        """See JournalReader. Raises JournalError."""
        candidates: Candidates = self._call("waiting_candidates", filters, limit, offset)
        return candidates

    def newest_waiting_at(self) -> datetime | None:
        """See LiveFacts. Raises JournalError."""
        moment: datetime | None = self._call("newest_waiting_at")
        return moment

    def journal_status(self, request_id: str) -> JournalStatus:
        """See JournalReader. Raises FilterError."""
        status: JournalStatus = self._call("journal_status", request_id)
        return status

    def get_executions(self, ids: Sequence[str]) -> Mapping[str, Execution]:
        """See ExecutionReader. Raises StackStormError."""
        executions: Mapping[str, Execution] = self._call("get_executions", list(ids))
        return executions

    def get_children(self, execution_id: str) -> Sequence[Execution]:
        """See ExecutionReader. Raises StackStormError."""
        children: Sequence[Execution] = self._call("get_children", execution_id)
        return children

    def _call(self, function: str, *arguments: Any) -> Any:
        channel: Channel = self._of_thread.channel
        channel.send(Call(function, arguments))
        reply = channel.receive()
        if isinstance(reply, Failure):
            raise reply.error
        return reply.value


class PageService(TrailViews):
    """What the pages use: the tracking database, and the endpoint for the rest.

    Args:
        config: The configuration.
        endpoint: The endpoint.
    """

    def __init__(self, config: Config, endpoint: EndpointState) -> None:
        # The endpoint creates the tables.
        reader = TrackingReader(open_engine(config), create_tables=False)
        super().__init__(config, reader, endpoint, endpoint)
        self.recent_health = endpoint.recent_health
        self.refused_webhooks = endpoint.refused_webhooks
        self.newest_waiting_at = endpoint.newest_waiting_at


class PageServer:
    """Answers the requests that arrive on channels, until the endpoint closes all of them.

    Args:
        config: The configuration.
    """

    def __init__(self, config: Config) -> None:
        self._endpoint = RemoteEndpoint()
        self._routes = BoardRoutes(config, PageService(config, self._endpoint)).routes()
        self._last_request_at = monotonic()

    def serve(self, channel: Channel) -> None:
        """Answer the requests of one channel until the endpoint closes it."""
        self._endpoint.use(channel)
        try:
            while True:
                request = channel.receive()
                self._last_request_at = monotonic()
                channel.send(self._answer(request))
        except ConnectionError:
            return  # the endpoint has ended, or no longer uses this process
        # A bug, such as an object that cannot be sent.
        except Exception:
            traceback.print_exc()
            os._exit(1)

    def wait(self, threads: Sequence[threading.Thread]) -> None:
        """Return when the threads, which serve the channels, have ended.

        Also return after IDLE_SECONDS without requests.
        """
        while monotonic() - self._last_request_at < IDLE_SECONDS:
            for thread in threads:
                thread.join(IDLE_SECONDS / 10)
                if thread.is_alive():
                    break
            else:
                return

    def _answer(self, request: Any) -> Result | Failure:
        try:
            return Result(routes.answer(self._routes, request))
        except ConnectionError:
            raise  # the endpoint closed the channel
        except (ProblemError, PoundCakeError) as error:
            return Failure(error)
        # A bug. The endpoint logs it.
        except Exception:
            return Failure(RuntimeError(f"in the process of the board:\n{traceback.format_exc()}"))


def main() -> None:
    """Serve the channels whose file descriptors are the arguments."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the endpoint decides when it ends
    os.nice(NICENESS)
    channels = [Channel(_blocking_socket(int(number))) for number in sys.argv[1:]]
    server = PageServer(channels[0].receive())
    gc.collect()
    gc.freeze()  # see the sensor
    threads = [
        threading.Thread(target=server.serve, args=(channel,), daemon=True) for channel in channels
    ]
    for thread in threads:
        thread.start()
    server.wait(threads)


def _blocking_socket(number: int) -> socket.socket:
    """Return the socket of a file descriptor."""
    stream = socket.socket(fileno=number)
    stream.setblocking(True)  # eventlet has made the endpoint's sockets non-blocking
    return stream


if __name__ == "__main__":
    main()

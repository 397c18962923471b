"""The pages are computed in a process of their own, which may fail while webhooks go on."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path

import pytest

from poundcake.config import Config
from poundcake.endpoint.board import page_server
from poundcake.endpoint.board.board_process import MAX_REQUESTS, BoardProcess
from poundcake.endpoint.board.channel import Channel, ClosedError
from poundcake.endpoint.board.page_server import PageServer, RemoteEndpoint
from poundcake.endpoint.journal import JournalError
from poundcake.endpoint.problems import ProblemError
from poundcake.stackstorm import StackStormError
from poundcake.trail.search import FilterError, Filters
from tests.lib.endpoint.board.browser import request_for
from tests.lib.endpoint.board.recorded_service import HEALTH
from tests.lib.endpoints import Patched, Unpatched
from tests.lib.samples import alert, webhook

CLASSES = {"threads": Unpatched, "green": Patched}


@pytest.fixture(params=sorted(CLASSES))
def start_process(request, tmp_path):
    """Return a function that starts an endpoint in a process of its own."""
    endpoints = []

    def factory(settings=None, **config):
        endpoint = CLASSES[request.param](tmp_path, settings, **config).start()
        endpoints.append(endpoint)
        return endpoint.ready()

    yield factory
    for endpoint in endpoints:
        for pid in page_servers(endpoint):
            os.kill(pid, signal.SIGKILL)  # a failed test may have stopped it with SIGSTOP
        endpoint.stop()


def page_servers(endpoint):
    """Return the ids of the processes that an endpoint has started and that have not ended."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if parent_of(pid) == endpoint.process.pid and is_running(pid)]


def parent_of(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def state_of(pid):
    """Return the letter of a process's state, or Z if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def is_running(pid):
    return state_of(pid) != "Z"


def halt(pid):
    """Stop a process, and wait until it has stopped. Until then it may answer a request."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T")


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def text_of(response, status=200):
    assert response.status == status, response.body
    return response.body.decode()


def get(endpoint, path="/board/health"):
    """Load a page. The first one waits until the process has started."""
    with endpoint.client(timeout=60) as client:
        client.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        return client.read()


class TestProcess:
    def test_it_is_started_for_the_first_page_and_kept(self, start_process):
        endpoint = start_process()
        endpoint.accept(webhook())
        assert endpoint.get("/api/v1/alerts/active").status == 200
        assert page_servers(endpoint) == []
        text_of(get(endpoint))
        (pid,) = page_servers(endpoint)
        text_of(get(endpoint, "/board"))
        assert page_servers(endpoint) == [pid]

    def test_it_yields_to_the_endpoint_when_the_cpus_are_busy(self, start_process):
        endpoint = start_process()
        text_of(get(endpoint))
        (pid,) = page_servers(endpoint)
        own = os.getpriority(os.PRIO_PROCESS, endpoint.process.pid)
        assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, own + page_server.NICENESS)

    def test_another_one_is_started_when_it_was_killed(self, start_process):
        endpoint = start_process()
        text_of(get(endpoint))
        (pid,) = page_servers(endpoint)
        os.kill(pid, signal.SIGKILL)
        endpoint.accept(webhook())
        text_of(get(endpoint))
        assert page_servers(endpoint) not in ([], [pid])

    def test_webhooks_do_not_wait_for_one_that_hangs(self, start_process):
        endpoint = start_process()
        text_of(get(endpoint))
        (pid,) = page_servers(endpoint)
        halt(pid)
        with endpoint.client(timeout=60) as viewer:
            viewer.send(b"GET /board HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            for n in range(5):
                endpoint.accept(webhook(alert(labels={"instance": f"node-{n}"})))
            os.kill(pid, signal.SIGCONT)
            assert viewer.read().status == 200

    def test_one_that_hangs_for_long_is_replaced(self, start_process):
        endpoint = start_process({"endpoint.board.board_process.ANSWER_SECONDS": 10.0})
        # On a busy machine, it may take longer to start.
        wait_until(lambda: get(endpoint).status == 200)
        (pid,) = page_servers(endpoint)
        halt(pid)
        text = text_of(get(endpoint), 503)
        assert "the process that computes the pages has failed: timed out" in text
        assert "webhooks are still accepted" in text
        wait_until(lambda: not is_running(pid))
        wait_until(lambda: get(endpoint).status == 200)

    def test_one_that_cannot_start_is_said(self, start_process, tmp_path):
        folder = str(tmp_path / "missing")
        endpoint = start_process({"endpoint.board.board_process._LIB": folder})
        text = text_of(get(endpoint), 503)
        assert "the process that computes the pages has failed" in text and "missing" in text
        endpoint.accept(webhook())

    def test_it_ends_with_the_endpoint(self, start_process):
        endpoint = start_process()
        text_of(get(endpoint))
        (pid,) = page_servers(endpoint)
        endpoint.process.kill()
        wait_until(lambda: not is_running(pid))

    def test_a_new_configuration_replaces_it(self, start_process):
        endpoint = start_process({"endpoint.config_watcher.POLL_SECONDS": 0.05}, dry_run=True)
        assert "dry run" in text_of(get(endpoint, "/board")).lower()
        (pid,) = page_servers(endpoint)
        endpoint.register(dry_run=False)
        wait_until(lambda: endpoint.configuration()["in_force"]["dry_run"] is False)
        wait_until(lambda: not is_running(pid))
        # The status line is about a second old at most.
        wait_until(lambda: "dry run" not in text_of(get(endpoint, "/board")).lower())

    def test_pages_show_requests_that_wait_in_the_journal(self, start_process):
        endpoint = start_process()
        endpoint.set_broker(up=False)
        request_id = endpoint.accept(webhook(alert(labels={"instance": "node-7"})))
        for path in (
            "/board",
            f"/board/requests/{request_id}",
            f"/board/requests/{request_id[:8]}",
        ):
            assert "node-7" in text_of(get(endpoint, path)), path
        assert "No such request" in text_of(get(endpoint, "/board/requests/ffffffff"), 404)

    def test_more_viewers_than_it_answers_at_once_are_all_answered(self, start_process):
        endpoint = start_process()
        count = 3 * MAX_REQUESTS
        paths = [f"/board/episodes?alert_name=A{n}" for n in range(count)]
        with ThreadPoolExecutor(count) as viewers:
            responses = list(viewers.map(lambda path: get(endpoint, path), paths))
        # Too many people at once are asked to try again, and a page never belongs to another path.
        for n, response in enumerate(responses):
            text = text_of(response, response.status)
            if response.status != 200:
                assert "too many people" in text
            else:
                assert f'value="A{n}"' in text
        assert [response.status for response in responses].count(200) >= MAX_REQUESTS


class Endpoint:
    """An endpoint that knows nothing."""

    def recent_health(self):
        return None

    def refused_webhooks(self):
        return {"count": 3}

    def waiting_candidates(self, filters, limit, offset):
        assert filters == Filters()
        raise JournalError("the journal is away")

    def newest_waiting_at(self):
        return None

    def journal_status(self, request_id):
        raise FilterError("request_id", f"{request_id} is ambiguous")

    def get_executions(self, ids):
        return {each: each.upper() for each in ids}

    def get_children(self, execution_id):
        raise StackStormError("StackStorm is away")

    def secret(self):
        raise AssertionError("the process must not reach this")


@pytest.fixture
def board():
    board = BoardProcess(Config(), Endpoint(), logging.getLogger("board"))
    yield board
    board.close()


@pytest.fixture
def channels():
    ends = [Channel(end) for end in socket.socketpair()]
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def remote(board, channels):
    """Return the endpoint as its process sees it."""

    def answer():
        while True:
            try:
                channels[0].send(board._call(channels[0].receive()))
            except ValueError as error:
                errors.append(str(error))
                channels[0].close()
                return
            except OSError:
                return

    errors = []
    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    endpoint = RemoteEndpoint()
    endpoint.use(channels[1])
    endpoint.errors = errors
    yield endpoint
    channels[1].close()
    thread.join(10)


class TestQuestions:
    def test_results_are_returned(self, remote):
        assert remote.recent_health() is None
        assert remote.refused_webhooks() == {"count": 3}
        assert remote.newest_waiting_at() is None
        assert remote.get_executions(("a", "b")) == {"a": "A", "b": "B"}

    def test_errors_are_raised_with_what_they_say(self, remote):
        with pytest.raises(JournalError, match="^the journal is away$"):
            remote.waiting_candidates(Filters(), 1, 0)
        with pytest.raises(StackStormError, match="^StackStorm is away$"):
            remote.get_children("x")
        with pytest.raises(FilterError, match="^request_id: 8f is ambiguous$") as caught:
            remote.journal_status("8f")
        assert caught.value.field == "request_id"

    def test_nothing_else_can_be_called(self, remote):
        with pytest.raises(OSError):
            remote._call("secret")
        assert remote.errors == ["the process of the board called secret"]


def test_a_bug_in_the_process_is_logged_by_the_endpoint(board):
    """The health view is None here, which no page expects."""
    (route,) = [route for route in board.routes() if route.template == "/board/health"]
    with pytest.raises(RuntimeError, match="(?s)in the process of the board.*Traceback.*NoneType"):
        route.handler(request_for("/board/health"), "")


def test_the_process_ends_when_nobody_looks_at_the_board(monkeypatch):
    monkeypatch.setattr(page_server, "IDLE_SECONDS", 0.1)
    is_over = threading.Event()
    channel = threading.Thread(target=is_over.wait, daemon=True)
    channel.start()
    started = time.monotonic()
    PageServer(Config()).wait([channel])
    assert time.monotonic() - started < 60
    assert channel.is_alive()
    is_over.set()


def test_a_page_in_progress_is_answered_by_the_process_that_is_replaced():
    asked, may_answer = threading.Event(), threading.Event()

    class SlowEndpoint(Endpoint):
        def recent_health(self):
            asked.set()
            assert may_answer.wait(60)
            return HEALTH

    board = BoardProcess(Config(), SlowEndpoint(), logging.getLogger("board"))
    (route,) = [route for route in board.routes() if route.template == "/board/health"]
    with ThreadPoolExecutor(1) as viewer:
        page = viewer.submit(route.handler, request_for("/board/health"), "")
        try:
            assert asked.wait(60)
            process = board._running._process
            board.close()
            # The idle channels are closed now. Give the process the time to end, if it does.
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
        finally:
            may_answer.set()
        assert page.result(60).status == HTTPStatus.OK
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    "error",
    [
        FilterError("since", "is wrong"),
        ProblemError(HTTPStatus.BAD_REQUEST, "no", {"Allow": "GET"}, "limit"),
    ],
)
def test_errors_with_fields_can_be_sent(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


class TestChannel:
    def test_it_carries_large_objects(self, channels):
        text = "x" * 5_000_000
        sender = threading.Thread(target=channels[0].send, args=(text,))
        sender.start()
        assert channels[1].receive() == text
        sender.join()

    def test_a_closed_one_raises(self, channels):
        channels[0].close()
        with pytest.raises(ClosedError):
            channels[1].receive()

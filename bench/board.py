"""Measure the pages of the board on a long history, and webhooks while people look at the pages.

    python -m bench.board [--directory DIRECTORY] [--mariadb] [--large 1000000] [--viewers 50]

First, each page is computed many times in this process, without the cache that serves a page for a
second: its size, the time, the CPU time, which depends less on other work on the machine, and the
part of it that the template takes. Then an endpoint in a process patched by eventlet, as under
StackStorm, accepts webhooks, by turns alone and with viewers that refresh different pages every 15
seconds, so that other work on the machine slows down both. As in an installation, another process
records the requests, in a copy of the history. With --mariadb, nothing is recorded, so the requests
wait in the journal, and the pages search them.

The exit code is 1 if a page has 100 kB or more, if it takes 100 ms or more of CPU time (median), or
if the p99 of webhooks with viewers is more than 1.5 times the p99 without.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import multiprocessing
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Event
from typing import Any, Iterator, Mapping, NamedTuple, Sequence
from unittest import mock
from urllib.parse import quote, urlencode

from sqlalchemy import create_engine, select
from sqlalchemy.engine import Connection, make_url

from bench import history
from bench.connections import HEADERS, WEBHOOK, p99
from poundcake.config import Config, load
from poundcake.endpoint.board import page_cache, templates
from poundcake.endpoint.board.board_routes import BoardRoutes
from poundcake.endpoint.board.page_server import PageService, RemoteEndpoint
from poundcake.endpoint.http_messages import HTTPRequest, NoBody
from poundcake.endpoint.request_status import JournalStatus
from poundcake.endpoint.routes import Route, answer
from poundcake.endpoint.triggers import ANNOUNCE
from poundcake.endpoint.waiting_requests import Candidates
from poundcake.trail.schema import alerts, api_calls
from tests.lib import endpoint_process
from tests.lib.endpoint.board.recorded_service import HEALTH
from tests.lib.endpoints import Patched
from tests.lib.samples import alert, webhook

MAX_BYTES = 100_000
LIMIT_MS = 100
MAX_RATIO = 1.5
REFRESH_SECONDS = 15
# A round takes about 3 seconds, in which 50 viewers load 10 pages.
WEBHOOKS_PER_ROUND = 150
WEBHOOK_PAUSE = 0.02


def main() -> None:
    """Measure the pages, and then webhooks."""
    parser = history.argument_parser(__doc__)
    parser.add_argument("--viewers", type=int, default=50)
    parser.add_argument("--samples", type=int, default=50, help="requests of each page")
    parser.add_argument("--rounds", type=int, default=20, help="changes of the viewers' presence")
    options = parser.parse_args()
    with history.open_histories(options, [options.large]) as urls:
        url = urls[options.large]
        examples = find_examples(url, options.viewers)
        problems = measure_pages(url, examples, options.samples)
        problems += measure_webhooks(url, examples, options)
    sys.exit("; ".join(problems) or 0)


def find_examples(url: str, count: int) -> dict[str, list[str]]:
    """Return paths of each page by its route, for example those of different episodes."""
    engine = create_engine(url)
    with engine.connect() as connection:
        parameters = {
            "episode": _newest(connection, alerts.c.episode, alerts.c.id, count),
            "request_id": _newest(connection, api_calls.c.request_id, api_calls.c.id, count),
        }
        names = _newest(connection, alerts.c.alert_name, alerts.c.id, 10)
    engine.dispose()
    queries = {
        "/board/episodes": [
            "",
            *("?" + urlencode({"alert_name": name}) for name in names),
            *("?" + urlencode({"alert_name": name, "status": "firing"}) for name in names),
            "?" + urlencode({"severity": "critical", "since": "1d"}),
            "?" + urlencode({"labels": 'team="infra"'}),
        ],
        "/board/automation": ["", "?since=1d", "?since=30d"],
    }
    routes = BoardRoutes(Config(), None).routes()  # type: ignore[arg-type]  # only their templates
    examples: dict[str, list[str]] = {}
    for route in routes:
        prefix, _, parameter = route.template.rstrip("}").partition("{")
        if parameter:
            examples[route.template] = [prefix + quote(value) for value in parameters[parameter]]
        else:
            examples[route.template] = [prefix + query for query in queries.get(prefix, [""])]
    return examples


def _newest(connection: Connection, column: Any, row_id: Any, count: int) -> list[str]:
    """Return distinct values of a column, those of the newest rows first."""
    rows = connection.execute(select(column).order_by(row_id.desc()).limit(100 * count))
    return list(dict.fromkeys(value for (value,) in rows if value))[:count]


def measure_pages(url: str, examples: dict[str, list[str]], samples: int) -> list[str]:
    """Print the size and the time of each page, and return what exceeds a limit."""
    problems = []
    columns = f"{'kB':>8}{'p50':>8}{'p99':>8}{'CPU p50':>10}{'CPU p99':>10}{'template':>10}"
    print(f"{'page, milliseconds':<32}{columns}")
    with mock.patch.object(page_cache, "KEEP_SECONDS", 0.0):
        board = BoardRoutes(
            Config(), PageService(load({"database_url": url}), _NoEndpoint())
        ).routes()
    render_times = _time_calls(templates, "render")
    for route, paths in examples.items():
        for path in paths[:samples]:
            _compute(board, path)  # fills the caches of the database
        render_times.clear()
        answers = [
            _compute(board, path)
            for path in itertools.islice(itertools.cycle(paths), max(samples, len(paths)))
        ]
        size = max(answer.size for answer in answers) / 1000
        times = [answer.milliseconds for answer in answers]
        cpu_times = [answer.cpu_milliseconds for answer in answers]
        print(
            f"{route:<32}{size:>8.1f}{statistics.median(times):>8.1f}{p99(times):>8.1f}"
            f"{statistics.median(cpu_times):>10.1f}{p99(cpu_times):>10.1f}"
            f"{p99(render_times):>10.1f}",
            flush=True,
        )
        if size * 1000 >= MAX_BYTES:
            problems.append(f"{route} has {size:.0f} kB")
        if statistics.median(cpu_times) >= LIMIT_MS:
            problems.append(f"{route} takes {statistics.median(cpu_times):.0f} ms")
    return problems


@contextlib.contextmanager
def run_endpoint(url: str) -> Iterator[Patched]:
    """Run an endpoint on a history, which stays as it is."""
    history_file = make_url(url).database if url.startswith("sqlite") else None
    with tempfile.TemporaryDirectory(dir=_folder_of(history_file)) as folder:
        if history_file:
            shutil.copyfile(history_file, f"{folder}/tracking.db")
            url = f"sqlite:///{folder}/tracking.db"
        endpoint = Patched(pathlib.Path(folder), database_url=url)
        endpoint.records = False
        endpoint.start()
        recorder = multiprocessing.Process(
            target=record_announced, args=(endpoint.published_path, endpoint.config), daemon=True
        )
        if history_file:
            recorder.start()
        try:
            yield endpoint.ready()
        finally:
            if history_file:
                recorder.terminate()
                recorder.join()
            endpoint.stop()


def _folder_of(file: str | None) -> str | None:
    return str(pathlib.Path(file).parent) if file else None


def record_announced(published_path: str, config: Mapping[str, Any]) -> None:
    """Record what an endpoint announces, as the action poundcake.record does, until terminated."""
    pathlib.Path(published_path).touch()
    with open(published_path) as published:
        line = ""
        while True:
            line += published.readline()
            if line.endswith("\n"):
                trigger, payload, _ = json.loads(line)
                line = ""
                if trigger == ANNOUNCE:
                    endpoint_process.record(config, payload)
            else:
                time.sleep(0.05)


def _time_calls(module: Any, name: str) -> list[float]:
    """Return a list to which each call of a function adds its CPU milliseconds."""
    function = getattr(module, name)
    times: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.thread_time()
        try:
            return function(*args, **kwargs)
        finally:
            times.append((time.thread_time() - started) * 1000)

    setattr(module, name, timed)
    return times


class Answer(NamedTuple):
    """A page, and how long it took. The CPU time is that of this process."""

    size: int
    milliseconds: float
    cpu_milliseconds: float


class _NoEndpoint(RemoteEndpoint):
    """Answers as an endpoint in whose journal nothing waits."""

    def _call(self, function: str, *arguments: Any) -> Any:
        return {
            "recent_health": HEALTH,
            "refused_webhooks": {"count": 0, "last": None},
            "waiting_candidates": Candidates((), {}, {}, 0, 0, False),
            "newest_waiting_at": None,
            "journal_status": JournalStatus(None),
            "get_executions": {},
            "get_children": [],
        }[function]


def _compute(board: Sequence[Route], target: str) -> Answer:
    """Compute a page in this process."""
    path, _, query = target.partition("?")
    request = HTTPRequest("GET", path, query, "", {}, "127.0.0.1", "", NoBody())
    started, cpu_started = time.perf_counter(), time.process_time()
    response = answer(board, request)
    cpu_milliseconds = (time.process_time() - cpu_started) * 1000
    milliseconds = (time.perf_counter() - started) * 1000
    _check_status(target, response.status)
    return Answer(len(response.body), milliseconds, cpu_milliseconds)


def _load(port: int, path: str) -> None:
    """Load a page as a browser does."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("GET", path)
    response = client.getresponse()
    response.read()
    client.close()
    _check_status(path, response.status)


def _check_status(path: str, status: int) -> None:
    if status != http.HTTPStatus.OK:
        sys.exit(f"{path}: the response has status {status}")


def measure_webhooks(
    url: str, examples: dict[str, list[str]], options: argparse.Namespace
) -> list[str]:
    """Print the time of webhooks with and without viewers, and return what exceeds a limit."""
    paths = [path for group in itertools.zip_longest(*examples.values()) for path in group if path]
    paths = paths[: options.viewers]
    alone: list[float] = []
    with_viewers: list[float] = []
    with run_endpoint(url) as endpoint:
        is_watching, has_ended = multiprocessing.Event(), multiprocessing.Event()
        viewers = multiprocessing.Process(
            target=view, args=(endpoint.port, paths, options.viewers, is_watching, has_ended)
        )
        viewers.start()
        _load(endpoint.port, paths[0])  # starts the process that computes the pages
        post_webhooks(endpoint.port)  # the first ones take longer, because caches are empty
        try:
            for _ in range(options.rounds):
                is_watching.clear()
                time.sleep(0.5)
                alone += post_webhooks(endpoint.port)
                is_watching.set()
                with_viewers += post_webhooks(endpoint.port)
        finally:
            has_ended.set()
            viewers.join()
    if viewers.exitcode:
        sys.exit("a page was not shown")
    print(f"\n{'webhooks, milliseconds':<32}{'p50':>8}{'p99':>8}{'max':>8}")
    _report("alone", alone)
    _report(f"with {options.viewers} viewers", with_viewers)
    ratio = p99(with_viewers) / p99(alone)
    print(f"ratio of the p99: {ratio:.2f}")
    return [f"webhooks take {ratio:.2f} times as long"] if ratio > MAX_RATIO else []


def post_webhooks(port: int) -> list[float]:
    """Post webhooks at a steady pace, and return how many milliseconds each took."""
    body = json.dumps(webhook(alert())).encode()
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    milliseconds = []
    for _ in range(WEBHOOKS_PER_ROUND):
        started = time.perf_counter()
        client.request("POST", WEBHOOK, body, HEADERS)
        response = client.getresponse()
        response.read()
        seconds = time.perf_counter() - started
        milliseconds.append(seconds * 1000)
        if response.status != http.HTTPStatus.ACCEPTED:
            sys.exit(f"the response has status {response.status}, not 202")
        time.sleep(max(0.0, WEBHOOK_PAUSE - seconds))
    client.close()
    return milliseconds


def _report(label: str, times: Sequence[float]) -> None:
    print(f"{label:<32}{statistics.median(times):>8.1f}{p99(times):>8.1f}{max(times):>8.1f}")


def view(port: int, paths: Sequence[str], count: int, is_watching: Event, has_ended: Event) -> None:
    """Be the viewers, each of which refreshes one page, in a process of its own."""

    def refresh(number: int) -> None:
        next_at = time.monotonic() + REFRESH_SECONDS * number / count
        while not has_ended.is_set():
            time.sleep(max(0.0, min(0.5, next_at - time.monotonic())))
            if time.monotonic() >= next_at:
                next_at += REFRESH_SECONDS
                if is_watching.is_set():
                    _load(port, paths[number % len(paths)])

    with ThreadPoolExecutor(count) as executor:
        viewers = [executor.submit(refresh, number) for number in range(count)]
    for viewer in viewers:
        viewer.result()


if __name__ == "__main__":
    main()

"""Wild requests, a great many of them, at an endpoint in a process of its own."""

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import socket
import sys
import tempfile
import threading
import time

from tests.fuzz.wild import RequestGenerator
from tests.lib import endpoint_process
from tests.lib.endpoints import Patched, Unpatched
from tests.lib.samples import alert, webhook

KINDS = {"threads": Unpatched, "eventlet": Patched}
TOKEN = "the-token"
GROWTH = 10 << 20  # bytes
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_ANSWER = re.compile(rb"(?:\A|\n)HTTP/1\.1 (\d{3}) ")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n")
_KEEPING = 16  # requests on a connection before the one that may end it, at most
_PATIENCE = 60  # seconds for an answer; the endpoint gives up a body after 30


class Flood(threading.Thread):
    """One client. answers: {status: count}; cut: requests whose connection had ended before they
    were answered; silent: connections on which nothing came in time."""

    def __init__(self, port, requests, wild, deadline):
        super().__init__(daemon=True)
        self._port = port
        self._wanted = requests
        self._deadline = deadline
        self._wild = wild
        self._socket = None
        self.sent = 0
        self.answers = collections.Counter()
        self.cut = 0
        self.silent = 0
        self.error = None

    def run(self):
        try:
            while self.sent < self._wanted and time.monotonic() < self._deadline:
                self._batch()
        except Exception as error:  # told by whoever waits for it
            self.error = error
        finally:
            self._hang_up()

    def _batch(self):
        count = min(self._wild.random_number(_KEEPING) + 1, self._wanted - self.sent)
        requests = [self._wild.framed_request() for _ in range(count)]
        if count > 1 and self._wild.random_number(2):
            requests[-1] = self._wild.unframed_request()
        self.sent += count
        if not self._socket:
            self._socket = socket.create_connection(("127.0.0.1", self._port), _PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer, before = b"", sum(self.answers.values())
        try:
            self._socket.sendall(b"".join(request.data for request in requests))
            if requests[-1].ends:
                self._socket.shutdown(socket.SHUT_WR)
            for request in requests:
                if request.ends:
                    break
                buffer = self._answer(buffer, request.head)
            if requests[-1].ends:
                self._last(buffer)
        except socket.timeout:
            self.silent += 1
            self._hang_up()
        except (OSError, EOFError):  # ended by the endpoint
            self._hang_up()
        # One that is two to the endpoint has two answers.
        self.cut += max(0, count - (sum(self.answers.values()) - before))

    def _answer(self, buffer, head):
        """Takes one answer from what was received; returns the rest."""
        while True:
            end = buffer.find(b"\r\n\r\n")
            if end >= 0:
                break
            buffer += self._receive()
        status = _STATUS.match(buffer).group(1)
        self.answers[int(status)] += 1
        length = 0 if head else int(_LENGTH.search(buffer, 0, end + 2).group(1))
        while len(buffer) < end + 4 + length:
            buffer += self._receive()
        return buffer[end + 4 + length :]

    def _last(self, buffer):
        """Takes what there is until the endpoint ends the connection."""
        try:
            while True:
                buffer += self._receive()
        except EOFError:
            pass
        finally:
            found = [int(status) for status in _ANSWER.findall(buffer)]
            self.answers.update(status for status in found if status >= 200)
            self._hang_up()

    def _receive(self):
        chunk = self._socket.recv(1 << 18)
        if not chunk:
            raise EOFError
        return chunk

    def _hang_up(self):
        if self._socket:
            self._socket.close()
            self._socket = None


class Recorder(threading.Thread):
    """StackStorm's part, outside of the endpoint: records what is announced until it is stopped."""

    def __init__(self, endpoint):
        super().__init__(daemon=True)
        self._endpoint = endpoint
        self._stopping = threading.Event()
        self.error = None

    def run(self):
        path, line = self._endpoint.published_path, ""
        try:
            while not os.path.exists(path) and not self._stopping.wait(0.1):
                pass
            with open(path) as file:
                while not self._stopping.is_set():
                    line += file.readline()
                    if not line.endswith("\n"):
                        self._stopping.wait(0.1)
                        continue
                    trigger, payload, _ = json.loads(line)
                    line = ""
                    if trigger == "poundcake.announce":
                        endpoint_process.record(self._endpoint.config, payload)
        except Exception as error:  # told by whoever waits for it
            self.error = error

    def stop(self):
        self._stopping.set()
        self.join()


def memory(pid):
    """The resident memory of a process in bytes."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def flood(kind, requests, seed=1, clients=4, accepted=0.02, warm_up=1, minutes=600, say=print):
    """Floods an endpoint of this kind, in ten parts. Its memory may grow by GROWTH after warm_up of
    them. Returns what was wrong with it, a list of sentences; one is that minutes were not enough.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="poundcake-flood-"))
    endpoint = KINDS[kind](folder, auth_tokens=[TOKEN], backlog_limit=10_000_000, log_level="error")
    endpoint.records = False  # the memory of who does is not the endpoint's
    # Of glibc's arenas there may be eight a CPU, one for each thread, and what a request leaves
    # free in one is no use to the others: the endpoint's growth would be lost in theirs.
    endpoint.prefix = ["env", "MALLOC_ARENA_MAX=1"]
    recorder = Recorder(endpoint.start())
    recorder.start()
    try:
        endpoint.ready()
        deadline = time.monotonic() + 60 * minutes
        problems = _flood(endpoint, requests, seed, clients, accepted, warm_up, deadline, say)
    finally:
        recorder.stop()
        endpoint.stop()
    if recorder.error:
        problems.append(f"the recorder failed: {recorder.error!r}")
    with open(str(folder / "log"), errors="replace") as file:
        tracebacks = sum("Traceback" in line for line in file)
    if tracebacks:
        problems.append(f"the log has {tracebacks} tracebacks")
    if problems:
        say(f"left for a look: {folder}")
    else:
        shutil.rmtree(str(folder))
    return problems


def _flood(endpoint, requests, seed, clients, accepted, warm_up, deadline, say):
    sent = cut = silent = 0
    answers = collections.Counter()
    took, marks, problems = 0.0, [], []
    for part in range(10):
        wilds = [RequestGenerator(f"{seed}/{part}/{n}", TOKEN, accepted) for n in range(clients)]
        # What was not sent yet goes to the parts and clients that are left.
        share = (requests - sent) // (10 - part)
        shares = [share // clients + (n < share % clients) for n in range(clients)]
        floods = [Flood(endpoint.port, *one, deadline) for one in zip(shares, wilds)]
        began = time.monotonic()
        for one in floods:
            one.start()
        for one in floods:
            one.join()
        took += time.monotonic() - began
        for one in floods:
            sent, cut, silent = sent + one.sent, cut + one.cut, silent + one.silent
            answers += one.answers
            if one.error:
                problems.append(f"a client failed: {one.error!r}")
        if endpoint.alive:
            marks.append(memory(endpoint.process.pid))
        if not endpoint.alive or problems or time.monotonic() >= deadline:
            break
    if sent < requests:
        problems.append(f"{sent} of {requests} requests were sent")
    wrong = {code: count for code, count in answers.items() if code >= 500}
    if wrong:
        problems.append(f"answers that are no input's fault: {wrong}")
    if silent:
        problems.append(f"{silent} connections were left without an answer")
    growth = marks[-1] - marks[warm_up - 1] if len(marks) >= warm_up else 0
    if growth >= GROWTH:
        problems.append(f"its memory grew by {growth / (1 << 20):.1f} MB")
    if not endpoint.alive:
        problems.append("the endpoint has ended")
    else:
        last = endpoint.post(webhook(alert("Last")), Authorization="Bearer " + TOKEN)
        if last.status != 202:
            problems.append(f"a webhook after it all: {last.status}")
    for line in (
        f"{sent} requests in {took:.0f} s, {sent / took:.0f} a second, {clients} clients, seed {seed}",
        "answers: " + ", ".join("{}: {}".format(*item) for item in sorted(answers.items())),
        f"cut off by the end of their connection: {cut}",
        "memory in MB after each tenth: " + " ".join("%.1f" % (m / (1 << 20)) for m in marks),
        f"its growth: {growth / (1 << 20):.1f} MB",
    ):
        say("  " + line)
    return problems


def main():
    parser = argparse.ArgumentParser("python -m tests.fuzz.flood", description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--on", choices=sorted(KINDS), action="append", help="default: both")
    parser.add_argument("--minutes", type=float, default=60, help="each ends after so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4, help="connections at a time")
    parser.add_argument(
        "--accepted", type=float, default=0.02, help="share of those that are meant to be accepted"
    )
    options = parser.parse_args()
    failed = False
    for kind in options.on or sorted(KINDS, reverse=True):
        print(f"on {kind}:", flush=True)
        problems = flood(
            kind,
            options.requests,
            options.seed,
            options.clients,
            options.accepted,
            minutes=options.minutes,
        )
        for problem in problems:
            print("  WRONG: " + problem)
        failed = failed or bool(problems)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

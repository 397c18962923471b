"""Endpoints for tests: in this process on plain threads, or in a process patched by eventlet."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

import pytest

from poundcake.endpoint.service import Endpoint
from tests import services
from tests.forks import ForkServer
from tests.lib import endpoint_process
from tests.lib.empty_databases import create_sqlite_database

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RUNTIMES = ["threads", "green"]


def permission_enforcing_prefix():
    """Return a command prefix that makes file permissions apply, even if the tests run as root.

    Skip the test if root cannot drop the capability to ignore permissions.
    """
    if os.geteuid() != 0:
        return []
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    try:
        subprocess.run(command + ["true"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"root can write anywhere and cannot drop that capability: {error}")
    return command


class Response:
    """An HTTP response that was read from a connection."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.headers} {self.body!r}"


class Client:
    """A connection on which a test sends raw bytes and reads HTTP responses."""

    def __init__(self, port, timeout=10):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def receive(self):
        chunk = self.socket.recv(65536)
        self.buffer += chunk
        return bool(chunk)

    def closed(self):
        """Return True if the peer closes the connection without sending anything more."""
        try:
            return not self.buffer and not self.receive()
        except ConnectionError:
            return True

    def read(self, head=False):
        """Return the next response, or None at the end of the connection."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.receive():
                assert not self.buffer, self.buffer
                return None
        start, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        lines = start.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1])
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            assert name.lower() not in headers, "duplicate header: " + name
            headers[name.lower()] = value.strip()
        has_body = not head and status >= 200 and status != 304
        length = int(headers["content-length"]) if has_body else 0
        while len(self.buffer) < length:
            assert self.receive(), "the response ended early"
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Response(status, headers, body)


def message(method, path, body=None, version="1.1", **headers):
    """Return the bytes of a request. Headers whose value is None are omitted."""
    fields = {"Host": "127.0.0.1"}
    if body is not None:
        fields.update({"Content-Type": "application/json", "Content-Length": str(len(body))})
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{method} {path} HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (body or b"")


class JournalEntry(NamedTuple):
    """A request in the journal of an endpoint."""

    request_id: str
    body: bytes
    headers: str
    client_request_id: str


class BaseEndpoint:
    """The methods that all kinds of endpoint share."""

    def __init__(self, folder, settings=None, port=None, **config):
        self.folder = folder
        self.port = port or services.free_port()
        self.config = {"state_dir": str(folder / "state"), "port": self.port}
        self.config.update(config)
        self.published_path = str(folder / "published")
        self.settings = settings or {}

    def prepare_database(self):
        """Create the tracking database, unless it exists or is not in `state_dir`.

        Without this, each endpoint would run the migrations, which takes longer than most tests.
        """
        path = os.path.join(self.config["state_dir"], "tracking.sqlite")
        if "database_url" not in self.config and not os.path.exists(path):
            with contextlib.suppress(FileExistsError, NotADirectoryError):
                os.makedirs(self.config["state_dir"], mode=0o750, exist_ok=True)
                create_sqlite_database(path)

    def ready(self, journal=True):
        """Wait until the endpoint is ready or, with journal=False, says that it is not ready."""
        token = "Bearer {}".format((self.config.get("auth_tokens") or [""])[0])
        return self.wait_for_status(200 if journal else 503, Authorization=token)

    def wait_for_status(self, status, **headers):
        """Wait until the readiness check responds with this status."""
        deadline = time.monotonic() + 60
        while True:
            try:
                response = self.get("/api/v1/health/ready", **headers)
                if response and response.status == status:
                    return self
            except OSError:
                pass
            assert time.monotonic() < deadline, "not ready"
            time.sleep(0.02)

    def client(self, timeout=10):
        return Client(self.port, timeout)

    def request(self, method, path, body=None, **headers):
        with self.client() as client:
            client.send(message(method, path, body, **headers))
            return client.read(head=method == "HEAD")

    def get(self, path, **headers):
        return self.request("GET", path, **headers)

    def post(self, payload, **headers):
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return self.request("POST", "/api/v1/webhook", body, **headers)

    def accept(self, payload, **headers):
        """Post a webhook, check that it is accepted, and return its request_id."""
        response = self.post(payload, **headers)
        assert response.status == 202, response
        return response.json["request_id"]

    def register(self, **config):
        """Change keys of the registered configuration. A value of None removes the key."""
        full_config = {**self.config, **config}  # FileBus keeps the initial configuration
        self.config = {name: value for name, value in full_config.items() if value is not None}
        path = self.published_path + ".config"
        with open(path + ".new", "w") as file:
            json.dump(self.config, file)
        os.replace(path + ".new", path)  # atomic, because the endpoint can read it at any time
        return self

    def configuration(self, **headers):
        """Return the configuration that the health view shows."""
        return self.get("/api/v1/health", **headers).json["configuration"]

    def published(self):
        try:
            with open(self.published_path) as file:
                return [json.loads(line) for line in file]
        except FileNotFoundError:
            return []

    def set_broker(self, up):
        path = self.published_path + ".down"
        if up:
            os.remove(path)
        else:
            open(path, "w").close()

    def credentials(self):
        """Return the name of each request's credential in the journal, oldest first."""
        import sqlite3

        path = os.path.join(self.config["state_dir"], "journal.sqlite")
        with sqlite3.connect(path) as connection:
            rows = connection.execute("SELECT credential FROM requests ORDER BY id")
            return [row[0] for row in rows]

    def entries(self):
        """Return the requests in the journal, oldest first."""
        import sqlite3

        path = os.path.join(self.config["state_dir"], "journal.sqlite")
        with sqlite3.connect(path) as connection:
            rows = connection.execute(
                "SELECT request_id, body, headers, client_request_id FROM requests"
                " JOIN bodies USING (id) ORDER BY id"
            )
            return [JournalEntry(*row) for row in rows]

    def has_stored(self, body):
        """Return True if the journal has a request with this body.

        Tests share an endpoint, which may still store the requests of another test. So do not
        compare the number of entries.
        """
        return any(entry.body == body for entry in self.entries())


class InThreads(BaseEndpoint):
    """An endpoint in this process."""

    def start(self):
        self.prepare_database()
        self.old_settings = endpoint_process.apply_settings(self.settings)
        options = {"published": self.published_path, "config": dict(self.config)}
        self.endpoint = Endpoint(
            dict(self.config),
            endpoint_process.FileBus(self.published_path, self.config),
            lambda current_config: self.stackstorm(),
            logging.getLogger("endpoint"),
            lambda: endpoint_process.registered_config(options),
        )
        self.thread = threading.Thread(target=self.endpoint.run, daemon=True)
        self.thread.start()
        return self

    def stackstorm(self):
        """Return the StackStorm that the endpoint queries."""
        return endpoint_process.EmptyStackStorm()

    def stop(self):
        self.endpoint.stop()
        self.thread.join(10)
        endpoint_process.apply_settings(self.old_settings)

    @property
    def is_alive(self):
        return self.thread.is_alive()


def endpoint_command(options):
    """Return the command that runs an endpoint, or a server that forks endpoints."""
    return [sys.executable, endpoint_process.__file__, json.dumps(options)]


@functools.lru_cache(maxsize=None)
def fork_server(patched):
    """Return the server that forks all endpoints of this test run."""
    server = ForkServer(endpoint_command({"patched": patched, "pack": ROOT}))
    atexit.register(server.close)
    return server


class Patched(BaseEndpoint):
    """The sensor in a separate process, patched by eventlet.

    Attributes:
        patched: Whether eventlet patches the process.
        records: Whether the process records announced requests.
        prefix: The command prefix for starting the process, such as setpriv and its options.
        pack: The folder of the pack that it runs.
    """

    patched = True
    records = True
    prefix = []
    pack = ROOT

    def start(self):
        self.prepare_database()
        options = {
            "patched": self.patched,
            "config": self.config,
            "settings": self.settings,
            "published": self.published_path,
            "records": self.records,
            "pack": self.pack,
        }
        self.log = open(str(self.folder / "log"), "ab")
        if self.pack == ROOT and not self.prefix:
            self.process = self.fork(options)
        else:
            command = [*self.prefix, *endpoint_command(options)]
            self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        return self

    def fork(self, options):
        with tempfile.TemporaryFile() as options_file:
            options_file.write(json.dumps(options).encode())
            options_file.seek(0)
            return fork_server(self.patched).start(options_file, self.log)

    def stop(self):
        if self.is_alive:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    @property
    def is_alive(self):
        return self.process.poll() is None


class Unpatched(Patched):
    """The sensor in a separate process, on plain threads."""

    patched = False


ENDPOINT_CLASSES = {"threads": InThreads, "green": Patched}

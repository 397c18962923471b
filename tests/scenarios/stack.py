"""The stacks on which the scenarios run: the stand-in, or a live StackStorm with the pack.

Scenarios use both in the same way: the endpoint over HTTP, and StackStorm through its API. If the
two behave differently, the stand-in has a bug.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import requests
import sqlalchemy
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from tests import services
from tests.scenarios.notifications import unique

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
PACK = HERE / "pack"
UNLIMITED = {
    "cooldown_seconds": 0,
    "host_cooldown_seconds": 0,
    "power_cooldown_seconds": 0,
    "settle_seconds": 0,
    "storm_limit": 0,
    "max_in_flight": 0,
    "max_changes_per_hour": 0,
    "max_changes_per_remediation_per_hour": 0,
    "max_changes_per_target_per_day": 0,
    "breaker_failures": 0,
    "retry_refused_minutes": 0,
}
TERMINAL_STATUSES = ("succeeded", "failed", "timeout", "abandoned", "canceled")
PAGE_SIZE = 100


class ActionFailed(Exception):
    """An action failed. The message is the result that `st2 run` shows."""


class Stack:
    """An endpoint and the StackStorm behind it."""

    def __init__(self, url, api, headers, token="", database="", default_timeout=90):
        self.url = url.rstrip("/")
        self._api = api
        self._default_timeout = default_timeout
        self._database = database
        self._engine = None
        self.mariadb = None  # the database server, if the tests can stop it
        self.token = token
        self._st2 = create_session(headers)
        self._endpoint = create_session({"Authorization": "Bearer " + token} if token else {})

    # -- the endpoint

    def post(self, payload, headers=None, token=True):
        """Post a webhook as Alertmanager does.

        A payload of bytes is sent unchanged, and an iterator is sent in chunks.
        """
        is_raw = isinstance(payload, bytes) or hasattr(payload, "__next__")
        body = payload if is_raw else json.dumps(payload).encode()
        all_headers = {"Content-Type": "application/json"}
        all_headers.update(headers or {})
        client = self._endpoint if token else create_session({})
        return client.post(self.url + "/api/v1/webhook", data=body, headers=all_headers, timeout=30)

    def get(self, path, headers=None, token=True, **query):
        client = self._endpoint if token else create_session({})
        return client.get(
            self.url + "/api/v1" + path, params=query, headers=headers or {}, timeout=30
        )

    def send(self, payload, headers=None):
        """Post a webhook, check that it is accepted, and return its request_id."""
        response = self.post(payload, headers)
        assert response.status_code == 202, response.text
        return response.json()["request_id"]

    def get_trail(self, request_id):
        """Return the status view, read over HTTP."""
        response = self.get("/status/" + request_id)
        assert response.status_code == 200, response.text
        return response.json()

    def wait_for_trail(self, request_id, predicate, timeout=None):
        """Return the status view as soon as the predicate holds for it."""
        return self.wait_until(lambda: self.get_trail(request_id), predicate, timeout)

    def wait_until_recorded(self, request_id):
        """Return the status view once the request is recorded."""
        return self.wait_for_trail(
            request_id, lambda t: t["status"] not in ("accepted", "announced")
        )

    def wait_until_completed(self, request_id, timeout=None):
        """Return the status view once the request is completed.

        A round of sync completes the request. This method starts rounds itself, because the
        endpoint waits 5 seconds or more between rounds.
        """
        pause = 0.5
        sync_at = time.monotonic() + pause

        def fetch():
            nonlocal pause, sync_at
            if time.monotonic() > sync_at:
                self.execute("poundcake.sync")
                pause *= 2
                sync_at = time.monotonic() + pause
            return self.get_trail(request_id)

        return self.wait_until(fetch, lambda t: t["completed_at"], timeout)

    def active_alerts(self, alert_name):
        """Return the open alerts with this name."""
        response = self.get("/alerts/active", alert_name=alert_name)
        assert response.status_code == 200, response.text
        return response.json()["active_alerts"]

    # -- StackStorm

    def api(self, path, method="GET", body=None, **query):
        """Call StackStorm's API and return the JSON of the response, or None for 404."""
        response = self._st2.request(method, self._api + path, params=query, json=body, timeout=60)
        if response.status_code == 404:
            return None
        assert response.status_code < 400, f"{method} {path}: {response.text}"
        return response.json() if response.content else None

    def list_all(self, path, **query):
        """Return the items of all pages of a list."""
        items = []
        while True:
            page = self.api(path, limit=PAGE_SIZE, offset=len(items), **query)
            items += page
            if len(page) < PAGE_SIZE:
                return items

    def execute(self, ref, **parameters):
        """Run an action, wait until it has ended, and return its execution."""
        execution = self.api("/executions", "POST", {"action": ref, "parameters": parameters})
        return self.wait_until_ended(execution["id"])

    def wait_until_ended(self, execution_id, timeout=None):
        return self.wait_until(
            lambda: self.api("/executions/" + execution_id),
            lambda e: e["status"] in TERMINAL_STATUSES,
            timeout,
        )

    def run(self, ref, **parameters):
        """Run a Python action as `st2 run` does, and return its result."""
        execution = self.execute(ref, **parameters)
        result = execution["result"]
        if execution["status"] != "succeeded":
            raise ActionFailed(str(result.get("result") or result.get("error") or result))
        return result["result"]

    def silent_host(self):
        """Return a new host that never answers. Skip the test if none is known."""
        return unique("silent") + ".test"

    def work_executions(self, note):
        """Return the executions of the action `work` that have this note."""
        executions = self.list_all(
            "/executions", action="poundcake_scenarios.work", timestamp_gt=self.started_at
        )
        return [e for e in executions if e["parameters"].get("note") == note]

    def fill_runner(self, seconds):
        """Occupy all workflow slots of the action runner for some seconds.

        A chain occupies a slot until its task has ended. StackStorm has 40 slots for workflows
        (actionrunner.workflows_pool_size), and separate slots for other actions.
        """
        chain, started_at = "poundcake_scenarios.occupies", now()
        for _ in range(40):
            self.api("/executions", "POST", {"action": chain, "parameters": {"seconds": seconds}})
        filters = {"action": chain, "status": "running", "timestamp_gt": started_at}
        self.wait_until(lambda: len(self.list_all("/executions", **filters)), lambda n: n == 40)

    def traces(self, request_id):
        return self.api("/traces", trace_tag=request_id)

    def traced_execution_ids(self, request_id):
        """Return the ids of all executions that ran for a request."""
        return {
            component["object_id"]
            for trace in self.traces(request_id)
            for component in trace["action_executions"]
        }

    def registered_values(self):
        """Return the registered configuration of the pack."""
        document = self.api("/configs/poundcake", show_secrets="true") or {"values": {}}
        return document["values"]

    @contextlib.contextmanager
    def configured(self, **changed_keys):
        """Register the pack's configuration with some keys changed, and restore it at the end."""
        values = self.registered_values()
        try:
            self.api("/configs/poundcake", "PUT", {**values, **changed_keys})
        except AssertionError as error:  # the API may not be able to write the file
            if not self.is_live:
                raise
            pytest.skip(f"live: the configuration cannot be changed through the API ({error})")
        try:
            yield
        finally:
            self.api("/configs/poundcake", "PUT", values)

    @contextlib.contextmanager
    def configured_remediations(self, entries, valid_count=None, **changed_keys):
        """Register entries of `remediations`, and wait until the endpoint uses them.

        `valid_count` is the number of valid entries, if some are invalid. At the end, register
        the initial configuration again, and wait until the endpoint uses it.
        """
        initial_entries = self.registered_values().get("remediations", [])
        count = len(entries) if valid_count is None else valid_count
        with self.configured(remediations=entries, **changed_keys):
            self.wait_until(self._current_remediations, lambda shown: len(shown) == count)
            yield
        self.wait_until(self._current_remediations, lambda shown: shown == initial_entries)

    def _current_remediations(self):
        configuration = self.get("/health").json()["configuration"]
        return configuration["in_force"].get("remediations", [])

    # -- the tables

    def rows(self, statement, **values):
        """Query the tracking tables without the pack's code, and return the rows."""
        if not self._database:
            pytest.skip("the tracking database is not known (POUNDCAKE_DATABASE_URL)")
        if self._engine is None:
            self._engine = sqlalchemy.create_engine(self._database)
        with self._engine.connect() as connection:
            result = connection.execute(sqlalchemy.text(statement), values)
            return [dict(row) for row in result.mappings()]

    def write(self, statement, **values):
        """Change the tracking tables without the pack's code. Use it only on a stand-in."""
        self.rows("SELECT 1")  # opens the engine
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement), values)

    # -- the logs

    def log(self, after=None):
        """Return the logs from the start, or from a position.

        wait_until_no_longer_logged() returns such a position.
        """
        parts = [p.read_bytes()[(after or {}).get(p, 0) :] for p in self._logs()]
        return b"\n".join(parts).decode("utf-8", "replace")

    def wait_until_no_longer_logged(self, text):
        """Wait until this text is no longer logged, and return the current log position."""
        while True:
            position = {path: path.stat().st_size for path in self._logs()}
            if self.is_live and position:
                time.sleep(60)  # the notifier of a busy StackStorm can be a minute late
            if text not in self.log(position):
                return position

    def wait_until(self, fetch, predicate=bool, timeout=None):
        """Call fetch() until the predicate holds for its result, and return the result."""
        pause, deadline = 0.05, time.monotonic() + (timeout or self._default_timeout)
        while True:
            value = fetch()
            if predicate(value):
                return value
            if time.monotonic() > deadline:
                raise AssertionError(f"gave up waiting; last value: {shortened(value)}")
            time.sleep(pause)
            pause = min(pause * 1.3, 0.5)

    def close(self):
        if self._engine is not None:
            self._engine.dispose()


class Standalone(Stack):
    """The stand-in in a separate process, with poundcake and the pack of the scenarios."""

    is_live = False

    def __init__(self, folder, database, config=None, token="", config_poll=1, broker="", packs=()):
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        config_file = folder / "poundcake.yaml"
        # Without cooldowns and limits, except in the scenarios that test them, because other
        # scenarios fire an alert twice or make many changes.
        config = {**UNLIMITED, **(config or {})}
        config_file.write_text(json.dumps(config))  # JSON is YAML
        port = services.free_port()
        command = [sys.executable, "-m", "tests.standin", "--api-port", "0"]
        command += ["--port", str(port), "--state-dir", str(folder / "state")]
        command += ["--config", str(config_file)]
        for pack in (PACK, *packs):
            command += ["--pack", str(pack)]
        if broker:
            command += ["--broker", broker]
        if config_poll:
            command += ["--config-poll", str(config_poll)]
        if "database_url" not in config:
            # A file, because one scenario searches the process list for the password in the URL.
            (folder / "database_url").touch(mode=0o600)
            (folder / "database_url").write_text(database)
            command += ["--database", f"file:{folder / 'database_url'}"]
        if config.get("log_level") == "debug":
            command += ["--verbose"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ST2_")}
        environment.pop("PYTHONPATH", None)
        with open(str(self._log), "wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=str(ROOT),
                env=dict(environment, PYTHONUNBUFFERED="1"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=services.end_with_parent,  # noqa: PLW1509 - as in services
            )
        self._default_timeout = 180
        try:
            ready = self.wait_until(self._ready)
        except BaseException:
            self._stop()
            raise
        api = ready.split("API at ")[1].strip()
        super().__init__(f"http://127.0.0.1:{port}", api, {}, token, database)
        self.started_at = now()

    def _ready(self):
        assert self._process.poll() is None, "the stand-in ended:\n" + self.log()[-4000:]
        return next((s for s in self.log().splitlines() if s.startswith("ready: ")), "")

    def _logs(self):
        return [self._log]

    def _stop(self):
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def close(self):
        super().close()
        self._stop()


class Live(Stack):
    """A running StackStorm. The scenarios' pack is installed there unless it is up to date."""

    is_live = True

    def __init__(self):
        api = os.environ["ST2_API_URL"].rstrip("/")
        key, token = os.environ.get("ST2_API_KEY"), os.environ.get("ST2_AUTH_TOKEN")
        super().__init__(
            os.environ.get("POUNDCAKE_URL") or "http://127.0.0.1:8000",
            api if api.endswith("/v1") else api + "/v1",
            {"St2-Api-Key": key} if key else {"X-Auth-Token": token},
            os.environ.get("POUNDCAKE_TOKEN", ""),
            os.environ.get("POUNDCAKE_DATABASE_URL", ""),
            default_timeout=120,
        )
        tokens = os.environ.get("POUNDCAKE_USER_TOKENS", "")
        self.user_tokens = dict(item.split("=", 1) for item in tokens.split(",") if item)
        network = os.environ.get("POUNDCAKE_SILENT_NETWORK")
        self._silent_hosts = ipaddress.ip_network(network).hosts() if network else None
        self.started_at = now()
        if not self._is_installed():
            execution = self.execute("packs.install", packs=[PACK.as_uri()])
            assert execution["status"] == "succeeded" and self._is_installed(), (
                f"the pack of the scenarios, {PACK}, could not be installed from here; install it "
                f"manually: {shortened(execution['result'])}"
            )

    def api(self, path, method="GET", body=None, user="", **query):
        """Call StackStorm's API, as this user of POUNDCAKE_USER_TOKENS if one is given."""
        if not user:
            return super().api(path, method, body, **query)
        admin, self._st2 = self._st2, create_session({"X-Auth-Token": self.user_tokens[user]})
        try:
            return super().api(path, method, body, **query)
        finally:
            self._st2 = admin

    def silent_host(self):
        if self._silent_hosts is None:
            pytest.skip("live: no silent host is known there (POUNDCAKE_SILENT_NETWORK)")
        return str(next(self._silent_hosts))

    def _is_installed(self):
        """Return True if StackStorm has this repository's version of the scenarios' pack."""
        files_view = self.api("/packs/views/files/poundcake_scenarios") or []
        installed_files = {f["file_path"]: f["content"] for f in files_view}
        files = [p for p in PACK.rglob("*") if p.suffix in (".py", ".yaml")]
        return all(installed_files.get(str(p.relative_to(PACK))) == p.read_text() for p in files)

    def _logs(self):
        """Return the log files, if POUNDCAKE_LOGS names their folder."""
        folder = os.environ.get("POUNDCAKE_LOGS")
        return sorted(pathlib.Path(folder).glob("*.log")) if folder else []


def uses_live_stackstorm():
    """Return True if the environment names a live StackStorm."""
    environment = os.environ
    return bool(
        environment.get("ST2_API_URL")
        and (environment.get("ST2_API_KEY") or environment.get("ST2_AUTH_TOKEN"))
    )


def create_session(headers):
    """Return a client that ignores the proxies and the .netrc of this machine.

    It retries for some seconds if the port is closed, as during a reinstall of the pack. It never
    repeats a request that may have arrived.
    """
    client = requests.Session()
    client.trust_env = False
    retry = Retry(total=None, connect=6, read=0, redirect=0, status=0, other=0, backoff_factor=0.3)
    client.mount("http://", HTTPAdapter(max_retries=retry))
    client.mount("https://", HTTPAdapter(max_retries=retry))
    client.headers.update(headers)
    return client


def now():
    return services.now()


def shortened(value):
    text = value if isinstance(value, str) else json.dumps(value, indent=1, default=str)
    return text if len(text) < 6000 else text[:6000] + "…"

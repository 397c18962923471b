"""The target of the scenarios: the stand-in, or a live StackStorm with the pack installed.

Scenarios use both in the same way: the endpoint over HTTP, and StackStorm through its API. A
difference between the two is a bug in the stand-in.
"""

from __future__ import annotations

import contextlib
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
}
ENDED = ("succeeded", "failed", "timeout", "abandoned", "canceled")
PAGE = 100


class ActionFailed(Exception):
    """An action did not succeed. The message is what `st2 run` shows."""


class Stack:
    """An endpoint and the StackStorm behind it."""

    def __init__(self, url, api, headers, token="", database="", patience=90):
        self.url = url.rstrip("/")
        self._api = api
        self._patience = patience
        self._database = database
        self._engine = None
        self.mariadb = None  # the server, if it can be stopped and started
        self.token = token
        self._st2 = session(headers)
        self._endpoint = session({"Authorization": "Bearer " + token} if token else {})

    # -- the endpoint

    def post(self, payload, headers=None, token=True):
        """Post a webhook as Alertmanager does.

        A payload of bytes is sent unchanged, an iterator in chunks.
        """
        raw = isinstance(payload, bytes) or hasattr(payload, "__next__")
        body = payload if raw else json.dumps(payload).encode()
        sent = {"Content-Type": "application/json"}
        sent.update(headers or {})
        client = self._endpoint if token else session({})
        return client.post(self.url + "/api/v1/webhook", data=body, headers=sent, timeout=30)

    def get(self, path, headers=None, token=True, **query):
        client = self._endpoint if token else session({})
        return client.get(
            self.url + "/api/v1" + path, params=query, headers=headers or {}, timeout=30
        )

    def accepted(self, payload, headers=None):
        """Post a webhook that must be accepted, and return its request_id."""
        answer = self.post(payload, headers)
        assert answer.status_code == 202, answer.text
        return answer.json()["request_id"]

    def trail(self, request_id):
        """Return the status view over HTTP."""
        answer = self.get("/status/" + request_id)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def trail_when(self, request_id, predicate, timeout=None):
        """Return the status view as soon as the predicate holds for it."""
        return self.wait_until(lambda: self.trail(request_id), predicate, timeout)

    def recorded(self, request_id):
        """Return the status view once the request is recorded."""
        return self.trail_when(request_id, lambda t: t["status"] not in ("accepted", "announced"))

    def completed(self, request_id):
        """Return the status view once the request is completed."""
        return self.trail_when(request_id, lambda t: t["completed_at"])

    def active(self, alert_name):
        """Return the open alerts of a name."""
        answer = self.get("/alerts/active", alert_name=alert_name)
        assert answer.status_code == 200, answer.text
        return answer.json()["active_alerts"]

    # -- StackStorm

    def api(self, path, method="GET", body=None, **query):
        """Call StackStorm's API, and return its JSON, or None for 404."""
        answer = self._st2.request(method, self._api + path, params=query, json=body, timeout=60)
        if answer.status_code == 404:
            return None
        assert answer.status_code < 400, f"{method} {path}: {answer.text}"
        return answer.json() if answer.content else None

    def listed(self, path, **query):
        """Return all pages of a list."""
        items = []
        while True:
            page = self.api(path, limit=PAGE, offset=len(items), **query)
            items += page
            if len(page) < PAGE:
                return items

    def execute(self, ref, **parameters):
        """Run an action, wait for its end, and return its execution."""
        started = self.api("/executions", "POST", {"action": ref, "parameters": parameters})
        return self.ended(started["id"])

    def ended(self, execution_id):
        return self.wait_until(
            lambda: self.api("/executions/" + execution_id), lambda e: e["status"] in ENDED
        )

    def run(self, ref, **parameters):
        """Run a python action as `st2 run` does and return its result."""
        execution = self.execute(ref, **parameters)
        result = execution["result"]
        if execution["status"] != "succeeded":
            raise ActionFailed(str(result.get("result") or result.get("error") or result))
        return result["result"]

    def done(self, note, action="poundcake_scenarios.work"):
        """Return the executions of the scenarios' action with this note."""
        executions = self.listed("/executions", action=action, timestamp_gt=self.began)
        return [e for e in executions if e["parameters"].get("note") == note]

    def fill(self, seconds):
        """Occupy all workflow slots of the action runner for some seconds.

        A chain occupies a slot until its task has ended. StackStorm has 40 slots for workflows
        (actionrunner.workflows_pool_size), and others for all other actions.
        """
        chain, begun = "poundcake_scenarios.occupies", now()
        for _ in range(40):
            self.api("/executions", "POST", {"action": chain, "parameters": {"seconds": seconds}})
        of_these = {"action": chain, "status": "running", "timestamp_gt": begun}
        self.wait_until(lambda: len(self.listed("/executions", **of_these)), lambda n: n == 40)

    def traces(self, request_id):
        return self.api("/traces", trace_tag=request_id)

    def traced(self, request_id):
        """Return the ids of all executions that ran for a request."""
        return {
            component["object_id"]
            for trace in self.traces(request_id)
            for component in trace["action_executions"]
        }

    @contextlib.contextmanager
    def configured(self, **changed):
        """Register the pack's configuration with some keys changed, and restore it at the end."""
        path = "/configs/poundcake"
        values = (self.api(path, show_secrets="true") or {"values": {}})["values"]
        self.api(path, "PUT", {**values, **changed})
        try:
            yield
        finally:
            self.api(path, "PUT", values)

    # -- the tables

    def rows(self, statement, **values):
        """Return rows of the tracking tables, without the pack's code."""
        if not self._database:
            pytest.skip("the tracking database is not known (POUNDCAKE_DATABASE_URL)")
        if self._engine is None:
            self._engine = sqlalchemy.create_engine(self._database)
        with self._engine.connect() as connection:
            result = connection.execute(sqlalchemy.text(statement), values)
            return [dict(row) for row in result.mappings()]

    def write(self, statement, **values):
        """Change the tracking tables, without the pack's code. Not for a live StackStorm."""
        self.rows("SELECT 1")  # opens the engine
        with self._engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement), values)

    # -- its logs

    def log(self, after=None):
        """Return the logs, or only the part after a position that wait_until_logged() returned."""
        logged = [p.read_bytes()[(after or {}).get(p, 0) :] for p in self._logs()]
        return b"\n".join(logged).decode("utf-8", "replace")

    def wait_until_logged(self, text):
        """Wait until a text that a test caused is fully logged, and return the log position."""
        while True:
            moment = {path: path.stat().st_size for path in self._logs()}
            if self.live and moment:
                time.sleep(60)  # the notifier of a busy StackStorm can be a minute late
            if text not in self.log(moment):
                return moment

    def wait_until(self, fetch, predicate=bool, timeout=None):
        """Call fetch() until the predicate holds for its result, and return the result."""
        pause, deadline = 0.05, time.monotonic() + (timeout or self._patience)
        while True:
            seen = fetch()
            if predicate(seen):
                return seen
            if time.monotonic() > deadline:
                raise AssertionError(f"gave up waiting; last seen: {short(seen)}")
            time.sleep(pause)
            pause = min(pause * 1.3, 0.5)

    def close(self):
        if self._engine is not None:
            self._engine.dispose()


class Standalone(Stack):
    """The stand-in, in its own process, with the scenarios' pack beside poundcake."""

    live = False

    def __init__(self, folder, database, config=None, token=""):
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        config_file = folder / "poundcake.yaml"
        # No cooldowns and limits, except in the scenarios about them, because others fire an alert
        # twice or make many changes.
        config = {**UNLIMITED, **(config or {})}
        config_file.write_text(json.dumps(config))  # JSON is YAML
        port = services.free_port()
        self.command = [sys.executable, "-m", "tests.standin", "--api-port", "0"]
        self.command += ["--port", str(port), "--state-dir", str(folder / "state")]
        self.command += ["--config", str(config_file), "--pack", str(PACK)]
        if "database_url" not in config:
            # Not the URL, because one scenario searches the process list for its password.
            (folder / "database_url").write_text(database)
            self.command += ["--database", f"file:{folder / 'database_url'}"]
        if config.get("log_level") == "debug":
            self.command += ["--verbose"]
        own = {k: v for k, v in os.environ.items() if not k.startswith("ST2_")}
        own.pop("PYTHONPATH", None)
        with open(str(self._log), "wb") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=str(ROOT),
                env=dict(own, PYTHONUNBUFFERED="1"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=services.end_with_parent,  # noqa: PLW1509 - as in services
            )
        self._patience = 180
        try:
            ready = self.wait_until(self._ready)
        except BaseException:
            self._stop()
            raise
        api = ready.split("API at ")[1].strip()
        super().__init__(f"http://127.0.0.1:{port}", api, {}, token, database)
        self.began = now()

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
    """A running StackStorm. The scenarios' pack is installed there if it is missing."""

    live = True

    def __init__(self):
        api = os.environ["ST2_API_URL"].rstrip("/")
        key, token = os.environ.get("ST2_API_KEY"), os.environ.get("ST2_AUTH_TOKEN")
        super().__init__(
            os.environ.get("POUNDCAKE_URL") or "http://127.0.0.1:8000",
            api if api.endswith("/v1") else api + "/v1",
            {"St2-Api-Key": key} if key else {"X-Auth-Token": token},
            os.environ.get("POUNDCAKE_TOKEN", ""),
            os.environ.get("POUNDCAKE_DATABASE_URL", ""),
            patience=120,
        )
        self.began = now()
        if not self._installed():
            execution = self.execute("packs.install", packs=[PACK.as_uri()])
            assert execution["status"] == "succeeded" and self._installed(), (
                f"the pack of the scenarios, {PACK}, could not be installed from here; install it "
                f"by hand: {short(execution['result'])}"
            )

    def _installed(self):
        """Return True if the pack's files there are the same as here."""
        listed = self.api("/packs/views/files/poundcake_scenarios") or []
        installed = {f["file_path"]: f["content"] for f in listed}
        files = [p for p in PACK.rglob("*") if p.suffix in (".py", ".yaml")]
        return all(installed.get(str(p.relative_to(PACK))) == p.read_text() for p in files)

    def _logs(self):
        """Return the log files, if POUNDCAKE_LOGS names their folder."""
        folder = os.environ.get("POUNDCAKE_LOGS")
        return sorted(pathlib.Path(folder).glob("*.log")) if folder else []


def live():
    """Return True if the environment names a live StackStorm."""
    environment = os.environ
    return bool(
        environment.get("ST2_API_URL")
        and (environment.get("ST2_API_KEY") or environment.get("ST2_AUTH_TOKEN"))
    )


def session(headers):
    """Return a client that ignores the proxies and the .netrc of this machine.

    It waits some seconds for a closed port, as during a reinstall of the pack. It never repeats a
    request that may have arrived.
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


def short(value):
    text = value if isinstance(value, str) else json.dumps(value, indent=1, default=str)
    return text if len(text) < 6000 else text[:6000] + "…"

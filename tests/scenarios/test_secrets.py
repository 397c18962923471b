"""Secrets that the configuration references as `file:` or `env:` do not leak.

None appears in the process list, or in a log, table, metric, execution, trigger or error.
"""

from __future__ import annotations

import base64
import glob
import json
import os
import threading
import uuid

import pytest
import requests
import sqlalchemy

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification
from tests.scenarios.stack import ActionFailed

# Only a database server has a password.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[-1:], indirect=True, scope="package")

VARIABLE = "POUNDCAKE_SCENARIO_BASIC"
TABLES = (
    "poundcake_api_calls poundcake_alerts poundcake_st2_execution_link execution_db poundcake_meta"
).split()
VIEWS = ("/executions/recent", "/alerts/active", "/st2/executions", "/health", "/openapi.json")


class ProcessListScanner(threading.Thread):
    """Repeatedly searches all command lines, as `ps` shows them, for secrets."""

    def __init__(self, secrets):
        super().__init__(daemon=True)
        self._secrets = [s.encode() for s in secrets]
        self._stop_requested = threading.Event()
        self.command_lines = set()
        self.leaking_command_lines = []

    def run(self):
        while not self._stop_requested.wait(0.02):
            for path in glob.glob("/proc/[0-9]*/cmdline"):
                try:
                    with open(path, "rb") as file:
                        line = file.read()
                except OSError:
                    continue  # the process has ended
                self.command_lines.add(line)
                self.leaking_command_lines += [line for s in self._secrets if s in line]

    def stop(self):
        self._stop_requested.set()
        self.join()


def encode_credentials(basic):
    """Encode user:password as in the Authorization header."""
    return base64.b64encode(basic.encode()).decode()


def make_configuration(folder):
    """Create secrets, and a configuration that references them.

    Return three things: a function from a database's URL to the configuration, the secrets by name,
    and the credentials for basic authentication.
    """
    secrets = {name: f"hush-{name}-{uuid.uuid4().hex}" for name in ("token", "api-key")}
    basic = "on-call:hush-basic-" + uuid.uuid4().hex
    secrets.update(basic=basic.partition(":")[2], header=encode_credentials(basic))

    def reference(name, value):
        path = folder / name
        path.write_text(value + "\n")
        return f"file:{path}"

    def config(url):
        password = sqlalchemy.make_url(url).password
        if password:
            secrets["database"] = password
        return {
            "auth_tokens": [reference("token", secrets["token"])],
            "basic_auth": "env:" + VARIABLE,
            "st2_api_key": reference("api-key", secrets["api-key"]),
            "database_url": reference("database_url", url),
            "log_level": "debug",
        }

    return config, secrets, basic


@pytest.fixture(scope="module")
def exercised_stack(request, kind, tmp_path_factory):
    """Use every feature of a stack whose configuration has secrets.

    Return the stack, the secrets by name, the scanner of the process list, and all responses.
    """
    if kind == "live":
        stack = request.getfixturevalue("guarded_stack")
        secrets = {"token": stack.token}
        url = os.environ.get("POUNDCAKE_DATABASE_URL", "")
        if url and sqlalchemy.make_url(url).password:
            secrets["database"] = sqlalchemy.make_url(url).password
    else:
        config, secrets, basic = make_configuration(tmp_path_factory.mktemp("secrets"))
        os.environ[VARIABLE] = basic
        try:
            stack = request.getfixturevalue("new_stack")(config, secrets["token"])
        finally:
            del os.environ[VARIABLE]
        headers = {"Authorization": "Basic " + secrets["header"]}
        assert stack.get("/health", headers, token=False).status_code == 200
    secrets["sender"] = "hush-sender-" + uuid.uuid4().hex
    scanner = ProcessListScanner(secrets.values())
    scanner.start()
    responses = []
    try:
        _use_every_feature(stack, secrets, responses)
    finally:
        scanner.stop()
    return stack, secrets, scanner, responses


def _use_every_feature(stack, secrets, responses):
    """Call the views and actions with valid and invalid input, and collect the responses."""

    def run(ref, **parameters):
        try:
            responses.append(json.dumps(stack.run("poundcake." + ref, **parameters)))
        except ActionFailed as failure:
            responses.append(str(failure))

    def fetch(path, headers=None, token=True, **query):
        responses.append(stack.get(path, headers, token, **query).text)

    headers = {"X-Auth-Token": secrets["sender"]}
    trail = stack.wait_until_completed(stack.send(notification(alert("ScenarioLinked")), headers))
    parameters = {"request_id": trail["request_id"]}
    for credential in (
        "Bearer " + secrets["token"][:-1],
        "Basic " + encode_credentials("on-call:x"),
        "",
    ):
        fetch("/health", {"Authorization": credential}, token=False)
    responses.append(stack.post(b"{").text)
    fetch("/executions/recent", limit="x")
    fetch("/status/" + str(uuid.uuid4()))
    for ref in ("health", "stats", "executions_recent", "alerts_active", "migrate", "sync"):
        run(ref)
    run("why", alert_name=trail["alerts"][0]["alert_name"])
    run("status", **parameters)
    run("status", request_id=str(uuid.uuid4()))
    run("purge", dry_run=True)
    run("replay", **parameters)
    if stack.mariadb:
        stack.mariadb.stop()
        try:
            stack.send(notification(alert("ScenarioUnmatched")))
            fetch("/executions/recent")
            fetch("/health")
            run("status", **parameters)
            run("health")
        finally:
            stack.mariadb.start()


def check_no_secret_in(secrets, source, text):
    """Fail if the text contains one of the secrets."""
    leaked = [name for name, secret in secrets.items() if secret in text]
    assert not leaked, f"{leaked} in {source}"


def test_no_secret_is_in_the_process_list(exercised_stack):
    stack, _, scanner, _ = exercised_stack
    # The list contains the process that reads the configuration: the stand-in or, live, an action.
    expected_program = b"link.py" if stack.is_live else b"tests.standin"
    assert any(expected_program in command_line for command_line in scanner.command_lines)
    assert not scanner.leaking_command_lines, scanner.leaking_command_lines[0]


def test_no_secret_is_in_a_response(exercised_stack):
    stack, secrets, _, responses = exercised_stack
    for path in VIEWS:
        responses.append(stack.get(path).text)
    metrics = requests.get(
        stack.url + "/metrics", headers={"Authorization": "Bearer " + stack.token}, timeout=30
    )
    assert "poundcake_build_info" in metrics.text
    for text in [*responses, metrics.text]:
        check_no_secret_in(secrets, "a response: " + text[:200], text)
    if stack.mariadb:
        assert any("cannot be read now" in text for text in responses)


def test_no_secret_is_in_a_table(exercised_stack):
    stack, secrets, _, _ = exercised_stack
    for table in TABLES:
        rows = stack.rows("SELECT * FROM " + table)
        assert rows
        check_no_secret_in(secrets, table, repr(rows))


def test_no_secret_is_in_an_execution_or_a_trigger(exercised_stack):
    stack, secrets, _, _ = exercised_stack
    for path in ("/executions", "/triggerinstances"):
        items = stack.list_all(path, timestamp_gt=stack.started_at)
        assert items
        for item in items:
            check_no_secret_in(secrets, path, json.dumps(item))


def test_no_secret_is_in_the_log(exercised_stack):
    stack, secrets, _, _ = exercised_stack
    text = stack.log()
    if stack.is_live and not text:
        pytest.skip("live: POUNDCAKE_LOGS does not name the folder of StackStorm's logs")
    assert "DEBUG" in text
    check_no_secret_in(secrets, "the log", text)

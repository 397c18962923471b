"""No secret that the configuration references as `file:` or `env:` leaks.

It does not appear in the process list, a log, table, metric, execution, trigger or error.
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

# The kind of database with a password.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[-1:], indirect=True, scope="package")

VARIABLE = "POUNDCAKE_SCENARIO_BASIC"
TABLES = (
    "poundcake_api_calls poundcake_alerts poundcake_st2_execution_link execution_db poundcake_meta"
).split()
VIEWS = ("/executions/recent", "/alerts/active", "/st2/executions", "/health", "/openapi.json")


class Processes(threading.Thread):
    """Searches the process list, as shown by `ps`, for secrets repeatedly."""

    def __init__(self, secrets):
        super().__init__(daemon=True)
        self._secrets = [s.encode() for s in secrets]
        self._ended = threading.Event()
        self.seen = set()
        self.found = []

    def run(self):
        while not self._ended.wait(0.02):
            for path in glob.glob("/proc/[0-9]*/cmdline"):
                try:
                    with open(path, "rb") as file:
                        line = file.read()
                except OSError:
                    continue  # the process has ended
                self.seen.add(line)
                self.found += [line for s in self._secrets if s in line]

    def stop(self):
        self._ended.set()
        self.join()


def encoded(basic):
    """Return user:password as encoded in a header."""
    return base64.b64encode(basic.encode()).decode()


def configured(folder):
    """Return a function that returns the configuration for a database's URL, and its secrets."""
    secrets = {name: f"hush-{name}-{uuid.uuid4().hex}" for name in ("token", "api-key")}
    basic = "on-call:hush-basic-" + uuid.uuid4().hex
    secrets.update(basic=basic.partition(":")[2], header=encoded(basic))

    def reference(name, text):
        path = folder / name
        path.write_text(text + "\n")
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
    """Use a stack with secrets in every way.

    Return the stack, its secrets by name, the process lists, and all its responses.
    """
    if kind == "live":
        stack = request.getfixturevalue("guarded")
        secrets = {"token": stack.token}
        url = os.environ.get("POUNDCAKE_DATABASE_URL", "")
        if url and sqlalchemy.make_url(url).password:
            secrets["database"] = sqlalchemy.make_url(url).password
    else:
        config, secrets, basic = configured(tmp_path_factory.mktemp("secrets"))
        os.environ[VARIABLE] = basic
        try:
            stack = request.getfixturevalue("new_stack")(config, secrets["token"])
        finally:
            del os.environ[VARIABLE]
        headers = {"Authorization": "Basic " + secrets["header"]}
        assert stack.get("/health", headers, token=False).status_code == 200
    processes = Processes(secrets.values())
    processes.start()
    answers = []
    try:
        _use(stack, secrets, answers)
    finally:
        processes.stop()
    return stack, secrets, processes, answers


def _use(stack, secrets, answers):
    """Do everything that an operator can do, correctly and incorrectly."""

    def run(ref, **parameters):
        try:
            answers.append(json.dumps(stack.run("poundcake." + ref, **parameters)))
        except ActionFailed as failure:
            answers.append(str(failure))

    def fetch(path, headers=None, token=True, **query):
        answers.append(stack.get(path, headers, token, **query).text)

    trail = stack.completed(stack.accepted(notification(alert("ScenarioLinked"))))
    shown = {"request_id": trail["request_id"]}
    for wrong in ("Bearer " + secrets["token"][:-1], "Basic " + encoded("on-call:x"), ""):
        fetch("/health", {"Authorization": wrong}, token=False)
    answers.append(stack.post(b"{").text)
    fetch("/executions/recent", limit="x")
    fetch("/status/" + str(uuid.uuid4()))
    for ref in ("health", "stats", "executions_recent", "alerts_active", "migrate", "sync"):
        run(ref)
    run("why", alert_name=trail["alerts"][0]["alert_name"])
    run("status", **shown)
    run("status", request_id=str(uuid.uuid4()))
    run("purge", dry_run=True)
    run("replay", **shown)
    if stack.mariadb:
        stack.mariadb.stop()
        try:
            stack.accepted(notification(alert("ScenarioUnmatched")))
            fetch("/executions/recent")
            fetch("/health")
            run("status", **shown)
            run("health")
        finally:
            stack.mariadb.start()


def check(secrets, where, text):
    """Fail if one of the secrets is in a text."""
    leaked = [name for name, secret in secrets.items() if secret in text]
    assert not leaked, f"{leaked} in {where}"


def test_no_secret_is_in_the_process_list(exercised_stack):
    stack, _, processes, _ = exercised_stack
    # The list contains the process with the configuration: the stand-in, or an action if live.
    known = b"link.py" if stack.live else b"tests.standin"
    assert any(known in line for line in processes.seen)
    assert not processes.found, processes.found[0]


def test_no_secret_is_in_a_response(exercised_stack):
    stack, secrets, _, answers = exercised_stack
    for path in VIEWS:
        answers.append(stack.get(path).text)
    metrics = requests.get(
        stack.url + "/metrics", headers={"Authorization": "Bearer " + stack.token}, timeout=30
    )
    assert "poundcake_build_info" in metrics.text
    for text in [*answers, metrics.text]:
        check(secrets, "an answer: " + text[:200], text)
    if stack.mariadb:
        assert any("cannot be read now" in text for text in answers)


def test_no_secret_is_in_a_table(exercised_stack):
    stack, secrets, _, _ = exercised_stack
    for table in TABLES:
        rows = stack.rows("SELECT * FROM " + table)
        assert rows
        check(secrets, table, repr(rows))


def test_no_secret_is_in_an_execution_or_a_trigger(exercised_stack):
    stack, secrets, _, _ = exercised_stack
    for path in ("/executions", "/triggerinstances"):
        items = stack.listed(path, timestamp_gt=stack.began)
        assert items
        for item in items:
            check(secrets, path, json.dumps(item))


def test_no_secret_is_in_the_log(exercised_stack):
    stack, secrets, _, _ = exercised_stack
    text = stack.log()
    if stack.live and not text:
        pytest.skip("live: POUNDCAKE_LOGS does not say where StackStorm's logs are")
    assert "DEBUG" in text
    check(secrets, "the log", text)

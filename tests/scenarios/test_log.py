"""The log of the endpoint says each thing once, with what follows from it."""

from __future__ import annotations

import re
import time

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification

pytestmark = [
    pytest.mark.parametrize("kind", conftest.KINDS[-1:], indirect=True, scope="package"),
    pytest.mark.services,
]
LINE = re.compile(r" (INFO|WARNING|ERROR) SensorWrapper\S*: (.*)")
NUMBERS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+")


def read_messages(stack):
    """Return the endpoint's messages in the order of the log."""
    return [match.group(2) for match in map(LINE.search, stack.log().splitlines()) if match]


def test_an_outage_is_logged_once_however_many_requests_wait(kind, new_stack, rabbitmq):
    """RabbitMQ and the database stop while alerts arrive, are emitted and are read."""
    if kind == "live":
        pytest.skip("live: the tests do not stop the installation's servers")
    stack = new_stack(broker=rabbitmq.url)
    stack.wait_until_recorded(stack.send(notification(alert("ScenarioUnmatched"))))
    for server, name in ((rabbitmq, "broker"), (stack.mariadb, "database")):

        def state(name=name):
            return stack.get("/health").json()["components"][name]["state"]

        for _ in range(3):  # so that some of them are recorded but not emitted
            stack.send(notification(alert("ScenarioUnmatched")))
        server.stop()
        try:
            request_ids = [stack.send(notification(alert("ScenarioUnmatched"))) for _ in range(3)]
            stack.wait_until(state, lambda current: current == "down")
            time.sleep(12)  # longer than the first retries
            stack.get("/alerts/active")
        finally:
            server.start()
        stack.wait_until(state, lambda current: current == "ok")
        for request_id in request_ids:
            stack.wait_until_recorded(request_id)
    messages = read_messages(stack)
    texts = [NUMBERS.sub("N", message) for message in messages]
    assert len(texts) == len(set(texts)), "\n".join(messages)
    for name, advice in (("broker", "check RabbitMQ"), ("database", "check the database")):
        (down,) = [message for message in messages if message.startswith(f"{name}: down: ")]
        assert f"({advice}; webhooks are still accepted" in down
        assert any(message.startswith(f"{name}: works again after ") for message in messages)


def test_the_first_line_describes_the_endpoint(kind, new_stack):
    if kind == "live":
        pytest.skip("live: the log may begin later")
    stack = new_stack({"dry_run": False, "allowed_hosts": ["*"]})
    (line,) = stack.wait_until(
        lambda: [m for m in read_messages(stack) if m.startswith("poundcake ")]
    )
    assert re.fullmatch(
        r"poundcake [\d.]+: webhooks at http://127\.0\.0\.1:\d+/api/v1/webhook; credentials: none, "
        r"so only loopback names are answered; database: mysql\+pymysql://poundcake:\*\*\*@\S+; "
        r"mode: live, so remediations make changes",
        line,
    )

"""A host that does not answer is brought back; a host that answers is left alone."""

from __future__ import annotations

import pytest

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, unique

# The workflow does not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
POWER_ON = "poundcake_scenarios.power_on"
NAME = unique("ScenarioDeadHost")


@pytest.fixture
def host(test_host):
    yield test_host
    test_host.run("ip link set eth0 up")


@pytest.fixture
def power_stack(armed_stack, host):
    """Return a stack with an entry that brings the test host back if it does not answer."""
    entry = {
        "name": "dead-host",
        "match": [f"alertname={NAME}"],
        "mode": "live",
        "check": ["tcp:22"],
        "action": POWER_ON,
        "with": {"pid": host.inner_pid()},
        "host_parameter": "",
        "verify": "tcp:22",
        "wait": 60,
    }
    keys = {"allowed_actions": [POWER_ON], "settle_seconds": 0}
    with armed_stack.configured_remediations([entry], **keys):
        yield armed_stack


def remediate(stack, host):
    """Post an alert about the host, and return the ended workflow's execution."""
    labels = {"alertname": NAME, "instance": f"{host.address}:9100", "run": unique("run")}
    request_id = stack.send(notification(alert(NAME, labels=labels)))
    (execution,) = stack.wait_until_completed(request_id)["stackstorm_executions"]
    return execution


def power_actions(stack, execution):
    children = stack.api(f"/executions/{execution['st2_execution_id']}/children")
    return [child for child in children if child["action"]["ref"] == POWER_ON]


def test_a_dead_host_is_brought_back_and_the_result_verified(power_stack, host):
    """Case A37."""
    host.run("ip link set eth0 down")
    assert host.ssh("true").returncode != 0
    execution = remediate(power_stack, host)
    assert (execution["status"], execution["mutated"], execution["verified"]) == (
        "succeeded",
        True,
        True,
    )
    assert execution["message"] == f"{host.address} answers on port 22"
    assert len(power_actions(power_stack, execution)) == 1
    assert host.ssh("true").returncode == 0


def test_a_host_that_answers_is_not_power_cycled(power_stack, host):
    """Case A37."""
    execution = remediate(power_stack, host)
    assert (execution["stage"], execution["mutated"]) == ("refused", False)
    assert f"{host.address} answers on port 22" in execution["message"]
    assert power_actions(power_stack, execution) == []

"""Notifications about one alert through several Alertmanager receivers."""

from __future__ import annotations

import pytest

from tests.scenarios.notifications import alert, name_of, notification, resolved


@pytest.fixture
def stack_with_receivers(stack):
    """Return a stack on which only one receiver may start a remediation."""
    with stack.configured(receivers=["restart.team"]):
        yield stack


def test_only_a_listed_receiver_starts_a_remediation_whatever_the_order(stack_with_receivers):
    """Case A27."""
    firing_alert = alert("ScenarioLinked")

    def outcome_for(receiver, sent_alert=firing_alert):
        request_id = stack_with_receivers.send(notification(sent_alert, receiver=receiver))
        (alert_view,) = stack_with_receivers.wait_until_recorded(request_id)["alerts"]
        return alert_view["outcome"]

    assert [outcome_for("audit-team") for _ in range(2)] == ["observed"] * 2
    (incident,) = stack_with_receivers.active_alerts(name_of(firing_alert))
    assert (incident["outcome"], incident["notifications"]) == ("observed", 2)
    # Alertmanager sends the name escaped for a regular expression.
    assert outcome_for("restart\\.team") == "admitted"
    assert outcome_for("audit-team") == outcome_for("restart\\.team") == "duplicate"
    (incident,) = stack_with_receivers.active_alerts(name_of(firing_alert))
    stack_with_receivers.wait_until_completed(incident["request_id"])
    assert len(stack_with_receivers.work_executions(incident["episode"])) == 1
    assert outcome_for("audit-team", resolved(firing_alert)) == "resolved"
    assert stack_with_receivers.active_alerts(name_of(firing_alert)) == []


def test_without_a_list_any_receiver_starts_a_remediation(stack):
    """Case A27."""
    firing_alert = alert("ScenarioUnmatched")
    outcomes = []
    for receiver in ("audit-team", "restart.team"):
        request_id = stack.send(notification(firing_alert, receiver=receiver))
        outcomes.append(stack.wait_until_recorded(request_id)["alerts"][0]["outcome"])
    if stack.is_live and "observed" in outcomes:
        pytest.skip("live: receivers is set there")
    assert outcomes == ["admitted", "duplicate"]

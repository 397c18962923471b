"""Notifications of several Alertmanager receivers about one alert."""

from __future__ import annotations

import pytest

from tests.scenarios.notifications import alert, name_of, notification, resolved


@pytest.fixture(scope="module")
def restricted(kind, request):
    """Return a stack on which only one receiver may start a remediation."""
    if kind == "live":
        shared_stack = request.getfixturevalue("stack")
        config = shared_stack.api("/configs/poundcake") or {"values": {}}
        if config["values"].get("receivers") != ["restart.team"]:
            pytest.skip("live: receivers is not [restart.team] there")
        return shared_stack
    return request.getfixturevalue("new_stack")({"receivers": ["restart.team"]})


def test_only_a_listed_receiver_starts_a_remediation_in_any_order(restricted):
    """Case A27."""
    firing = alert("ScenarioLinked")

    def outcome(receiver, one=firing):
        request_id = restricted.accepted(notification(one, receiver=receiver))
        (shown,) = restricted.recorded(request_id)["alerts"]
        return shown["outcome"]

    assert [outcome("audit-team") for _ in range(2)] == ["observed"] * 2
    (active,) = restricted.active(name_of(firing))
    assert (active["outcome"], active["notifications"]) == ("observed", 2)
    # Alertmanager sends the name as a regular expression.
    assert outcome("restart\\.team") == "admitted"
    assert outcome("audit-team") == outcome("restart\\.team") == "duplicate"
    (active,) = restricted.active(name_of(firing))
    restricted.completed(active["request_id"])
    assert len(restricted.done(active["episode"])) == 1
    assert outcome("audit-team", resolved(firing)) == "resolved"
    assert restricted.active(name_of(firing)) == []


def test_without_a_list_any_receiver_starts_it(stack):
    """Case A27."""
    firing = alert("ScenarioUnmatched")
    outcomes = []
    for receiver in ("audit-team", "restart.team"):
        request_id = stack.accepted(notification(firing, receiver=receiver))
        outcomes.append(stack.recorded(request_id)["alerts"][0]["outcome"])
    if stack.live and "observed" in outcomes:
        pytest.skip("live: receivers is set there")
    assert outcomes == ["admitted", "duplicate"]

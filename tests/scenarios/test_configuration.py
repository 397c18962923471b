"""A configuration that is registered while the endpoint runs."""

from __future__ import annotations

import pytest

from tests.scenarios import conftest

# The configuration does not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
PROMISED = 30  # seconds; docs/CONFIGURATION.md
SLACK = 15  # for a busy machine
BY_HAND = (
    "by hand: change a key in /opt/stackstorm/configs/poundcake.yaml, run `st2ctl reload "
    "--register-configs`, and within 30 seconds `st2 run poundcake.health` shows it"
)


class Registered:
    """The pack's configuration in StackStorm, read and changed through the API."""

    def __init__(self, stack, values):
        self.stack, self.values = stack, values

    def change(self, **changed):
        """Register the initial configuration with some keys changed."""
        self.stack.api("/configs/poundcake", "PUT", {**self.values, **changed})

    def configuration(self, predicate):
        """Return the configuration in the health view once the predicate holds for it."""
        return self.stack.wait_until(
            lambda: self.stack.get("/health").json()["configuration"], predicate, PROMISED + SLACK
        )


@pytest.fixture
def registered(request, kind):
    """Return the configuration of a stack, and restore it afterwards."""
    if kind == "live":
        stack = request.getfixturevalue("stack")
    else:
        stack = request.getfixturevalue("new_stack")()
    document = stack.api("/configs/poundcake", show_secrets="true") or {"values": {}}
    registered = Registered(stack, document["values"])
    try:
        registered.change()
    except AssertionError as error:  # the API may not be able to write the file
        if not stack.live:
            raise
        pytest.skip(
            f"live: the configuration cannot be changed through the API ({error}); {BY_HAND}"
        )
    yield registered
    registered.change()
    registered.configuration(lambda c: not c["problem"])


def test_a_registered_change_takes_effect_within_thirty_seconds(registered):
    """Actions use it from their next execution, and health shows both."""
    stack = registered.stack
    # Only on the stand-in, because a live StackStorm may have hosts that could be changed.
    name, value = ("not_cleared_minutes", 17) if stack.live else ("dry_run", False)
    before = stack.get("/health").json()["configuration"]["in_force"][name]
    assert before != value
    registered.change(**{name: value})

    differences = stack.run("poundcake.health")["configuration"]["differences"]
    assert differences in ({}, {name: {"endpoint": before, "actions": value}})
    configuration = registered.configuration(lambda c: c["in_force"][name] == value)
    assert configuration["problem"] == ""
    assert stack.run("poundcake.health")["configuration"]["differences"] == {}
    assert stack.get("/health").json()["status"] == "ok"
    if not stack.live:
        assert stack.get("/health").json()["dry_run"] is False
        assert "allowed_hosts is empty" in stack.run("poundcake.health", format="text")


def test_a_misspelt_key_keeps_the_previous_configuration_and_is_named(registered):
    stack = registered.stack
    registered.change(allowed_host=["web-1"], not_cleared_minutes=18)
    configuration = registered.configuration(lambda c: c["problem"])
    assert "unknown key allowed_host; did you mean allowed_hosts?" in configuration["problem"]
    assert configuration["in_force"]["not_cleared_minutes"] != 18
    assert stack.get("/health").json()["status"] == "degraded"
    refused = stack.execute("poundcake.alerts_active")
    assert refused["status"] == "failed"
    assert "unknown key allowed_host" in refused["result"]["result"]
    registered.change()
    registered.configuration(lambda c: not c["problem"])
    assert stack.execute("poundcake.alerts_active")["status"] == "succeeded"

"""An operator registers a changed configuration while the endpoint runs."""

from __future__ import annotations

import pytest

from tests.scenarios import conftest

# The configuration does not depend on the kind of database, so one is enough.
pytestmark = pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package")
MAX_SECONDS = 30  # as docs/CONFIGURATION.md promises
TOLERANCE = 15  # seconds, for a busy machine
MANUAL_TEST = (
    "manual test: change a key in /opt/stackstorm/configs/poundcake.yaml, run `st2ctl reload "
    "--register-configs`, and within 30 seconds `st2 run poundcake.health` shows it"
)


class RegisteredConfiguration:
    """The registered configuration of the pack, read and changed through StackStorm's API."""

    def __init__(self, stack, values):
        self.stack, self.values = stack, values

    def change(self, **changed_keys):
        """Register the initial configuration with some keys changed."""
        self.stack.api("/configs/poundcake", "PUT", {**self.values, **changed_keys})

    def wait_for_configuration(self, predicate):
        """Return the configuration in the health view as soon as the predicate holds for it."""
        return self.stack.wait_until(
            lambda: self.stack.get("/health").json()["configuration"],
            predicate,
            MAX_SECONDS + TOLERANCE,
        )


@pytest.fixture
def registered_configuration(request, kind):
    """Return the registered configuration of a stack, and restore it afterwards."""
    if kind == "live":
        stack = request.getfixturevalue("stack")
    else:
        # The endpoint polls the configuration as often as under StackStorm.
        stack = request.getfixturevalue("new_stack")(config_poll=None)
    registered_configuration = RegisteredConfiguration(stack, stack.registered_values())
    try:
        registered_configuration.change()
    except AssertionError as error:  # the API may not be able to write the file
        if not stack.is_live:
            raise
        pytest.skip(
            f"live: the configuration cannot be changed through the API ({error}); {MANUAL_TEST}"
        )
    yield registered_configuration
    registered_configuration.change()
    registered_configuration.wait_for_configuration(lambda c: not c["problem"])


def test_a_registered_change_takes_effect_within_thirty_seconds(registered_configuration):
    """While a key is misspelt, the endpoint keeps the previous configuration and names the key.

    Actions use a change in their next execution, and health shows any difference.
    """
    stack = registered_configuration.stack
    # An earlier scenario may have restored the configuration less than 30 seconds ago.
    stack.wait_until(
        lambda: stack.run("poundcake.health")["configuration"]["differences"],
        lambda differences: not differences,
        MAX_SECONDS + TOLERANCE,
    )
    registered_configuration.change(allowed_host=["web-1"], not_cleared_minutes=18)
    configuration = registered_configuration.wait_for_configuration(lambda c: c["problem"])
    assert "unknown key allowed_host; did you mean allowed_hosts?" in configuration["problem"]
    assert configuration["in_force"]["not_cleared_minutes"] != 18
    assert stack.get("/health").json()["status"] == "degraded"
    execution = stack.execute("poundcake.alerts_active")
    assert execution["status"] == "failed"
    assert "unknown key allowed_host" in execution["result"]["result"]

    # dry_run is changed only on the stand-in, because a live StackStorm could then change hosts.
    name, value = ("not_cleared_minutes", 17) if stack.is_live else ("dry_run", False)
    initial_value = configuration["in_force"][name]
    assert initial_value != value
    registered_configuration.change(**{name: value})
    assert stack.execute("poundcake.alerts_active")["status"] == "succeeded"
    differences = stack.run("poundcake.health")["configuration"]["differences"]
    assert differences in ({}, {name: {"endpoint": initial_value, "actions": value}})
    configuration = registered_configuration.wait_for_configuration(
        lambda c: c["in_force"][name] == value
    )
    assert configuration["problem"] == ""
    assert stack.run("poundcake.health")["configuration"]["differences"] == {}
    assert stack.get("/health").json()["status"] == "ok"
    if not stack.is_live:
        assert stack.get("/health").json()["dry_run"] is False
        assert "allowed_hosts is empty" in stack.run("poundcake.health", format="text")

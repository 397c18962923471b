"""The watcher detects changes to the configuration, and no error stops it."""

from __future__ import annotations

import threading

import pytest

from poundcake.endpoint import config_watcher
from poundcake.endpoint.config_watcher import ConfigWatcher
from tests.waiting import wait_for


@pytest.fixture
def watcher(monkeypatch):
    """Return a running watcher, which reads `watcher.registered`: a configuration or an error."""
    monkeypatch.setattr(config_watcher, "POLL_SECONDS", 0.01)
    polled = threading.Event()

    def read():
        if isinstance(running_watcher.registered, Exception):
            raise running_watcher.registered
        return running_watcher.registered

    running_watcher = ConfigWatcher({"port": 1}, read, polled.set)
    running_watcher.registered = {"port": 1}
    running_watcher.polled = polled
    running_watcher.start()
    yield running_watcher
    running_watcher.stop()


def test_a_changed_configuration_is_read_and_each_poll_is_consumed_once(watcher):
    watcher.registered = {"port": 2}
    wait_for(lambda: watcher.latest == {"port": 2})
    assert watcher.polled.wait(10)
    watcher.stop()
    wait_for(lambda: not watcher.consume_poll())
    assert watcher.problem == ""


@pytest.mark.parametrize(
    "error, expected_reason",
    [
        (RuntimeError("no key x\nat line 1"), "no key x"),
        (ValueError(), "ValueError"),
        (KeyError("x" * 1000), "'" + "x" * 299),
    ],
)
def test_an_unreadable_configuration_keeps_the_previous_one(watcher, error, expected_reason):
    watcher.registered = error
    wait_for(lambda: watcher.problem)
    assert watcher.problem == f"the registered configuration cannot be read: {expected_reason}"
    assert watcher.latest == {"port": 1}
    watcher.registered = {"port": 3}
    wait_for(lambda: watcher.latest == {"port": 3})
    assert watcher.problem == ""


def test_the_initial_configuration_is_kept_without_stackstorm(watcher):
    watcher.registered = ImportError("st2common.util.config_loader")
    watcher.polled.clear()
    assert watcher.polled.wait(10)
    assert (watcher.latest, watcher.problem) == ({"port": 1}, "")

"""Running endpoints for the tests of the HTTP side, each on plain threads and under eventlet."""

from __future__ import annotations

import pytest

from tests.lib.endpoints import KINDS, WAYS


@pytest.fixture(scope="session", params=WAYS)
def endpoint(request, tmp_path_factory):
    """Return a shared endpoint without credentials, which no test stops."""
    folder = tmp_path_factory.mktemp(f"open-{request.param}")
    running = KINDS[request.param](folder).start().ready()
    yield running
    running.stop()


@pytest.fixture(scope="session", params=WAYS)
def guarded(request, tmp_path_factory):
    """Return a shared endpoint that requires a token, which no test stops."""
    folder = tmp_path_factory.mktemp(f"guarded-{request.param}")
    config = {"auth_tokens": ["the-old-token-01", "the-new-token-01"]}
    running = KINDS[request.param](folder, **config).start().ready()
    yield running
    running.stop()


@pytest.fixture(params=WAYS)
def make(request, tmp_path):
    """Return a function that starts an endpoint with a given configuration."""
    started = []

    def factory(settings=None, **config):
        running = KINDS[request.param](tmp_path, settings, **config).start()
        started.append(running)
        return running.ready()

    yield factory
    for running in started:
        running.stop()

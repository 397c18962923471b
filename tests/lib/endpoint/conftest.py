"""Provide running endpoints to the HTTP tests, on plain threads and under eventlet."""

from __future__ import annotations

import pytest

from tests.lib.endpoints import ENDPOINT_CLASSES, RUNTIMES


@pytest.fixture(scope="session", params=RUNTIMES)
def endpoint(request, tmp_path_factory):
    """Return a shared endpoint without credentials. Tests must not stop it."""
    folder = tmp_path_factory.mktemp(f"no-credentials-{request.param}")
    new_endpoint = ENDPOINT_CLASSES[request.param](folder).start().ready()
    yield new_endpoint
    new_endpoint.stop()


@pytest.fixture(scope="session", params=RUNTIMES)
def guarded_endpoint(request, tmp_path_factory):
    """Return a shared endpoint that requires a token. Tests must not stop it."""
    folder = tmp_path_factory.mktemp(f"guarded-{request.param}")
    config = {"auth_tokens": ["the-old-token-01", "the-new-token-01"]}
    new_endpoint = ENDPOINT_CLASSES[request.param](folder, **config).start().ready()
    yield new_endpoint
    new_endpoint.stop()


@pytest.fixture(params=RUNTIMES)
def start_endpoint(request, tmp_path):
    """Return a function that starts an endpoint and waits until it is ready."""
    endpoints = []

    def factory(settings=None, **config):
        new_endpoint = ENDPOINT_CLASSES[request.param](tmp_path, settings, **config).start()
        endpoints.append(new_endpoint)
        return new_endpoint.ready()

    yield factory
    for new_endpoint in endpoints:
        new_endpoint.stop()

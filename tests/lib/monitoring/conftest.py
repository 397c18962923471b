"""A server that answers as a test says."""

from __future__ import annotations

import pytest

from tests.lib.monitoring.servers import FakeServer


@pytest.fixture
def fake():
    server = FakeServer()
    yield server
    server.close()

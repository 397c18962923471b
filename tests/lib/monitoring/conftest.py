"""Provide a fake server whose responses a test defines."""

from __future__ import annotations

import pytest

from tests.lib.monitoring.servers import FakeServer


@pytest.fixture
def fake_server():
    server = FakeServer()
    yield server
    server.close()

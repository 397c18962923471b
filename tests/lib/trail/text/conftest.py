"""Provide the states that people on call meet."""

from __future__ import annotations

import pytest

from poundcake import alertmanager
from tests.lib.samples import _fingerprint
from tests.lib.trail.text.on_call_states import World


@pytest.fixture
def world(engine, monkeypatch):
    """Return a world with real fingerprints, and whose clock stands still."""
    monkeypatch.setattr(alertmanager, "fingerprint", _fingerprint)
    new_world = World(engine)
    with new_world.stopped_clock():
        yield new_world

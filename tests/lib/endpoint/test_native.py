"""Native threads that compute do not delay the green threads for long."""

from __future__ import annotations

import sys

import pytest

from poundcake.endpoint import native


@pytest.fixture
def switch_interval():
    previous = sys.getswitchinterval()
    yield previous
    sys.setswitchinterval(previous)


@pytest.mark.parametrize("is_patched", [True, False])
def test_only_a_process_with_green_threads_switches_more_often(
    monkeypatch, switch_interval, is_patched
):
    monkeypatch.setattr(native, "is_eventlet_patched", lambda: is_patched)
    native.shorten_switches()
    expected = native.SWITCH_SECONDS if is_patched else switch_interval
    assert sys.getswitchinterval() == pytest.approx(expected)

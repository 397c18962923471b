"""What all actions have in common: their results and their errors are inert, and one line."""

import importlib.util
import os
import sys

import pytest

from poundcake.errors import PoundCakeError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOSTILE = "{{ st2kv.system.x }} <% ctx() %>"
INERT = "{ {  st2kv.system.x }} < % ctx() %>"


@pytest.fixture
def run(monkeypatch):
    """run(work, **config): what an action with this work returns."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    if importlib.util.find_spec("st2common") is None:
        sys.path.append(os.path.join(ROOT, "standalone", "st2"))
    path = os.path.join(ROOT, "actions", "pack_action.py")
    spec = importlib.util.spec_from_file_location("pack_action", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(work, **config):
        kind = type("Asked", (module.PackAction,), {"work": work})
        return kind(config).run()

    return run


def test_a_result_is_inert(run):
    found = run(lambda self: {HOSTILE: [HOSTILE, 1, None]})
    assert found == (True, {INERT: [INERT, 1, None]})


def test_a_refusal_is_inert(run):
    def work(self):
        raise PoundCakeError(HOSTILE)

    assert run(work) == (False, INERT)


def test_a_crash_is_a_line_that_is_inert(run):
    def work(self):
        raise RuntimeError(HOSTILE + "x" * 1000)

    succeeded, said = run(work)
    assert not succeeded
    assert said.startswith("RuntimeError: " + INERT) and len(said) < 400


def test_a_configuration_that_cannot_be_used_is_a_refusal(run):
    assert run(lambda self: None, port="x") == (False, "port: a whole number is expected")

"""The base class of the pack's actions makes results and errors inert."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from poundcake.errors import PoundCakeError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HOSTILE = "{{ st2kv.system.x }} <% ctx() %>"
INERT = "(( st2kv.system.x )) ‹% ctx() %›"


@pytest.fixture
def run_action(monkeypatch):
    """Return a function that runs an action, given its `work` method and configuration."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    if importlib.util.find_spec("st2common") is None:
        sys.path.append(os.path.join(ROOT, "standalone", "st2"))
    path = os.path.join(ROOT, "actions", "pack_action.py")
    spec = importlib.util.spec_from_file_location("pack_action", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run_action(work, config=None, **attributes):
        action_class = type("Example", (module.PackAction,), {"work": work, **attributes})
        return action_class(config or {}).run()

    return run_action


def test_a_result_is_inert(run_action):
    result = run_action(lambda self: {HOSTILE: [HOSTILE, 1, None]})
    assert result == (True, {INERT: [INERT, 1, None]})


def test_a_string_result_keeps_its_lines_and_is_inert(run_action):
    assert run_action(lambda self: f"one\n{HOSTILE}") == (True, f"one\n{INERT}")


def test_an_error_is_inert(run_action):
    def work(self):
        raise PoundCakeError(HOSTILE)

    assert run_action(work) == (False, INERT)


def test_a_crash_is_reported_in_one_inert_line_without_a_traceback(run_action):
    def work(self):
        raise RuntimeError(HOSTILE + "x" * 1000)

    succeeded, message = run_action(work)
    assert not succeeded
    assert message.startswith("RuntimeError: " + INERT) and len(message) < 400


def test_an_unusable_configuration_is_an_error(run_action):
    assert run_action(lambda self: None, {"port": "x"}) == (
        False,
        "port: must be a whole number from 1 to 65535",
    )


def test_only_actions_that_query_the_endpoint_need_its_credentials(run_action):
    config = {"auth_tokens": ["file:/no/such/file"]}
    assert run_action(lambda self: "done", config) == (True, "done")
    succeeded, message = run_action(lambda self: "done", config, unneeded_keys=())
    assert not succeeded and message.startswith("auth_tokens: cannot read /no/such/file")


def test_an_action_opens_the_tracking_database_once(run_action):
    assert run_action(lambda self: self.engine() is self.engine()) == (True, True)


def test_the_process_of_an_action_does_not_collect_garbage_when_it_ends():
    # Functions that were registered earlier run later, when pack_action has frozen all objects.
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count() > 0)); "
        "import pack_action"
    )
    paths = [os.path.join(ROOT, *parts) for parts in (["actions"], ["lib"], ["standalone", "st2"])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    printed = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=True
    ).stdout
    assert printed.strip() == b"True"

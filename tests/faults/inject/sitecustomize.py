"""Inject faults into the Python processes of the suite, which have this folder on PYTHONPATH.

Python loads this file at the start of each process. The hooks here kill the process at a named
failpoint, so that the product needs no code for that. FAULTS_DIR is a folder that contains:

    settings.json    {module: {constant: value}}, set when the module is loaded
    armed/FAILPOINT  the next process that reaches the failpoint moves the file to hit/ and
                     kills itself with SIGKILL
    while/NAME       a flag, which is set while the file exists and whose value is its content
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from datetime import timedelta

_DIR = os.environ.get("FAULTS_DIR", "")


def kill_if_armed(failpoint):
    """Kill this process if the failpoint is armed."""
    try:
        os.rename(os.path.join(_DIR, "armed", failpoint), os.path.join(_DIR, "hit", failpoint))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def read_flag(name):
    """Return the content of a flag's file, or None if the flag is not set."""
    try:
        with open(os.path.join(_DIR, "while", name)) as file:
            return file.read()
    except FileNotFoundError:
        return None


def wrap(owner, name, before=None, after=None):
    """Run a failpoint, or a callable, before and after a function that must exist."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if before:
            before(*args, **kwargs) if callable(before) else kill_if_armed(before)
        result = function(*args, **kwargs)
        if after:
            after(*args, **kwargs) if callable(after) else kill_if_armed(after)
        return result

    setattr(owner, name, wrapper)


def hook_group_commit(module):
    wrap(module.GroupCommit, "_commit", "before commit", "committed")


def hook_journal(module):
    wrap(module.Journal, "mark_announced", "confirmed", "marked announced")
    wrap(module.Journal, "mark_recorded", "recorded", "marked recorded")
    wrap(module.Journal, "mark_emitted", "emitted", "marked emitted")
    wrap(module.Journal, "mark_done", "explained", "marked done")


# (trigger, trace tag) of the current or last publish; the bus publishes one message at a time.
_published = ["", ""]


def hook_bus(module):
    def kill_before_publish(bus, trigger, payload, trace_tag):
        if trigger == "poundcake.alert" and _published == [trigger, trace_tag]:
            kill_if_armed("between two alerts")
        _published[:] = trigger, trace_tag
        kill_if_armed("before " + trigger)

    wrap(module.Bus, "publish", kill_before_publish)


def hook_amqp(module):
    wrap(
        module.Channel,
        "_basic_publish",
        after=lambda *_, **__: kill_if_armed("sent " + _published[0]),
    )


def hook_record(module):
    def fail_if_poisoned(connection, config, requests, make_state, replay_of, error=""):
        marker = read_flag("poison")
        if error or not marker or not any(marker in request.body for request in requests):
            return
        if read_flag("poison kills") is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("poison")

    wrap(module, "_record_list", before=fail_if_poisoned)
    wrap(module, "record_safely", after="record before commit")
    wrap(module, "_record_all", after="record committed")


def hook_claims(module):
    def delay_if_flagged(*_):
        if read_flag("slow link") is not None:
            time.sleep(0.5)

    wrap(module, "add_execution", before=delay_if_flagged)
    wrap(module, "_link", after="link before commit")
    wrap(module, "link", after="link committed")


def hook_sync(module):
    wrap(module, "explain_alerts", after="sync explained")
    wrap(module, "complete_requests", after="sync before commit")
    wrap(module, "sync", after="sync committed")


def hook_broker(module):
    # The message is already acknowledged when _receive() returns.
    wrap(
        module.TriggerConsumer,
        "_receive",
        after=lambda _, body, message: kill_if_armed("took " + body["trigger"]),
    )


def hook_executor(module):
    def kill_before_start(executor, execution_id):
        execution = executor.store.executions.get(execution_id)
        kill_if_armed("starting " + execution["action"]["ref"])

    wrap(module.Executor, "_run", before=kill_before_start)


HOOKS = {
    "poundcake.endpoint.group_commit": hook_group_commit,
    "poundcake.endpoint.journal": hook_journal,
    "poundcake.endpoint.bus": hook_bus,
    "amqp.channel": hook_amqp,
    "poundcake.trail.record": hook_record,
    "poundcake.trail.claims": hook_claims,
    "poundcake.trail.sync": hook_sync,
    "standalone.broker": hook_broker,
    "standalone.executor": hook_executor,
}


class Loader(importlib.abc.Loader):
    """Load a module with its own loader, then apply its settings and hooks."""

    def __init__(self, loader, settings):
        self._loader, self._settings = loader, settings

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        for name, value in self._settings.items():
            if isinstance(getattr(module, name), timedelta):
                setattr(module, name, timedelta(seconds=value))
            else:
                setattr(module, name, value)
        HOOKS.get(module.__name__, lambda module: None)(module)


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, settings):
        self._settings = settings

    def find_spec(self, name, path=None, target=None):
        if name not in HOOKS and name not in self._settings:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            spec.loader = Loader(spec.loader, self._settings.get(name, {}))
        return spec


if _DIR:
    with open(os.path.join(_DIR, "settings.json")) as file:
        sys.meta_path.insert(0, Finder(json.load(file)))

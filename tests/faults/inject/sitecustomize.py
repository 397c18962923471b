"""What every Python process of the suite loads at its start, for this folder is on PYTHONPATH.

It makes a process end at a named station while the product's code stays as it is. FAULTS_DIR is
a folder with

    settings.json   {module: {constant: value}}, set when the module is loaded
    armed/STATION   the next process that comes to the station takes the file away, to hit/, and
                    ends by SIGKILL
    while/NAME      what lasts as long as the file is there: see below
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


def die(station):
    """Ends the process where the station is armed."""
    try:
        os.rename(os.path.join(_DIR, "armed", station), os.path.join(_DIR, "hit", station))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def lasting(name):
    """What the file while/NAME says; None where it is not there."""
    try:
        with open(os.path.join(_DIR, "while", name)) as file:
            return file.read()
    except FileNotFoundError:
        return None


def around(owner, name, before=None, after=None):
    """Has the stations before and after a function, which has to be there."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        if before:
            before(*args, **kwargs) if callable(before) else die(before)
        result = function(*args, **kwargs)
        if after:
            after(*args, **kwargs) if callable(after) else die(after)
        return result

    setattr(owner, name, wrapper)


def group_commit(module):
    around(module.GroupCommit, "_commit", "before commit", "committed")


def journal(module):
    around(module.Journal, "mark_announced", "confirmed", "marked announced")
    around(module.Journal, "mark_recorded", "recorded", "marked recorded")
    around(module.Journal, "mark_emitted", "emitted", "marked emitted")
    around(module.Journal, "mark_done", "explained", "marked done")


# (trigger, trace tag) of what is or was published; there is one publish at a time.
_published = ["", ""]


def bus(module):
    def before(bus, trigger, payload, trace_tag):
        if trigger == "poundcake.alert" and _published == [trigger, trace_tag]:
            die("between two alerts")
        _published[:] = trigger, trace_tag
        die("before " + trigger)

    around(module.Bus, "publish", before)


def amqp(module):
    around(module.Channel, "_basic_publish", after=lambda *_, **__: die("sent " + _published[0]))


def record(module):
    def poisoned(connection, config, requests, make_state, replay_of, error=""):
        marker = lasting("poison")
        if error or not marker or not any(marker in request.body for request in requests):
            return
        if lasting("poison kills") is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("poison")

    around(module, "_record_list", before=poisoned)
    around(module, "record_safely", after="record before commit")
    around(module, "_record_all", after="record committed")


def claims(module):
    def slow(*_):
        if lasting("slow link") is not None:
            time.sleep(0.5)

    around(module, "add_execution", before=slow)
    around(module, "_link", after="link before commit")
    around(module, "link", after="link committed")


def sync(module):
    around(module, "explain_alerts", after="sync explained")
    around(module, "complete_requests", after="sync before commit")
    around(module, "sync", after="sync committed")


def broker(module):
    # The message is acknowledged by then.
    around(module.TriggerConsumer, "_take", after=lambda _, body, m: die("took " + body["trigger"]))


def executor(module):
    def before(executor, execution_id):
        execution = executor.store.executions.get(execution_id)
        die("starting " + execution["action"]["ref"])

    around(module.Executor, "_run", before=before)


HOOKS = {
    "poundcake.endpoint.group_commit": group_commit,
    "poundcake.endpoint.journal": journal,
    "poundcake.endpoint.bus": bus,
    "amqp.channel": amqp,
    "poundcake.trail.record": record,
    "poundcake.trail.claims": claims,
    "poundcake.trail.sync": sync,
    "standalone.broker": broker,
    "standalone.executor": executor,
}


class Loader(importlib.abc.Loader):
    """Loads a module as its own loader does, then changes it."""

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

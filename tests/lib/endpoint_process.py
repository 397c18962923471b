"""Run the endpoint in a separate process, as StackStorm does: `endpoint_process.py OPTIONS`.

OPTIONS is a JSON object with these keys:

    patched    whether to patch the process before any other import, as StackStorm's sensor wrapper
               does
    pack       the folder of the pack
    config     the configuration of the pack
    settings   constants to change, such as {"endpoint.http_connection.HEADER_TIMEOUT": 0.5}
    published  the file to which triggers are written; the broker is down while a file with this
               name and the suffix .down exists
    records    whether this process records the announced requests

With only `patched` and `pack`, the process is a server that forks an endpoint whenever a ForkServer
asks for one. Each such request passes two files: the first contains all options, and the second is
the log.
"""

from __future__ import annotations

import json
import os
import sys

if __name__ == "__main__":
    OPTIONS = json.loads(sys.argv[1])
    if OPTIONS["patched"]:
        import eventlet

        eventlet.monkey_patch(os=True, select=True, socket=True, thread=True, time=True)
    ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    sys.path[:1] = [ROOT, os.path.join(OPTIONS["pack"], "lib")]
    sys.path.append(os.path.join(ROOT, "standalone", "st2"))

import gc
import importlib
import logging

from poundcake import announcement
from poundcake.config import load
from poundcake.endpoint.bus import BusError
from poundcake.trail import database
from poundcake.trail.record import record_requests
from tests import forks

# Modules that each endpoint would otherwise import after the fork.
LIBRARIES = (
    "alembic.command",
    "poundcake.endpoint.service",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.sqlite",
)


class FileBus:
    """A broker that appends messages to a file. This process or the test records the requests."""

    def __init__(self, path, config, records=True):
        self.path = path
        self.config = config
        self.records = records

    def check(self):
        if os.path.exists(self.path + ".down"):
            raise BusError("the broker is down")

    def publish(self, trigger, payload, trace_tag):
        self.check()
        with open(self.path, "a") as file:
            file.write(json.dumps([trigger, payload, trace_tag]) + "\n")
        if trigger == "poundcake.announce" and self.records:
            record(self.config, payload)

    def close(self):
        pass


def record(config, payload):
    """Write announced requests to the tracking database."""
    validated = load(config)
    engine = database.open_engine(validated.tracking_url)
    requests = announcement.unpack(payload["version"], payload["batch"])
    record_requests(
        engine, validated, requests, payload["database_id"], payload["clock_offset_seconds"]
    )
    engine.dispose()


class EmptyStackStorm:
    """A StackStorm without executions, rules or actions."""

    def get_executions(self, ids):
        return {}

    def find_rule_problem(self, rule, action):
        return ""

    def find_last_failure(self, action, since):
        return ""

    def describe_stuck_execution(self, action, since):
        return ""


class Service:
    """The service object that StackStorm passes to a sensor."""

    def get_logger(self, name):
        return logging.getLogger(name)


def registered_config(options):
    """Return the configuration that the test registered last, or the initial one."""
    try:
        with open(options["published"] + ".config") as file:
            return json.load(file)
    except FileNotFoundError:
        return options["config"]


def apply_settings(settings):
    """Set constants of modules, and return their previous values."""
    old_values = {}
    for name, value in settings.items():
        module, _, attribute = name.rpartition(".")
        module = importlib.import_module("poundcake." + module)
        old_values[name] = getattr(module, attribute)
        setattr(module, attribute, value)
    return old_values


def serve_forks():
    """Load the endpoint's modules and templates, and fork on each request.

    Returns:
        The options, in each fork.
    """
    for name in LIBRARIES:
        importlib.import_module(name)
    importlib.import_module("poundcake.endpoint.board.templates").load_templates()
    gc.freeze()  # a garbage collection would copy the memory that the forks share
    options_file, log = forks.serve()
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    with open(options_file) as file:
        return json.load(file)


def main(options):
    """Run the sensor as StackStorm's container does: setup(), run(), and cleanup() at the end."""
    import runpy

    from poundcake import stackstorm
    from poundcake.endpoint import bus

    logging.basicConfig(stream=sys.stderr, level="DEBUG")
    apply_settings(options["settings"])
    bus.Bus = lambda: FileBus(options["published"], options["config"], options["records"])
    bus.registered_config = lambda: registered_config(options)
    stackstorm.client_for_sensor = lambda config, service: EmptyStackStorm()
    path = os.path.join(options["pack"], "sensors", "alertmanager_sensor.py")
    sensor = runpy.run_path(path)["AlertmanagerSensor"](Service(), options["config"])
    sensor.setup()
    try:
        sensor.run()
    finally:
        sensor.cleanup()


if __name__ == "__main__":
    forks.run_and_exit(main, OPTIONS if "config" in OPTIONS else serve_forks())

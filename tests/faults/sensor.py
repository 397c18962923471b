"""The pack's sensor in a process of its own, as StackStorm's sensor container runs it.

    python sensor.py OPTIONS

OPTIONS is JSON: `config` (the pack's), `api` (the address of StackStorm's API) and `patched`
(whether the process is patched as StackStorm's sensor wrapper does it, before anything is loaded).
The broker is named by STANDALONE_BROKER_URL.
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

import atexit
import logging
import runpy

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Service:
    """What StackStorm hands to a sensor."""

    def __init__(self, api):
        self._api = api
        self.datastore_service = self

    def get_logger(self, name):
        return logging.getLogger(name)

    def get_api_client(self):
        from st2client.client import Client

        return Client(api_url=self._api, token="standalone")


def main():
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    sys.path.append(os.path.join(ROOT, "standalone", "st2"))
    module = runpy.run_path(os.path.join(ROOT, "sensors", "alertmanager_sensor.py"))
    sensor = module["AlertmanagerSensor"](Service(OPTIONS["api"]), OPTIONS["config"])
    sensor.setup()
    atexit.register(sensor.cleanup)
    sensor.run()


if __name__ == "__main__":
    main()

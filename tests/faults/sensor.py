"""Run the pack's sensor in a separate process, as StackStorm's sensor container does.

    python sensor.py OPTIONS

OPTIONS is JSON: `config` (the configuration of the pack), `api` (the URL of StackStorm's API) and
`patched` (whether eventlet patches the process before anything is loaded, as StackStorm's sensor
wrapper does). STANDALONE_BROKER_URL is the URL of the broker.
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
    """The sensor service that StackStorm passes to a sensor."""

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

"""The sensor container: creates the packs' sensors as StackStorm does and runs them in threads."""

import importlib.util
import inspect
import logging
import os
import sys
import threading

from st2client.client import Client

from standalone import schemas

LOG = logging.getLogger("standalone.sensors")


class SensorService:
    """What StackStorm hands to a sensor."""

    def __init__(self, sensor, content, emit, api_url):
        self._sensor, self._content, self._emit, self._api_url = sensor, content, emit, api_url
        self.datastore_service = self

    def get_logger(self, name):
        """Return the logger of one part of the sensor."""
        return logging.getLogger("SensorWrapper.{}.{}".format(self._sensor["ref"], name))

    def get_api_client(self):
        """Return a client of the API."""
        return Client(api_url=self._api_url, token="standalone")

    def dispatch(self, trigger, payload=None, trace_tag=None):
        """Emit a trigger. As in StackStorm, what is invalid is logged, dropped and not reported."""
        try:
            check_payload(self._content, trigger, payload or {})
        except ValueError as error:
            LOG.warning("trigger %s is dropped: %s", trigger, error)
        else:
            self._emit(trigger, payload or {}, {"trace_tag": trace_tag} if trace_tag else {})


def check_payload(content, trigger, payload):
    """Raise ValueError unless the trigger is known and the payload is as its schema says."""
    if trigger not in content.triggers:
        raise ValueError(f'Trigger "{trigger}" is not registered')
    schemas.check(payload, content.triggers[trigger].get("payload_schema") or {}, nulls=True)


class SensorContainer:
    """All sensors of the packs; the first failure of one is kept and reported."""

    def __init__(self, content, emit, api_url, on_failure):
        self._content, self._emit, self._api_url = content, emit, api_url
        self._on_failure, self._sensors = on_failure, []

    def start(self):
        """Create, set up and run every enabled sensor. An exception of one is the caller's."""
        for sensor in self._content.sensors:
            if not sensor["enabled"]:
                continue
            sensor_class = _load(sensor)
            service = SensorService(sensor, self._content, self._emit, self._api_url)
            config = self._content.configs[sensor["pack"]]
            instance = sensor_class(sensor_service=service, config=config)
            self._sensors.append(instance)
            instance.setup()
            arguments = (sensor["ref"], instance)
            threading.Thread(
                target=self._run, args=arguments, name=sensor["ref"], daemon=True
            ).start()

    def stop(self):
        """Have every sensor clean up."""
        for sensor in self._sensors:
            try:
                sensor.cleanup()
            except Exception:
                LOG.exception("cleanup")

    def _run(self, ref, sensor):
        try:
            sensor.run()
            self._on_failure(f"sensor {ref}: run() returned")
        except BaseException as error:
            LOG.debug("sensor %s", ref, exc_info=True)
            self._on_failure(f"sensor {ref}: {type(error).__name__}: {error}")


def _load(sensor):
    name = os.path.splitext(os.path.basename(sensor["file_path"]))[0]
    folder = os.path.dirname(sensor["file_path"])
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, sensor["file_path"])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # not in sys.modules, as in StackStorm
    found = dict(inspect.getmembers(module, inspect.isclass)).get(sensor["class_name"])
    if found is None:
        text = "%s has no class %s"
        raise ValueError(text % (sensor["file_path"], sensor["class_name"]))
    return found

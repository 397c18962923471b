"""The sensor container, which creates sensors as StackStorm does, and runs them in threads."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import types
from typing import Any, Callable

from st2client.client import Client

from standalone.content import Content

LOG = logging.getLogger("standalone.sensors")


class SensorService:
    """The part of StackStorm's sensor service that the pack uses."""

    def __init__(self, ref: str, api_url: str):
        self._ref, self._api_url = ref, api_url
        self.datastore_service = self

    def get_logger(self, name: str) -> logging.Logger:
        """Return a logger for the sensor."""
        return logging.getLogger(f"SensorWrapper.{self._ref}.{name}")

    def get_api_client(self) -> Any:
        """Return a client of the API."""
        return Client(api_url=self._api_url, token="standalone")


class SensorContainer:
    """The sensors of all packs. `on_failure` is called with the reason if a sensor fails."""

    def __init__(self, content: Content, api_url: str, on_failure: Callable[[str], None]):
        self._content, self._api_url, self._on_failure = content, api_url, on_failure
        self._sensors: list[Any] = []

    def start(self) -> None:
        """Create, set up and run every enabled sensor."""
        install_config_loader(self._content)
        for sensor in self._content.sensors:
            if sensor["enabled"]:
                self._start_sensor(sensor)

    def create_service(self, sensor: dict) -> SensorService:
        """Return a new service for a sensor."""
        return SensorService(sensor["ref"], self._api_url)

    def stop(self) -> None:
        """Call cleanup() on every sensor."""
        for sensor in self._sensors:
            try:
                sensor.cleanup()
            except Exception:
                LOG.exception("cleanup")

    def _start_sensor(self, sensor: dict) -> None:
        config = self._content.configs[sensor["pack"]]
        instance = load_class(sensor)(sensor_service=self.create_service(sensor), config=config)
        self._sensors.append(instance)
        instance.setup()
        arguments = (sensor["ref"], instance)
        threading.Thread(target=self._run, args=arguments, name=sensor["ref"], daemon=True).start()

    def _run(self, ref: str, sensor: Any) -> None:
        try:
            sensor.run()
            self._on_failure(f"sensor {ref}: run() returned")
        except BaseException as error:
            LOG.debug("sensor %s", ref, exc_info=True)
            self._on_failure(f"sensor {ref}: {type(error).__name__}: {error}")


def install_config_loader(content: Content) -> None:
    """Install a replacement for the StackStorm module through which sensors read their config."""

    class ContentPackConfigLoader:
        def __init__(self, pack_name: str, user: str | None = None):
            self._pack = pack_name

        def get_config(self) -> dict:
            return content.read_config(self._pack)

    name = "st2common.util.config_loader"
    module = types.ModuleType(name)
    module.__dict__["ContentPackConfigLoader"] = ContentPackConfigLoader
    sys.modules[name] = module


def load_class(sensor: dict) -> Any:
    """Return the class of a sensor, loaded from its file as StackStorm does."""
    folder, file = os.path.split(sensor["file_path"])
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(os.path.splitext(file)[0], sensor["file_path"])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # not in sys.modules, as in StackStorm
    return getattr(module, sensor["class_name"])

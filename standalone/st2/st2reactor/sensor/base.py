"""Replace StackStorm's module of the same name if StackStorm is not installed."""

from __future__ import annotations

import abc


class Sensor(abc.ABC):
    """The base class of passive sensors."""

    def __init__(self, sensor_service, config=None):
        self.sensor_service = self._sensor_service = sensor_service
        self.config = self._config = config or {}

    @abc.abstractmethod
    def setup(self):
        """Set up the sensor."""

    @abc.abstractmethod
    def run(self):
        """Run until the process ends."""

    @abc.abstractmethod
    def cleanup(self):
        """Release all resources."""

    @abc.abstractmethod
    def add_trigger(self, trigger):
        """Handle the addition of a trigger of this sensor."""

    @abc.abstractmethod
    def update_trigger(self, trigger):
        """Handle an update of a trigger of this sensor."""

    @abc.abstractmethod
    def remove_trigger(self, trigger):
        """Handle the removal of a trigger of this sensor."""

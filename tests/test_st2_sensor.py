"""StackStorm's own base class for tests of sensors runs the pack's sensor.

`st2-run-pack-tests` runs this file. tests/test_sensor_alertmanager.py has more tests of the sensor.
"""

from __future__ import annotations

import importlib.util
import os
import threading

import pytest

pytest.importorskip("st2tests", reason="st2tests is part of StackStorm: run st2-run-pack-tests")

import requests
from st2tests.base import BaseSensorTestCase

from tests import services
from tests.lib.samples import alert, webhook
from tests.waiting import wait_for

PATH = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "sensors", "alertmanager_sensor.py"
)


def load_sensor_class():
    """Load the class as StackStorm does: by path, without an entry in sys.modules."""
    spec = importlib.util.spec_from_file_location("alertmanager_sensor", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.AlertmanagerSensor


class AlertmanagerSensorTestCase(BaseSensorTestCase):
    sensor_cls = load_sensor_class()

    @pytest.fixture(autouse=True)
    def use_private_folder(self, tmp_path):
        self.config = {"state_dir": str(tmp_path), "port": services.free_port()}

    # The sensor ends its process, so that the container restarts it. Here, it ends its thread.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_webhook_is_accepted_without_rabbitmq_and_waits(self):
        """The endpoint publishes triggers itself, because StackStorm's dispatch loses some."""
        sensor = self.get_sensor_instance(config=self.config)
        sensor.setup()
        thread = threading.Thread(target=sensor.run, daemon=True)
        thread.start()
        try:
            url = f"http://127.0.0.1:{self.config['port']}/api/v1"
            wait_for(lambda: services.accepts_connections(self.config["port"]))
            response = requests.post(f"{url}/webhook", json=webhook(alert("HostDown")), timeout=10)
            assert response.status_code == 202
            request_id = response.json()["request_id"]
            status = requests.get(f"{url}/status/{request_id}", timeout=10).json()
            assert status["status"] in ("accepted", "announced")
        finally:
            sensor.cleanup()
            thread.join(10)
        assert not thread.is_alive()
        assert self.get_dispatched_triggers() == []

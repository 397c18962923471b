"""The sensor that opens the webhook endpoint. All it does is in lib/poundcake."""

import glob
import os
import signal
import sys

_PACK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(_PACK, "lib"))


def _load_own_typing_extensions():
    # StackStorm's site-packages stand before the pack's own on a sensor's path, and on 3.8.1 the
    # typing_extensions there is older than SQLAlchemy 2 needs.
    if "typing_extensions" in sys.modules:
        return
    places = glob.glob(os.path.join(sys.prefix, "lib", "python3*", "site-packages"))
    sys.path[:0] = places
    try:
        import typing_extensions  # noqa: F401
    except ImportError:
        pass  # SQLAlchemy does without it on a newer Python, or says what it lacks
    finally:
        del sys.path[: len(places)]


_load_own_typing_extensions()

from st2reactor.sensor.base import Sensor  # noqa: E402

from poundcake.endpoint.bus import Bus  # noqa: E402
from poundcake.endpoint.service import Endpoint  # noqa: E402
from poundcake.stackstorm import in_sensor  # noqa: E402


class AlertmanagerSensor(Sensor):
    """Life and death of the endpoint, as the sensor container wants it."""

    def __init__(self, sensor_service, config=None):
        super().__init__(sensor_service=sensor_service, config=config)
        self._endpoint = Endpoint(
            config,
            Bus(),
            lambda checked: in_sensor(checked, sensor_service),
            sensor_service.get_logger(name=self.__class__.__name__),
        )

    def setup(self):
        pass

    def run(self):
        # The container ends a sensor with SIGTERM, and StackStorm's wrapper runs cleanup() only
        # at a normal exit.
        try:
            signal.signal(signal.SIGTERM, lambda *_: self._endpoint.ask_stop())
        except ValueError:
            # Not the main thread: whoever runs the sensor there calls cleanup() itself.
            self._endpoint.run()
            return
        self._endpoint.run()
        # With 0 the container would take a sensor that somebody else ended for one that has done
        # its work, and would not start it again.
        sys.exit(128 + signal.SIGTERM)

    def cleanup(self):
        self._endpoint.stop()

    def add_trigger(self, trigger):
        pass

    def update_trigger(self, trigger):
        pass

    def remove_trigger(self, trigger):
        pass

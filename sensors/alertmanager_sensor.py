"""The sensor that runs the webhook endpoint. Its code is in lib/poundcake."""

from __future__ import annotations

import gc
import glob
import os
import signal
import sys
from typing import Any

_PACK = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(_PACK, "lib"))


def _load_pack_typing_extensions() -> None:
    """Import the typing_extensions of the pack's own virtual environment.

    On a sensor's path, StackStorm's site-packages come before the pack's own, and the
    typing_extensions of StackStorm 3.8.1 is too old for SQLAlchemy 2.
    """
    if "typing_extensions" in sys.modules:
        return
    pack_paths = glob.glob(os.path.join(sys.prefix, "lib", "python3*", "site-packages"))
    sys.path[:0] = pack_paths
    try:
        import typing_extensions  # noqa: F401
    except ImportError:
        pass  # newer Pythons do not need it; on older ones, importing SQLAlchemy fails later
    finally:
        del sys.path[: len(pack_paths)]


_load_pack_typing_extensions()

from st2reactor.sensor.base import Sensor  # noqa: E402

from poundcake.endpoint.bus import Bus, registered_config  # noqa: E402
from poundcake.endpoint.service import Endpoint  # noqa: E402
from poundcake.stackstorm import client_for_sensor  # noqa: E402


class AlertmanagerSensor(Sensor):
    """Run the endpoint until StackStorm's sensor container stops it."""

    def __init__(self, sensor_service: Any, config: dict[str, Any] | None = None) -> None:
        super().__init__(sensor_service=sensor_service, config=config)
        self._endpoint = Endpoint(
            config,
            Bus(),
            lambda current_config: client_for_sensor(current_config, sensor_service),
            sensor_service.get_logger(name=self.__class__.__name__),
            registered_config,
        )

    def setup(self) -> None:
        """Do nothing: the endpoint sets itself up in run(), and retries what fails."""

    def run(self) -> None:
        """Run the endpoint until the process is asked to stop."""
        # The container stops a sensor with SIGTERM, but StackStorm's wrapper calls cleanup() only
        # when the process exits normally.
        try:
            signal.signal(signal.SIGTERM, lambda *_: self._endpoint.request_stop())
        except ValueError:
            # This is not the main thread. The standalone runner runs sensors like this, and calls
            # cleanup() to stop them.
            self._endpoint.run()
            return
        # Keep the garbage collector from searching everything that the imports created. Otherwise,
        # each full collection stops all threads, and the responses, for about 30 ms.
        gc.collect()
        gc.freeze()
        self._endpoint.run()
        # The container never restarts a sensor that exits with 0, regardless of who stopped it.
        sys.exit(128 + signal.SIGTERM)

    def cleanup(self) -> None:
        """Stop the endpoint and wait until it has stopped."""
        self._endpoint.stop()

    def add_trigger(self, trigger: Any) -> None:
        """Do nothing: the endpoint does not need to know which triggers are in use."""

    def update_trigger(self, trigger: Any) -> None:
        """Do nothing, as for add_trigger."""

    def remove_trigger(self, trigger: Any) -> None:
        """Do nothing, as for add_trigger."""

"""Bundle the objects that the steps of the pipeline share."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Callable

from poundcake.config import Config
from poundcake.endpoint.bus import Broker, Publisher
from poundcake.endpoint.health import Components
from poundcake.endpoint.journal import Journal
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.tracking_reader import TrackingReader
from poundcake.stackstorm import StackStorm


@dataclass(frozen=True)
class Dependencies:
    """The objects that the steps of the pipeline share.

    Attributes:
        journal: The requests and their states.
        reader: Reads and writes the tracking database.
        bus: Publishes triggers and counts them in `metrics`.
        broker: The same publisher without counting, used to check the connection.
        stackstorm: The client of StackStorm's API.
        components: The states of the components that the endpoint depends on.
        metrics: The endpoint's metrics.
        log: The endpoint's logger.
        config: Returns the current configuration.
    """

    journal: Journal
    reader: TrackingReader
    bus: Publisher
    broker: Broker
    stackstorm: StackStorm
    components: Components
    metrics: Metrics
    log: logging.Logger
    config: Callable[[], Config] = Config

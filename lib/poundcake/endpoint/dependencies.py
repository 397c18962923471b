"""What the steps that move requests on work with."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from poundcake.endpoint.bus import Broker, Publisher
from poundcake.endpoint.health import Components
from poundcake.endpoint.journal import Journal
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.tracking_reader import TrackingReader
from poundcake.stackstorm import StackStorm


@dataclass(frozen=True)
class Dependencies:
    """The journal, the ways out of it, and where it is noted how they are.

    bus: publishes, and counts what it publishes. broker: the same, asked whether it is there.
    expire_stale_hours: see the configuration.
    """

    journal: Journal
    reader: TrackingReader
    bus: Publisher
    broker: Broker
    stackstorm: StackStorm
    components: Components
    metrics: Metrics
    log: logging.Logger
    expire_stale_hours: int = 0

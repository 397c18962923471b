"""Replace StackStorm's module of the same name if StackStorm is not installed."""

from __future__ import annotations

import abc
import logging


class Action(abc.ABC):
    """The base class of Python actions."""

    def __init__(self, config=None, action_service=None):
        self.config = config or {}
        self.action_service = action_service
        self.logger = logging.getLogger("st2.actions.python." + type(self).__name__)

    @abc.abstractmethod
    def run(self, **kwargs):
        """Run the action."""

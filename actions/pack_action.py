"""The base class of the pack's actions: checked configuration in, inert result or one line out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable

from st2common.runners.base_action import Action

from poundcake import config
from poundcake.errors import PoundCakeError
from poundcake.inert import make_inert, make_lines_inert

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poundcake.stackstorm import StackStorm
    from poundcake.trail.audit import Actor

# Modules that not every action needs are imported where they are used: each action is a process of
# its own, and SQLAlchemy alone takes longer to load than most of them take to work.


class PackAction(Action):
    """An action whose class implements ``work(**parameters)`` and returns its result.

    Attributes:
        settings: The checked configuration, from when ``work`` is called.
        unneeded_keys: Keys of the configuration that the action does not use, so that their
            secrets need not be readable where it runs.
    """

    settings: config.Config
    # Only an action that asks the endpoint needs them, and it runs on the sensor's host, or on one
    # that has the files too.
    unneeded_keys: tuple[str, ...] = config.CREDENTIAL_KEYS

    def work(self, *args: Any, **parameters: Any) -> Any:
        """Do the action's work and return its result, any JSON value."""
        raise NotImplementedError

    def run(self, **parameters: Any) -> tuple[bool, Any]:
        """Return whether the action succeeded, and its result or the error in one line.

        StackStorm evaluates results again, so they are made inert. A result that is a text is a
        view for people: its line breaks are the pack's own and stay.
        """
        try:
            self.settings = config.load(self.config, self.unneeded_keys)
            result = self.work(**parameters)
            is_text = isinstance(result, str)
            return True, make_lines_inert(result) if is_text else make_inert(result)
        except PoundCakeError as error:
            return False, make_inert(str(error))
        # A traceback would show everyone who can read the execution what was in the variables.
        except Exception as error:
            return False, make_inert(f"{type(error).__name__}: {str(error)[:300]}")

    def engine(self) -> Engine:
        """Return an engine of the tracking database."""
        from poundcake.trail import database

        return database.open_engine(self.settings.tracking_url)

    def actor(self, st2_user: str) -> Actor:
        """Return who runs this action, for the audit."""
        from poundcake.trail.audit import Actor

        return Actor(st2_user, os.environ.get("ST2_ACTION_EXECUTION_ID", ""))

    def view(self, view: Callable[..., Any], **query: Any) -> Any:
        """Return a view of the tracking database, which is created if auto_migrate is on."""
        from poundcake.trail import database

        engine = self.engine()
        database.prepare(engine, create=self.settings.auto_migrate)
        with database.reading(engine) as connection:
            return view(connection, **query)

    def live_view(self, view: Callable[..., Any], **query: Any) -> Any:
        """Return a view in which open executions are as StackStorm's API has them now."""
        from poundcake.trail import refresh

        answer = self.view(view, **query)
        return refresh.refresh_open_executions(self.stackstorm(), answer) if answer else answer

    def stackstorm(self) -> StackStorm:
        """Return StackStorm's API, with the token of this execution."""
        from poundcake.stackstorm import in_action

        return in_action(self.settings)

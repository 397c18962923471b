"""The base class of the pack's actions: validates the configuration and makes results inert."""

from __future__ import annotations

import atexit
import gc
import os
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence, TypeVar

from st2common.runners.base_action import Action

from poundcake import config
from poundcake.errors import PoundCakeError
from poundcake.inert import make_inert, make_lines_inert

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from poundcake.monitoring import AlertmanagerApi, PrometheusApi
    from poundcake.remediation.safety import ConditionsResult
    from poundcake.remediations import Remediation
    from poundcake.stackstorm import StackStorm
    from poundcake.trail.audit import Actor
    from poundcake.trail.limits import ChangeRequest, Situation
    from poundcake.trail.text.confirmations import Confirmation

# Import modules that only some actions need inside the methods that use them. Each action is a
# separate process, and SQLAlchemy alone takes longer to load than most actions take to run.

# For the same reason, keep the garbage collector from searching everything that the imports create.
# By default, it does so several times during the imports and, before the process ends, to free the
# memory piece by piece, which takes a third of the time of an action that uses SQLAlchemy.
gc.set_threshold(100_000)
atexit.register(gc.freeze)

_RETRY_SECONDS = 45
_MAX_CHAT_NAME = 80

_Result = TypeVar("_Result")


class PackAction(Action):
    """An action whose class implements ``work(**parameters)`` and returns its result.

    Attributes:
        settings: The validated configuration. It is available from the start of ``work``.
        unneeded_keys: Keys of the configuration that the action does not use. Their secrets may be
            unreadable on the host where it runs.
    """

    settings: config.Config
    # Only actions that query the endpoint need its credentials. They run on the sensor's host or on
    # another host that has the secret files.
    unneeded_keys: tuple[str, ...] = config.CREDENTIAL_KEYS + config.MONITORING_KEYS
    _engine: Engine | None = None
    _is_prepared = False

    def work(self, *args: Any, **parameters: Any) -> Any:
        """Do the action's work and return its result, any JSON value."""
        raise NotImplementedError

    def run(self, **parameters: Any) -> tuple[bool, Any]:
        """Return whether the action succeeded, and its result or a one-line error.

        StackStorm evaluates results again, so they are made inert. A result of type str is a view
        for people. Its line breaks come from the pack, not from an alert, so they are kept.
        """
        try:
            self.settings = self.load_settings()
            result = self.work(**parameters)
            is_text = isinstance(result, str)
            return True, make_lines_inert(result) if is_text else make_inert(result)
        except PoundCakeError as error:
            return False, make_inert(str(error))
        # A traceback would expose variables to everyone who can read the execution.
        except Exception as error:
            return False, make_inert(f"{type(error).__name__}: {str(error)[:300]}")

    def load_settings(self) -> config.Config:
        """Return the validated configuration.

        Raises:
            ConfigError: The configuration is invalid, or a secret cannot be read on this host.
        """
        return config.load(self.config, self.unneeded_keys)

    def engine(self) -> Engine:
        """Return the engine of the tracking database. It keeps the statements it has compiled."""
        from poundcake.trail import database

        if self._engine is None:
            self._engine = database.open_engine(self.settings.tracking_url)
        return self._engine

    def prometheus_clients(self) -> Sequence[PrometheusApi]:
        """Return clients of the configured Prometheus servers.

        Raises:
            ConfigError: A secret of a server cannot be read on this host.
        """
        from poundcake.monitoring import prometheus_servers

        return prometheus_servers(config.load(self.config, config.CREDENTIAL_KEYS))

    def alertmanager_clients(self) -> Sequence[AlertmanagerApi]:
        """Return clients of the configured Alertmanagers.

        Raises:
            ConfigError: A secret of a server cannot be read on this host.
        """
        if not self.config.get("alertmanagers"):
            return ()
        from poundcake.monitoring import alertmanagers

        return alertmanagers(config.load(self.config, config.CREDENTIAL_KEYS))

    def check_conditions(self, entry: Remediation, labels: Mapping[str, str]) -> ConditionsResult:
        """Check the conditions of an entry of `remediations` for an alert with these labels."""
        from poundcake.remediation.conditions import check_conditions
        from poundcake.remediation.polls import CheckedAlert

        alert = CheckedAlert.of(labels, self.settings.host_label)
        return check_conditions(entry, alert, self.prometheus_clients)

    def actor(self, st2_user: str) -> Actor:
        """Return the user and the execution that run this action, for the audit table."""
        from poundcake.trail.audit import Actor

        return Actor(st2_user, os.environ.get("ST2_ACTION_EXECUTION_ID", ""))

    def name_chat_user(self, comment: str, chat_user: str) -> str:
        """Return a comment that also names the chat user, if the action was started from a chat.

        StackStorm knows only the user of the chat's bot, and does not verify the chat user.
        """
        if not chat_user:
            return comment
        return f"{comment} ({chat_user[:_MAX_CHAT_NAME]} in chat)".lstrip()

    def find_episode(self, action: str, episode: str, *parameters: str, **filters: str) -> str:
        """Return the episode of the alert that a person means.

        Args:
            action: The name of this action, for the commands that an error suggests.
            episode: The name of the episode or the beginning of it. It is returned unchanged unless
                there are filters, too.
            parameters: More parameters that these commands need, as `name=value`.
            filters: Filters of the view why. Exactly one open incident must match, if there are
                any.

        Raises:
            PoundCakeError: A filter is invalid, or no open incident or more than one matches.
        """
        from poundcake.trail import open_incident, search

        if not any(filters.values()):
            return episode.strip()
        row = self.view(
            open_incident.find_open_incident,
            filters=search.parse(None, episode=episode, **filters),
            command_for=open_incident.command_for_episode(action, *parameters),
        )
        return str(row.episode)

    def confirm(
        self, result: Mapping[str, Any], confirmation: Confirmation, format: str
    ) -> dict[str, Any] | str:
        """Return what the action has changed.

        Args:
            result: The keys for programs.
            confirmation: The same for people. JSON contains it, too.
            format: `json`, or `text` for a terminal.
        """
        if format == "text":
            return confirmation.as_text()
        return {**result, **confirmation.as_json()}

    def view(self, read_view: Callable[..., Any], **query: Any) -> Any:
        """Return a view of the tracking database. Create the tables first if auto_migrate is on."""
        from poundcake.trail import database

        engine = self.engine()
        if not self._is_prepared:
            database.prepare(engine, create=self.settings.auto_migrate)
            self._is_prepared = True
        with database.reading(engine) as connection:
            return read_view(connection, **query)

    def live_view(self, read_view: Callable[..., Any], **query: Any) -> Any:
        """Return a view with the current state of open executions from StackStorm's API."""
        from poundcake.trail import refresh

        view = self.view(read_view, **query)
        if not view:
            return view
        approval_minutes = self.settings.approval_minutes
        return refresh.refresh_open_executions(self.stackstorm(), view, approval_minutes)

    def read_situation(self, request: ChangeRequest) -> Situation:
        """Return the current facts on which the decision about a change depends."""
        from poundcake.trail import limits

        situation: Situation = self.view(
            limits.read_situation, config=self.settings, request=request
        )
        return situation

    def retry_while_unavailable(self, work: Callable[[], _Result]) -> _Result:
        """Call work(), retrying while the tracking database is unavailable, for up to 45 seconds.

        This is less than the timeouts of the actions that use it, which are 60 seconds or longer.
        """
        from poundcake.trail import database

        return database.retry_while_unavailable(work, _RETRY_SECONDS)

    def stackstorm(self) -> StackStorm:
        """Return a client of StackStorm's API that uses the token of this execution."""
        from poundcake.stackstorm import client_for_action

        return client_for_action(self.settings)

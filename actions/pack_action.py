"""What all actions of the pack have in common: configuration in, inert result or one line out."""

from poundcake import config, database
from poundcake.alertmanager import inert
from poundcake.announcement import AnnouncementError
from poundcake.database import DatabaseError
from poundcake.remediation import RemediationError
from poundcake.stackstorm import StackStormError, in_action
from poundcake.tracking import TrackingError
from st2common.runners.base_action import Action

_EXPECTED = (
    config.ConfigError,
    AnnouncementError,
    DatabaseError,
    RemediationError,
    StackStormError,
    TrackingError,
)


class PackAction(Action):
    """An action's own class has ``work(**parameters)`` and returns what is to be its result."""

    def run(self, **parameters):
        """(succeeded, result); StackStorm evaluates results again, so they are made inert."""
        try:
            self.settings = config.load(self.config)
            return True, inert(self.work(**parameters))
        except _EXPECTED as error:
            return False, inert(str(error))
        # A traceback would stand in the execution for everyone to read, with values in it.
        except Exception as error:
            return False, inert(f"{type(error).__name__}: {str(error).splitlines()[:1]}")

    def engine(self):
        """The tracking database."""
        return database.open_engine(self.settings.tracking_url)

    def view(self, view, **query):
        """A view over the tracking database, which is made where there is none yet."""
        engine = self.engine()
        database.prepare(engine, create=self.settings.auto_migrate)
        with database.reading(engine) as connection:
            return view(connection, **query)

    def stackstorm(self):
        """StackStorm's API, with this execution's token."""
        return in_action(self.settings)

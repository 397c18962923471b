"""What all actions of the pack have in common: configuration in, inert result or one line out."""

from st2common.runners.base_action import Action

from poundcake import config
from poundcake.errors import PoundCakeError
from poundcake.inert import make_inert

# Imports that an action may not need are made where they are used: each action is a process of
# its own, and SQLAlchemy alone takes longer to load than most of them take to work.


class PackAction(Action):
    """An action's own class has ``work(**parameters)`` and returns what is to be its result."""

    # What only those need that ask the endpoint; it need not be readable on every runner.
    not_needed = ("auth_tokens", "basic_auth")

    def run(self, **parameters):
        """(succeeded, result); StackStorm evaluates results again, so they are made inert."""
        try:
            self.settings = config.load(self.config, self.not_needed)
            return True, make_inert(self.work(**parameters))
        except PoundCakeError as error:
            return False, make_inert(str(error))
        # A traceback would stand in the execution for everyone to read, with values in it.
        except Exception as error:
            return False, make_inert(f"{type(error).__name__}: {str(error)[:300]}")

    def engine(self):
        """The tracking database."""
        from poundcake.trail import database

        return database.open_engine(self.settings.tracking_url)

    def view(self, view, **query):
        """A view over the tracking database, which is made where there is none yet."""
        from poundcake.trail import database

        engine = self.engine()
        database.prepare(engine, create=self.settings.auto_migrate)
        with database.reading(engine) as connection:
            return view(connection, **query)

    def live_view(self, view, **query):
        """A view with what StackStorm says now of executions that are open on record."""
        from poundcake.trail import refresh

        answer = self.view(view, **query)
        return refresh.refresh_open_executions(self.stackstorm(), answer) if answer else answer

    def stackstorm(self):
        """StackStorm's API, with this execution's token."""
        from poundcake.stackstorm import in_action

        return in_action(self.settings)

from pack_action import PackAction
from poundcake.trail import claims, database

# Within the action's own time limit of 60 s.
_PATIENCE = 45


class Link(PackAction):
    def work(self, request_id, episode, workflow, execution_id):
        return database.retry_while_unavailable(
            lambda: claims.link(
                self.engine(),
                request_id,
                episode,
                workflow,
                execution_id,
                self.settings.host_cooldown_seconds,
            ),
            _PATIENCE,
        )

from pack_action import PackAction
from poundcake.remediation import safety
from poundcake.trail import queries
from poundcake.trail.record import TrackingError


class GetAlert(PackAction):
    def work(self, request_id, episode, action="", needs_host=True):
        alert = self.view(queries.alert_of, request_id=request_id, episode=episode)
        if alert is None:
            raise TrackingError(f"no alert of episode {episode} in request {request_id}")
        return {**alert, **safety.permit(self.settings, alert, action, needs_host)}

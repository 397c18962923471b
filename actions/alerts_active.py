from pack_action import PackAction
from poundcake.trail import queries, search, text


class AlertsActive(PackAction):
    def work(self, limit=100, offset=0, format="json", **filters):
        answer = self.live_view(
            queries.alerts_active,
            stale_after_hours=self.settings.stale_after_hours,
            filters=search.parse(**filters),
            limit=limit,
            offset=offset,
        )
        return text.alerts_active(answer) if format == "text" else answer

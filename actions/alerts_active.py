from pack_action import PackAction
from poundcake import search, text, views


class AlertsActive(PackAction):
    def work(self, limit=100, offset=0, format="json", **filters):
        answer = self.live_view(
            views.alerts_active,
            stale_after_hours=self.settings.stale_after_hours,
            filters=search.parse(**filters),
            limit=limit,
            offset=offset,
        )
        return text.alerts_active(answer) if format == "text" else answer

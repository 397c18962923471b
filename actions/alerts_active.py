from pack_action import PackAction
from poundcake import text, views


class AlertsActive(PackAction):
    def work(self, severity="", alert_name="", instance="", limit=100, offset=0, format="json"):
        answer = self.live_view(
            views.alerts_active,
            stale_after_hours=self.settings.stale_after_hours,
            severity=severity,
            alert_name=alert_name,
            instance=instance,
            limit=limit,
            offset=offset,
        )
        return text.alerts_active(answer) if format == "text" else answer

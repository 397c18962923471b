from pack_action import PackAction
from poundcake import text, views
from poundcake.errors import PoundCakeError


class Why(PackAction):
    def work(self, alert_name="", instance="", fingerprint="", limit=20, format="json"):
        if not (alert_name or instance or fingerprint):
            raise PoundCakeError("which alert: alert_name, instance or fingerprint is expected")
        answer = self.live_view(
            views.why,
            alert_name=alert_name,
            instance=instance,
            fingerprint=fingerprint,
            limit=limit,
            web_url=self.settings.st2_web_url,
        )
        return text.why(answer) if format == "text" else answer

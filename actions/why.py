from pack_action import PackAction
from poundcake.errors import PoundCakeError
from poundcake.trail import queries, search, text


class Why(PackAction):
    def work(self, limit=10, offset=0, format="json", **filters):
        if not any(filters.get(name) for name in ("alert_name", "instance", "fingerprint")):
            raise PoundCakeError("which alert: alert_name, instance or fingerprint is expected")
        answer = self.live_view(
            queries.why,
            filters=search.parse(**filters),
            limit=limit,
            offset=offset,
            web_url=self.settings.st2_web_url,
        )
        return text.why(answer) if format == "text" else answer

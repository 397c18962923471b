from pack_action import PackAction
from poundcake import endpoint_client
from poundcake.trail import queries, text
from poundcake.trail.record import TrackingError


class Status(PackAction):
    not_needed = ()

    def work(self, request_id, format="json"):
        web_url = self.settings.st2_web_url
        answer = self.live_view(queries.status, request_id=request_id, web_url=web_url)
        if answer is None:
            # The endpoint may have it, and not have seen it recorded yet.
            answer = endpoint_client.status(self.settings, request_id)
        if answer is None:
            raise TrackingError(f"no request {request_id} is on record")
        return text.status(answer) if format == "text" else answer

"""Show what ran for an alert, or why nothing ran."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake import config, endpoint_client
from poundcake.trail import queries, search, text
from poundcake.trail.queries.waiting_alerts import waiting_alerts

# The filters that apply to requests that are not recorded yet.
_WAITING_FILTERS = (
    "alert_name",
    "instance",
    "fingerprint",
    "severity",
    "status",
    "request_id",
    "labels",
    "annotations",
    "since",
    "until",
)


class Why(PackAction):
    """Run poundcake.why."""

    def work(
        self,
        limit: int = 10,
        offset: int = 0,
        format: str = "json",
        width: int = text.DEFAULT_WIDTH,
        **filters: Any,
    ) -> dict[str, Any] | str:
        """Return the view as JSON, or as text for a terminal."""
        parsed_filters = search.parse(**filters)
        search.require_identifying_filter(parsed_filters)
        view: dict[str, Any] = self.live_view(
            queries.read_episodes,
            filters=parsed_filters,
            limit=limit,
            offset=offset,
            web_url=self.settings.st2_web_url,
            config=self.settings,
        )
        is_first_page = not offset and not parsed_filters.before
        # The outcome and the episode of an alert are decided when its request is recorded.
        if is_first_page and not parsed_filters.outcome and not parsed_filters.episode:
            view.update(self._waiting_alerts(filters))
        if view.get("waiting"):
            view.pop("near_misses", None)  # something matches
        return text.why(view, width=width) if format == "text" else view

    def _waiting_alerts(self, filters: dict[str, Any]) -> dict[str, Any]:
        """Return the alerts that wait in the endpoint's journal, or why they are not known."""
        names = {name: filters[name] for name in _WAITING_FILTERS if filters.get(name)}
        try:
            settings = config.load(self.config, config.MONITORING_KEYS)
        except config.ConfigError as error:  # its secrets may be unreadable on this host
            return {"endpoint": str(error)}
        result = endpoint_client.waiting_requests(settings, names)
        if not isinstance(result, endpoint_client.Answered):
            return {"endpoint": str(result)}
        alerts = waiting_alerts(result.document)
        return {"waiting": alerts} if alerts else {}

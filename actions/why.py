"""Show what ran for an alert, or why nothing ran."""

from __future__ import annotations

from typing import Any

from pack_action import PackAction
from poundcake import config, endpoint_client
from poundcake.errors import PoundCakeError
from poundcake.trail import queries, search, text
from poundcake.trail.queries.waiting_alerts import waiting_alerts

# The filters that apply to requests that are not recorded yet.
_WAITING_FILTERS = (
    "alert_name",
    "instance",
    "fingerprint",
    "severity",
    "status",
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
        if not any(filters.get(name) for name in ("alert_name", "instance", "fingerprint")):
            raise PoundCakeError(
                "specify the alert: alert_name=NAME, instance=INSTANCE or fingerprint=FINGERPRINT"
            )
        view: dict[str, Any] = self.live_view(
            queries.read_episodes,
            filters=search.parse(**filters),
            limit=limit,
            offset=offset,
            web_url=self.settings.st2_web_url,
            config=self.settings,
        )
        if not offset and not filters.get("before") and not filters.get("outcome"):
            view.update(self._waiting_alerts(filters))
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

"""The client of StackStorm's API, which uses the HTTP client of st2client."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from typing import Any, Callable, Mapping, Sequence, TypeVar
from urllib.parse import quote

from poundcake.config import Config
from poundcake.stackstorm import fields
from poundcake.stackstorm.api import Page, StackStormError
from poundcake.stackstorm.execution import Execution, failure_reason
from poundcake.stackstorm.rules import RuleEnforcement, TriggerInstance
from poundcake.timestamps import format_timestamp, parse_http_date

LINK = "poundcake.link"
_LINK_ACTIONS = (LINK, "poundcake.begin")
"""The actions that link a workflow to an alert if one of its tasks runs them."""
_EARLIEST = datetime.min.replace(tzinfo=timezone.utc)
CLOCK_ALLOWANCE = timedelta(minutes=5)
"""Maximum difference between the clocks of StackStorm's hosts."""
# The process that picks up executions, by their status. After an outage of RabbitMQ, the process
# may no longer consume messages.
_PICKED_UP_BY = {"requested": "st2scheduler", "scheduled": "st2actionrunner"}
_PAGE = 100  # api.max_page_size; only administrators may request more
# Seconds to connect, and seconds to wait for the response. The sensor's timeouts are shorter,
# because a client of the endpoint is waiting for a view.
_ACTION_TIMEOUT = (3, 15)
_SENSOR_TIMEOUT = (1, 3)

Item = TypeVar("Item")


class StackStorm:
    """The implementation of StackStormApi over HTTP.

    Args:
        connect: Returns an st2client Client. Called with True, it returns one with a new token.
        timeout: Seconds to connect, and seconds to wait for a response.
    """

    def __init__(self, connect: Callable[[bool], Any], timeout: tuple[int, int] = _ACTION_TIMEOUT):
        self._connect = connect
        self._timeout = timeout
        # StackStorm's clock minus this host's monotonic clock, in seconds; None before the first
        # response.
        self._clock: float | None = None

    def now(self) -> datetime:
        """Return the time by StackStorm's clock, from the Date header of its responses."""
        if self._clock is None:
            self.get("/rules", limit=1, include_attributes="id")
        if self._clock is None:  # a proxy removed the Date header
            return datetime.now(timezone.utc)
        return datetime.fromtimestamp(self._clock + time.monotonic(), timezone.utc)

    def get(self, path: str, **params: Any) -> Any:
        """Return the JSON response for a path below /v1, or None for 404.

        Raises:
            StackStormError: The API cannot be reached, or responds with another error.
        """
        response = None
        for renew_token in (False, True):
            response = self._send(path, params, renew_token)
            if response.status_code != 401:
                break
        assert response is not None
        if response.status_code == 404:
            return None
        if response.status_code >= 400:
            message = f"GET {path}: {response.status_code} {_read_error_text(response)}"
            raise StackStormError(message, response.status_code)
        try:
            return response.json()
        except ValueError:
            return response.text

    def _send(self, path: str, params: Mapping[str, Any], renew_token: bool) -> Any:
        """Return the response to a GET. With `renew_token`, request a new token first."""
        return self._call(
            renew_token, lambda http, options: http.get(path, params=params, **options)
        )

    def _call(self, renew_token: bool, send: Callable[[Any, Mapping[str, Any]], Any]) -> Any:
        """Return the response to a request.

        Args:
            renew_token: Whether to request a new token first.
            send: Sends the request with st2client's HTTP client and these arguments.
        """
        try:
            client = self._connect(renew_token)
            options = {
                "timeout": self._timeout,
                "token": client.token or os.environ.get("ST2_AUTH_TOKEN"),
                "api_key": client.api_key,
            }
            response = send(client.executions.client, options)
        # requests, st2client and, in a sensor, the creation of a token raise many types of errors.
        # Any of them means that the request failed.
        except Exception as error:
            text = f"{type(error).__name__}: {_first_line(error)}"
            raise StackStormError(
                text, timed_out=_is_read_timeout(error), unsent=_is_connect_error(error)
            ) from None
        self._set_clock(response)
        return response

    def _set_clock(self, response: Any) -> None:
        date = parse_http_date(getattr(response, "headers", {}).get("Date"))
        if date:
            self._clock = date.timestamp() - time.monotonic()

    # -- executions

    def get_execution(self, execution_id: str) -> Execution | None:
        """Return an execution, or None if StackStorm does not have it or the id is invalid."""
        return Execution.parse(self._get_execution_document(execution_id))

    def _get_execution_document(self, execution_id: str) -> Any:
        try:
            return self.get(f"/executions/{quote(execution_id, safe='')}")
        except StackStormError as error:
            if error.status == 400:
                return None
            raise

    def get_executions(self, ids: Sequence[str]) -> Mapping[str, Execution]:
        """Return executions by id, without those that are missing from the API's list."""
        executions = (Execution.parse(item) for item in self._get_execution_documents(ids))
        return {execution.id: execution for execution in executions if execution}

    def _get_execution_documents(self, ids: Sequence[str]) -> list[Any]:
        items: list[Any] = []
        for start in range(0, len(ids), _PAGE):
            page = list(ids[start : start + _PAGE])
            try:
                items += self._get_list(
                    "/executions", id=",".join(page), exclude_attributes="trigger_instance"
                )
            except StackStormError as error:
                if error.status != 400:
                    raise
                # The API rejects the whole list if one id is invalid.
                items += filter(None, map(self._get_execution_document, page))
        return items

    def get_children(self, execution_id: str) -> list[Execution]:
        """Return the executions that a workflow's tasks started, oldest first."""
        items = self._get_list("/executions", parent=execution_id)
        children = [child for child in map(Execution.parse, items) if child]
        return sorted(children, key=lambda child: child.started_at or _EARLIEST)

    def re_run(self, execution_id: str) -> str:
        """Start an ended execution again, and return the id of the new execution.

        Raises:
            StackStormError: The API cannot be reached, or refuses the request.
        """
        path = f"/executions/{quote(execution_id, safe='')}/re_run"
        reply = self._call(False, lambda http, options: http.post(path, {}, **options))
        if reply.status_code >= 400:
            message = f"POST {path}: {reply.status_code} {_read_error_text(reply)}"
            raise StackStormError(message, reply.status_code)
        try:
            return fields.text(reply.json(), "id")
        except ValueError:
            return ""  # it was started, but a proxy replaced the response

    def list_pending_inquiries(self) -> list[Execution]:
        """Return the newest inquiries of core.ask that are waiting for an answer."""
        items = self.get(
            "/executions",
            action="core.ask",
            status="pending",
            sort_desc="timestamp",
            limit=_PAGE,
        )
        inquiries = map(Execution.parse, items if isinstance(items, list) else [])
        return [inquiry for inquiry in inquiries if inquiry]

    def respond(self, inquiry_id: str, response: Mapping[str, Any]) -> None:
        """Answer an inquiry as the user of the current execution.

        Raises:
            StackStormError: The API cannot be reached, or refuses the answer.
        """
        path = f"/inquiries/{quote(inquiry_id, safe='')}"
        body = {"id": inquiry_id, "response": dict(response)}
        reply = self._call(False, lambda http, options: http.put(path, body, **options))
        if reply.status_code >= 400:
            message = f"PUT {path}: {reply.status_code} {_read_error_text(reply)}"
            raise StackStormError(message, reply.status_code)

    def _find_newest_execution(
        self, action: str, since: datetime, **query: str
    ) -> Execution | None:
        items = self.get(
            "/executions",
            action=action,
            timestamp_gt=format_timestamp(since - CLOCK_ALLOWANCE),
            sort_desc="timestamp",
            limit=1,
            **query,
        )
        return Execution.parse(items[0]) if isinstance(items, list) and items else None

    # -- the rules engine

    def list_triggers(
        self, trigger: str, after: datetime, before: datetime | None
    ) -> Page[TriggerInstance]:
        """Return the newest instances of a trigger between two times, newest first."""
        window = _time_window("timestamp", after, before)
        items = self._get_list("/triggerinstances", trigger=trigger, **window)
        instances = [TriggerInstance.parse(item) for item in items]
        # StackStorm stores these times in milliseconds.
        resolution = timedelta(milliseconds=1)
        return _make_page(instances, before, resolution, lambda instance: instance.occurred_at)

    def get_triggers(self, ids: Sequence[str]) -> Mapping[str, TriggerInstance]:
        """Return trigger instances by id, omitting those that StackStorm no longer has."""
        instances: dict[str, TriggerInstance] = {}
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            for item in self._get_list("/triggerinstances", id=",".join(page)):
                instance = TriggerInstance.parse(item)
                if instance and instance.id in page:
                    instances[instance.id] = instance
        return instances

    def list_enforcements(self, after: datetime, before: datetime | None) -> Page[RuleEnforcement]:
        """Return the newest enforcements of all rules between two times, newest first."""
        items = self._get_list("/ruleenforcements", **_time_window("enforced_at", after, before))
        enforcements = [RuleEnforcement.parse(item) for item in items]
        resolution = timedelta(microseconds=1)
        return _make_page(
            enforcements, before, resolution, lambda enforcement: enforcement.enforced_at
        )

    def get_enforcements(self, trigger_instance_id: str) -> list[RuleEnforcement]:
        """Return the rule enforcements of a trigger instance."""
        items = self._get_list("/ruleenforcements", trigger_instance=trigger_instance_id)
        enforcements = (RuleEnforcement.parse(item) for item in items)
        return [enforcement for enforcement in enforcements if enforcement]

    def _get_list(self, path: str, **params: Any) -> list[Any]:
        items = self.get(path, limit=_PAGE, **params)
        return items if isinstance(items, list) else []

    # -- the installation

    def runs_link_task(self, action: str) -> bool:
        """Return True if an action is a workflow with a task that links it to the alert."""
        # StackStorm includes this package. It is imported here because only sync needs it.
        import yaml

        try:
            text = self.get(f"/actions/views/entry_point/{quote(action, safe='')}")
            tasks = yaml.safe_load(text)["tasks"]
            return any(task.get("action") in _LINK_ACTIONS for task in tasks.values())
        except StackStormError as error:
            if error.is_outage or error.timed_out:
                raise
            return False  # the API responds with an error for an action without an entry point
        except (yaml.YAMLError, TypeError, KeyError, AttributeError):
            return False  # not an Orquesta workflow

    def find_rule_problem(self, rule: str, action: str) -> str:
        """Return why a rule cannot start its action, or '' if nothing prevents it."""
        for kind, ref in (("rule", rule), ("action", action)):
            document = self.get(f"/{kind}s/{ref}")
            if not document:
                return f"{kind} {ref} is missing: install the pack again"
            if not document.get("enabled"):
                return f"{kind} {ref} is disabled: st2 {kind} enable {ref}"
        return ""

    def find_last_failure(self, action: str, since: datetime) -> str:
        """Return why the newest failed execution of an action failed, or '' if none failed."""
        execution = self._find_newest_execution(action, since, status="failed")
        return failure_reason(execution.result) if execution else ""

    def describe_stuck_execution(self, action: str, since: datetime) -> str:
        """Return a message if no process has picked up an action's newest execution, or ''."""
        execution = self._find_newest_execution(action, since)
        process = _PICKED_UP_BY.get(execution.status) if execution else None
        if execution is None or process is None:
            return ""
        return (
            f"execution {execution.id} of {action} is stuck in status {execution.status}: run "
            f"st2ctl restart-component {process}"
        )


def client_for_action(config: Config) -> StackStorm:
    """Return the client for an action, which uses the token of its execution."""
    clients: list[Any] = []

    def connect(renew_token: bool) -> Any:
        if renew_token or not clients:
            url = os.environ.get("ST2_ACTION_API_URL") or os.environ.get("ST2_API_URL") or ""
            token = os.environ.get("ST2_ACTION_AUTH_TOKEN") or os.environ.get("ST2_AUTH_TOKEN")
            clients[:] = [_create_client(config, url, token)]
        return clients[0]

    return StackStorm(connect)


def client_for_sensor(current_config: Callable[[], Config], sensor_service: Any) -> StackStorm:
    """Return the client for the sensor.

    The token in a sensor's environment expires after a day, so the datastore service creates new
    tokens.

    Args:
        current_config: Returns the configuration, which may change while the sensor runs.
        sensor_service: The service that StackStorm passes to the sensor.
    """

    def connect(renew_token: bool) -> Any:
        config = current_config()
        if config.st2_api_key:
            return _create_client(config, os.environ.get("ST2_API_URL") or "", None)
        service = sensor_service.datastore_service
        if renew_token:
            service._client = None
        return service.get_api_client()

    return StackStorm(connect, _SENSOR_TIMEOUT)


def _create_client(config: Config, api_url: str, token: str | None) -> Any:
    from st2client.client import Client

    if config.st2_api_key:
        return Client(api_url=config.st2_api_url or api_url, api_key=config.st2_api_key)
    return Client(api_url=config.st2_api_url or api_url, token=token)


def _time_window(name: str, after: datetime, before: datetime | None) -> dict[str, str]:
    window = {f"{name}_gt": format_timestamp(after)}
    if before:
        window[f"{name}_lt"] = format_timestamp(before)
    return window


def _make_page(
    entries: Sequence[Item | None],
    before: datetime | None,
    resolution: timedelta,
    time_of: Callable[[Item], datetime | None],
) -> Page[Item]:
    """Return a page of the readable entries.

    The next page begins at a time, not at an offset, because large offsets are slow.

    Args:
        entries: The parsed entries; None for an unreadable one.
        before: The end of the time range that was requested.
        resolution: The resolution of StackStorm's times. The next page repeats the entries with the
            oldest time, because others with the same time may not be on this page.
        time_of: Returns the time of an entry.
    """
    items = [item for item in entries if item is not None]
    next_before = None
    times = [timestamp for timestamp in map(time_of, items) if timestamp]
    if len(entries) >= _PAGE and times:
        next_before = min(times) + resolution
        if before and next_before >= before:  # all entries of the page have the same time
            next_before = before - resolution
    return Page(items, next_before, len(entries) - len(items))


def _is_read_timeout(error: Exception) -> bool:
    from requests.exceptions import ReadTimeout

    # requests reports a timeout in the middle of a response as a ConnectionError.
    return isinstance(error, ReadTimeout) or "Read timed out" in str(error)


def _is_connect_error(error: Exception) -> bool:
    from requests.exceptions import ConnectionError, ConnectTimeout
    from urllib3.exceptions import NewConnectionError

    # requests also reports a connection that was lost after the request as a ConnectionError.
    cause = getattr(error.args[0] if error.args else None, "reason", None)
    is_unconnected = isinstance(error, ConnectionError) and isinstance(cause, NewConnectionError)
    return is_unconnected or isinstance(error, ConnectTimeout)


def _read_error_text(response: Any) -> str:
    try:
        return _first_line(response.json()["faultstring"])
    except (ValueError, KeyError, TypeError):
        return _first_line(response.text)


def _first_line(value: Any) -> str:
    return (str(value).splitlines() or [""])[0][:300]

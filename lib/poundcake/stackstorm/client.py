"""The StackStorm API over HTTP, through st2client."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Mapping, Sequence, TypeVar
from urllib.parse import quote

from poundcake.config import Config
from poundcake.stackstorm.api import Page, StackStormError
from poundcake.stackstorm.execution import Execution, failure_reason
from poundcake.stackstorm.rules import RuleEnforcement, TriggerInstance
from poundcake.timestamps import format_timestamp

LINK = "poundcake.link"
_BEFORE_ALL = datetime.min.replace(tzinfo=timezone.utc)
CLOCK_ALLOWANCE = timedelta(minutes=5)
"""How far the clocks of StackStorm's hosts may be apart."""
# Who moves an execution on. After RabbitMQ was away they may have no consumer any more.
_TAKEN_BY = {"requested": "st2scheduler", "scheduled": "st2actionrunner"}
_PAGE = 100  # api.max_page_size, of which only administrators get more
# Seconds to connect, and to wait for the answer. Somebody waits for a view of the endpoint.
_ACTION_TIMEOUT = (3, 15)
_SENSOR_TIMEOUT = (1, 3)

Item = TypeVar("Item")


class StackStorm:
    """The API, as StackStormApi describes it.

    Args:
        connect: Returns an st2client Client; connect(True) returns one with a new token.
        timeout: Seconds to connect, and seconds to wait for an answer.
    """

    def __init__(self, connect: Callable[[bool], Any], timeout: tuple[int, int] = _ACTION_TIMEOUT):
        self._connect = connect
        self._timeout = timeout
        # StackStorm's clock minus this host's monotonic one, in seconds; None before an answer.
        self._clock: float | None = None

    def now(self) -> datetime:
        """Return the time by StackStorm's clock, as its answers say."""
        if self._clock is None:
            self.get("/rules", limit=1, include_attributes="id")
        if self._clock is None:  # a proxy leaves the Date header out
            return datetime.now(timezone.utc)
        return datetime.fromtimestamp(self._clock + time.monotonic(), timezone.utc)

    def get(self, path: str, **params: Any) -> Any:
        """Return what a path below /v1 answers, as JSON; None for 404.

        Raises:
            StackStormError: It cannot be asked, or answers with another error.
        """
        response = None
        for fresh in (False, True):
            response = self._send(path, params, fresh)
            if response.status_code != 401:
                break
        assert response is not None
        if response.status_code == 404:
            return None
        if response.status_code >= 400:
            fault = f"GET {path}: {response.status_code} {_fault(response)}"
            raise StackStormError(fault, response.status_code)
        try:
            return response.json()
        except ValueError:
            return response.text

    def _send(self, path: str, params: Mapping[str, Any], fresh: bool) -> Any:
        """Return the response. With fresh, ask for a new token first."""
        try:
            client = self._connect(fresh)
            response = client.executions.client.get(
                path,
                params=params,
                timeout=self._timeout,
                token=client.token or os.environ.get("ST2_AUTH_TOKEN"),
                api_key=client.api_key,
            )
        # requests, st2client and, in a sensor, the making of a token: whatever it is, StackStorm
        # could not be asked.
        except Exception as error:
            text = f"{type(error).__name__}: {_first_line(error)}"
            raise StackStormError(text, timed_out=_is_read_timeout(error)) from None
        self._set_clock(response)
        return response

    def _set_clock(self, response: Any) -> None:
        try:
            said = parsedate_to_datetime(response.headers["Date"])
        except (AttributeError, KeyError, TypeError, ValueError):
            return
        self._clock = said.timestamp() - time.monotonic()

    # -- executions

    def get_execution(self, execution_id: str) -> Execution | None:
        """Return one execution; None if StackStorm does not have it, or the id is not valid."""
        return Execution.parse(self._execution(execution_id))

    def _execution(self, execution_id: str) -> Any:
        try:
            return self.get(f"/executions/{quote(execution_id, safe='')}")
        except StackStormError as error:
            if error.status == 400:
                return None
            raise

    def get_executions(self, ids: Sequence[str]) -> Mapping[str, Execution]:
        """Return executions by id, those that the list has."""
        parsed = (Execution.parse(found) for found in self._executions(ids))
        return {execution.id: execution for execution in parsed if execution}

    def _executions(self, ids: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        for start in range(0, len(ids), _PAGE):
            page = list(ids[start : start + _PAGE])
            try:
                found += self._list(
                    "/executions", id=",".join(page), exclude_attributes="trigger_instance"
                )
            except StackStormError as error:
                if error.status != 400:
                    raise
                # The API rejects the whole list if one id is invalid.
                found += filter(None, map(self._execution, page))
        return found

    def get_children(self, execution_id: str) -> list[Execution]:
        """Return the executions that a workflow's tasks started, oldest first."""
        listed = self._list("/executions", parent=execution_id)
        children = [child for child in map(Execution.parse, listed) if child]
        return sorted(children, key=lambda child: child.started_at or _BEFORE_ALL)

    def _newest(self, action: str, since: datetime, **query: str) -> Execution | None:
        found = self.get(
            "/executions",
            action=action,
            timestamp_gt=format_timestamp(since - CLOCK_ALLOWANCE),
            sort_desc="timestamp",
            limit=1,
            **query,
        )
        return Execution.parse(found[0]) if isinstance(found, list) and found else None

    # -- what the rules engine did

    def list_triggers(
        self, trigger: str, after: datetime, before: datetime | None
    ) -> Page[TriggerInstance]:
        """Return the newest instances of a trigger between two moments, newest first."""
        window = _window("timestamp", after, before)
        answer = self._list("/triggerinstances", trigger=trigger, **window)
        found = [TriggerInstance.parse(item) for item in answer]
        # StackStorm keeps these times in milliseconds.
        step = timedelta(milliseconds=1)
        return _page(found, before, step, lambda instance: instance.occurred_at)

    def get_triggers(self, ids: Sequence[str]) -> Mapping[str, TriggerInstance]:
        """Return trigger instances by id, those that StackStorm has."""
        found: dict[str, TriggerInstance] = {}
        for start in range(0, len(ids), _PAGE):
            page = ids[start : start + _PAGE]
            for item in self._list("/triggerinstances", id=",".join(page)):
                instance = TriggerInstance.parse(item)
                if instance and instance.id in page:
                    found[instance.id] = instance
        return found

    def list_enforcements(self, after: datetime, before: datetime | None) -> Page[RuleEnforcement]:
        """Return the newest enforcements of all rules between two moments, newest first."""
        answer = self._list("/ruleenforcements", **_window("enforced_at", after, before))
        found = [RuleEnforcement.parse(item) for item in answer]
        step = timedelta(microseconds=1)
        return _page(found, before, step, lambda enforcement: enforcement.enforced_at)

    def get_enforcements(self, trigger_instance_id: str) -> list[RuleEnforcement]:
        """Return what each rule made of a trigger instance."""
        answer = self._list("/ruleenforcements", trigger_instance=trigger_instance_id)
        parsed = (RuleEnforcement.parse(item) for item in answer)
        return [found for found in parsed if found]

    def _list(self, path: str, **params: Any) -> list[Any]:
        answer = self.get(path, limit=_PAGE, **params)
        return answer if isinstance(answer, list) else []

    # -- what is installed, and whether it works

    def runs_link_task(self, action: str) -> bool:
        """Return True if an action is a workflow with a task that runs poundcake.link."""
        import yaml  # StackStorm ships it; only sync needs it

        try:
            text = self.get(f"/actions/views/entry_point/{quote(action, safe='')}")
            tasks = yaml.safe_load(text)["tasks"]
            return any(task.get("action") == LINK for task in tasks.values())
        except StackStormError as error:
            if error.is_outage or error.timed_out:
                raise
            return False  # an action without an entry point is answered with an error
        except (yaml.YAMLError, TypeError, KeyError, AttributeError):
            return False  # not an Orquesta workflow

    def problem_with(self, rule: str, action: str) -> str:
        """Return why a rule cannot start its action; empty if nothing is in the way."""
        for kind, ref in (("rules", rule), ("actions", action)):
            found = self.get(f"/{kind}/{ref}")
            if not found:
                return f"{kind[:-1]} {ref} is missing: install the pack again"
            if not found.get("enabled"):
                hint = f"st2 {kind[:-1]} enable {ref}"
                return f"{kind[:-1]} {ref} is disabled: {hint}"
        return ""

    def last_failure(self, action: str, since: datetime) -> str:
        """Return why the newest failed execution of an action failed; empty if none did."""
        found = self._newest(action, since, status="failed")
        return failure_reason(found.result) if found else ""

    def not_taken(self, action: str, since: datetime) -> str:
        """Return which process did not take the newest execution of an action; empty if one did."""
        found = self._newest(action, since)
        process = _TAKEN_BY.get(found.status) if found else None
        if found is None or process is None:
            return ""
        return (
            f"execution {found.id} of {action} stays {found.status}: "
            f"st2ctl restart-component {process}"
        )


def in_action(config: Config) -> StackStorm:
    """Return the API as an action asks it: with the token that its execution was given."""
    clients: list[Any] = []

    def connect(fresh: bool) -> Any:
        if fresh or not clients:
            url = os.environ.get("ST2_ACTION_API_URL") or os.environ.get("ST2_API_URL") or ""
            token = os.environ.get("ST2_ACTION_AUTH_TOKEN") or os.environ.get("ST2_AUTH_TOKEN")
            clients[:] = [_client(config, url, token)]
        return clients[0]

    return StackStorm(connect)


def in_sensor(current_config: Callable[[], Config], sensor_service: Any) -> StackStorm:
    """Return the API as the sensor asks it.

    The token in a sensor's environment ends after a day; the datastore service makes a new one.

    Args:
        current_config: Returns the configuration, which may change while the sensor runs.
        sensor_service: As StackStorm hands it to the sensor.
    """

    def connect(fresh: bool) -> Any:
        config = current_config()
        if config.st2_api_key:
            return _client(config, os.environ.get("ST2_API_URL") or "", None)
        service = sensor_service.datastore_service
        if fresh:
            service._client = None
        return service.get_api_client()

    return StackStorm(connect, _SENSOR_TIMEOUT)


def _client(config: Config, api_url: str, token: str | None) -> Any:
    from st2client.client import Client

    if config.st2_api_key:
        return Client(api_url=config.st2_api_url or api_url, api_key=config.st2_api_key)
    return Client(api_url=config.st2_api_url or api_url, token=token)


def _window(name: str, after: datetime, before: datetime | None) -> dict[str, str]:
    window = {f"{name}_gt": format_timestamp(after)}
    if before:
        window[f"{name}_lt"] = format_timestamp(before)
    return window


def _page(
    found: Sequence[Item | None],
    before: datetime | None,
    step: timedelta,
    time_of: Callable[[Item], datetime | None],
) -> Page[Item]:
    """Return a page of the entries that could be read.

    Pages follow each other by time, because an offset gets slower the deeper it is. `step` is the
    resolution of StackStorm's times: the next page begins with those of the oldest moment, again.
    """
    items = [item for item in found if item is not None]
    older = None
    moments = [moment for moment in map(time_of, items) if moment]
    if len(found) >= _PAGE and moments:
        older = min(moments) + step
        if before and older >= before:  # a whole page of one moment
            older = before - step
    return Page(items, older, len(found) - len(items))


def _is_read_timeout(error: Exception) -> bool:
    from requests.exceptions import ReadTimeout

    # A timeout in the middle of an answer is a ConnectionError to requests.
    return isinstance(error, ReadTimeout) or "Read timed out" in str(error)


def _fault(response: Any) -> str:
    try:
        return _first_line(response.json()["faultstring"])
    except (ValueError, KeyError, TypeError):
        return _first_line(response.text)


def _first_line(value: Any) -> str:
    return (str(value).splitlines() or [""])[0][:300]

"""The StackStorm API, through st2client: what the pack reads of executions, rules and triggers."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any, Callable, Iterator, Sequence
from urllib.parse import quote

from poundcake.config import Config
from poundcake.errors import PoundCakeError
from poundcake.timestamps import format_timestamp

LINK = "poundcake.link"
# st2common/constants/action.py, LIVEACTION_STATUSES; `gone` is ours: StackStorm's garbage
# collector has removed the execution.
TERMINAL = ("succeeded", "failed", "timeout", "abandoned", "canceled", "gone")
STATUSES = (
    *("requested", "scheduled", "delayed", "running", "canceling"),
    *("pending", "pausing", "paused", "resuming"),
    *TERMINAL,
)
# Those of them that last until a person does something.
WAITING = ("pending", "paused", "pausing")
# Who moves an execution on. After RabbitMQ was away they may have no consumer any more.
_TAKEN_BY = {"requested": "st2scheduler", "scheduled": "st2actionrunner"}
# How far the clocks of two hosts may be apart.
_CLOCKS = timedelta(minutes=5)
_PAGE = 100  # api.max_page_size, of which only administrators get more
# Seconds to connect, to answer. Behind the endpoint somebody waits for a view.
_ACTION_TIMEOUT = (3, 15)
_SENSOR_TIMEOUT = (1, 3)


class StackStormError(PoundCakeError):
    """StackStorm's API cannot be asked now, or refused. ``status`` is the HTTP code, or 0."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status


class StackStorm:
    """A few reads of the API.

    connect(fresh) gives an st2client Client; fresh asks for one with a new token.
    """

    def __init__(self, connect: Callable[[bool], Any], timeout: tuple[int, int] = _ACTION_TIMEOUT):
        self._connect = connect
        self._timeout = timeout

    def get(self, path: str, **params: Any) -> Any:
        """GET of a path below /v1, as JSON; None for 404. Raises StackStormError."""
        response = None
        for fresh in (False, True):
            try:
                client = self._connect(fresh)
                response = client.executions.client.get(
                    path,
                    params=params,
                    timeout=self._timeout,
                    token=client.token or os.environ.get("ST2_AUTH_TOKEN"),
                    api_key=client.api_key,
                )
            # requests, st2client and, in a sensor, the making of a token: whatever it is,
            # StackStorm could not be asked.
            except Exception as error:
                raise StackStormError(f"{type(error).__name__}: {_first_line(error)}") from None
            if response.status_code != 401:
                break
        if response.status_code == 404:
            return None
        if response.status_code >= 400:
            raise StackStormError(
                f"GET {path}: {response.status_code} {_fault(response)}", response.status_code
            )
        try:
            return response.json()
        except ValueError:
            return response.text

    def execution(self, execution_id: str) -> dict[str, Any] | None:
        """One execution; None where StackStorm does not have it, or the id can be none of its."""
        try:
            return self.get(f"/executions/{quote(execution_id, safe='')}")
        except StackStormError as error:
            if error.status == 400:
                return None
            raise

    def executions(self, ids: Sequence[str]) -> dict[str, dict[str, Any] | None]:
        """Executions by id; None for those that the list does not have."""
        found: dict[str, dict[str, Any] | None] = {i: None for i in ids}
        for start in range(0, len(ids), _PAGE):
            page = list(ids[start : start + _PAGE])
            try:
                answer = self.get(
                    "/executions",
                    id=",".join(page),
                    limit=_PAGE,
                    exclude_attributes="trigger_instance",
                )
            except StackStormError as error:
                if error.status != 400:
                    raise
                # One id that is none spoils the list.
                answer = [e for e in map(self.execution, page) if e]
            found.update({e["id"]: e for e in answer or [] if e["id"] in found})
        return found

    def children(self, execution_id: str) -> list[dict[str, Any]]:
        """The executions that a workflow's tasks started, oldest first."""
        found = self.get("/executions", parent=execution_id, limit=_PAGE) or []
        return sorted(found, key=lambda e: e.get("start_timestamp") or "")

    def trigger_instances(self, trigger: str, since: datetime) -> Iterator[dict[str, Any]]:
        """Trigger instances after a moment, newest first, with payload and status."""
        offset = 0
        while True:
            page = self.get(
                "/triggerinstances",
                trigger=trigger,
                timestamp_gt=format_timestamp(since - _CLOCKS),
                limit=_PAGE,
                offset=offset,
            )
            yield from page or []
            if not page or len(page) < _PAGE:
                return
            offset += len(page)

    def enforcements(self, trigger_instance_id: str) -> list[dict[str, Any]]:
        """What rules made of a trigger instance: an execution or a reason each."""
        return self.get("/ruleenforcements", trigger_instance=trigger_instance_id, limit=_PAGE)

    def links_itself(self, action: str) -> bool:
        """Whether an action is a workflow with a task that runs poundcake.link."""
        import yaml  # StackStorm ships it; only sync needs it

        try:
            text = self.get(f"/actions/views/entry_point/{action}")
            tasks = yaml.safe_load(text)["tasks"]
            return any(task.get("action") == LINK for task in tasks.values())
        except StackStormError as error:
            if error.status:
                return False  # an action without an entry point is answered with an error
            raise
        except (yaml.YAMLError, TypeError, KeyError, AttributeError):
            return False  # no Orquesta workflow

    def problem_with(self, rule: str, action: str) -> str:
        """Why a rule cannot start its action; '' where nothing is in the way."""
        for kind, ref in (("rules", rule), ("actions", action)):
            found = self.get(f"/{kind}/{ref}")
            if not found:
                return f"{kind[:-1]} {ref} is missing: install the pack again"
            if not found.get("enabled"):
                hint = f"st2 {kind[:-1]} enable {ref}"
                return f"{kind[:-1]} {ref} is disabled: {hint}"
        return ""

    def last_failure(self, action: str, since: datetime) -> str:
        """Why the newest failed execution of an action failed; '' where none did."""
        found = self._newest(action, since, status="failed")
        return failure(found) if found else ""

    def not_taken(self, action: str, since: datetime) -> str:
        """Which process does not take the newest execution of an action; '' where one did."""
        found = self._newest(action, since)
        process = _TAKEN_BY.get(found.get("status", ""))
        if not process:
            return ""
        return (
            f"execution {found['id']} of {action} stays {found['status']}: "
            f"st2ctl restart-component {process}"
        )

    def _newest(self, action: str, since: datetime, **query: str) -> dict[str, Any]:
        found = self.get(
            "/executions",
            action=action,
            timestamp_gt=format_timestamp(since - _CLOCKS),
            sort_desc="timestamp",
            limit=1,
            **query,
        )
        return found[0] if found else {}


def in_action(config: Config) -> StackStorm:
    """The API as an action asks it: with the token that its execution was given."""
    clients: list[Any] = []

    def connect(fresh: bool) -> Any:
        if fresh or not clients:
            clients[:] = [
                _client(
                    config,
                    os.environ.get("ST2_ACTION_API_URL") or os.environ.get("ST2_API_URL") or "",
                    os.environ.get("ST2_ACTION_AUTH_TOKEN") or os.environ.get("ST2_AUTH_TOKEN"),
                )
            ]
        return clients[0]

    return StackStorm(connect)


def in_sensor(config: Config, sensor_service: Any) -> StackStorm:
    """The API as the sensor asks it.

    The token in a sensor's environment ends after a day; the datastore service makes a new one.
    """

    def connect(fresh: bool) -> Any:
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


def failure(execution: dict[str, Any]) -> str:
    """Why an execution failed, in a line: as verbatim as the host or service that said it."""
    result = execution.get("result")
    if not isinstance(result, dict):
        return str(result or "")[:1000]
    errors = result.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        # Orquesta's own message for any failed task is that it failed; its result says why.
        task = errors[0].get("task_id")
        inner = errors[0].get("result")
        reason = failure({"result": inner}) if isinstance(inner, dict) else ""
        reason = reason or str(errors[0].get("message") or "")[:1000]
        return f"task {task}: {reason}" if task and reason else reason
    for key in ("error", "stderr", "result", "message"):
        text = result.get(key)
        if isinstance(text, str) and text.strip():
            return text.strip().splitlines()[-1][:1000]
    return ""


def report(execution: dict[str, Any]) -> dict[str, Any]:
    """What a workflow reported of itself: of dry_run, mutated, verified (booleans), stage and
    message (strings) those that its output has."""
    result = execution.get("result")
    output = result.get("output") if isinstance(result, dict) else None
    if not isinstance(output, dict):
        return {}
    wanted = {"dry_run": bool, "mutated": bool, "verified": bool, "stage": str, "message": str}
    return {k: output[k] for k, kind in wanted.items() if isinstance(output.get(k), kind)}


def _fault(response: Any) -> str:
    try:
        return _first_line(response.json()["faultstring"])
    except (ValueError, KeyError, TypeError):
        return _first_line(response.text)


def _first_line(value: Any) -> str:
    return (str(value).splitlines() or [""])[0][:300]

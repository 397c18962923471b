"""The endpoint's routes as OpenAPI 3.0.3, for clients and for tests."""

from __future__ import annotations

from typing import Any, Sequence

from poundcake import __version__
from poundcake.alertmanager import FIRING, MAX_ALERTS, RESOLVED
from poundcake.stackstorm import STATUSES
from poundcake.trail import search
from poundcake.trail.search import OUTCOMES

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_BOOLEAN = {"type": "boolean"}
_MAYBE = {"type": "boolean", "nullable": True, "description": "null where nothing was reported"}
_ID = {"type": "string", "format": "uuid"}
_TIME = {"type": "string", "format": "date-time", "description": "ISO 8601 in UTC, with Z"}
_NO_TIME = {**_TIME, "nullable": True}
_SECONDS = {"type": "number", "nullable": True, "description": "null until it has ended"}
_RFC3339 = (
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_DURATION = "".join(f"([0-9]{{1,9}}{unit})?" for unit in "ywdhms")
_STATE = {"type": "string", "description": "as StackStorm calls it; unknown while it is not known"}
_NEXT = {"type": "string", "description": "`before` of the next page; absent on the last"}
_AT_LEAST = {"type": "boolean", "description": "true where the count is a lower bound"}
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "one of auth_tokens"},
    "basic": {"type": "http", "scheme": "basic", "description": "basic_auth"},
}


def description(authentication: Sequence[str]) -> dict[str, Any]:
    """The OpenAPI document of an endpoint. authentication: the ways of Config.authentication.

    A client certificate is none of the ways that OpenAPI 3.0 can name: where it is one of several,
    the others are optional.
    """
    ways: list[dict[str, list[str]]] = [{way: []} for way in authentication if way in _SCHEMES]
    if len(ways) < len(authentication):
        ways.append({})
    paths = _paths()
    for path, operations in paths.items():
        for operation in operations.values():
            operation["operationId"] = _name(path)
            if path == "/api/v1/health/live":
                operation["security"] = []
            elif authentication:
                operation["responses"]["401"] = _problem("who asks did not say who that is")
    return {
        "openapi": "3.0.3",
        "info": {
            "title": "PoundCake",
            "version": __version__,
            "license": {"name": "MIT"},
            "description": "Takes Alertmanager's webhooks, and answers what became of them. HEAD is"
            " taken where GET is; any other method is answered 405.",
        },
        "paths": paths,
        "security": ways,
        "components": {"schemas": _schemas(), "securitySchemes": _SCHEMES},
    }


def _paths() -> dict[str, Any]:
    health = {
        "200": _json("webhooks are taken", "Health"),
        "503": _json("webhooks are not taken", "Health", "Problem"),
    }
    return {
        "/api/v1/webhook": {"post": _webhook()},
        "/api/v1/status/{request_id}": {
            "get": _operation(
                "The whole trail of one webhook",
                {
                    "200": _json("what is known of it", "Status"),
                    "400": _problem("a parameter that cannot be used; `field` names it"),
                    "404": _problem("no request with this request_id is on record"),
                    "503": _problem("neither the tables nor the journal can be read now"),
                },
                {"name": "request_id", "in": "path", "required": True, "schema": _TEXT},
            )
        },
        "/api/v1/executions/recent": {
            "get": _view("The newest webhooks with their alerts", "Recent", 20, "status outcome")
        },
        "/api/v1/alerts/active": {
            "get": _view("The open incidents, newest first", "Active", 100, "outcome")
        },
        "/api/v1/st2/executions": {
            "get": _view("The executions that alerts led to, newest first", "Executions", 20, "st2")
        },
        "/api/v1/health": {"get": _operation("How the endpoint and its parts are", health)},
        "/api/v1/health/live": {
            "get": _operation(
                "Whether the process answers; needs no authentication",
                {"200": _json("it does", "Live")},
            )
        },
        "/api/v1/health/ready": {"get": _operation("The same as /api/v1/health", health)},
        "/api/v1/openapi.json": {
            "get": _operation(
                "This document",
                {"200": _answer("OpenAPI 3.0.3", "application/json", {"type": "object"})},
            )
        },
        "/metrics": {
            "get": _operation(
                "Numbers for Prometheus",
                {
                    "200": {
                        "description": "in the format that the Accept header asks for",
                        "content": {
                            media: {"schema": _TEXT}
                            for media in ("text/plain", "application/openmetrics-text")
                        },
                    }
                },
            )
        },
    }


def _name(path: str) -> str:
    words = path.replace("/api/v1", "").replace("{request_id}", "").replace(".json", "")
    return "_".join(filter(None, words.split("/")))


def _webhook() -> dict[str, Any]:
    operation = _operation(
        "Takes a notification of Alertmanager",
        {
            "202": {
                **_json("it is in the journal, and will be on record", "Accepted"),
                "headers": {"X-Request-ID": {"schema": _ID}},
                "links": {
                    "status": {
                        "operationId": "status",
                        "parameters": {"request_id": "$response.body#/request_id"},
                    }
                },
            },
            "400": _problem("the body can never be used; `field` names where"),
            "411": _problem("Content-Length is missing; chunked is not taken"),
            "413": _problem("the body is longer than max_body_bytes"),
            "415": _problem("not application/json in UTF-8, or a Content-Encoding"),
            "503": _problem("the journal cannot be written, or backlog_limit is reached"),
        },
        {
            "name": "X-Request-ID",
            "in": "header",
            "description": "A UUID of 36 lower-case characters becomes the request_id, and the same"
            " notification sent twice with it is recorded once. Anything else is ignored.",
            "schema": _TEXT,
        },
    )
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _ref("Webhook")}},
    }
    return operation


def _view(summary: str, answer: str, limit: int, more: str) -> dict[str, Any]:
    filters = {
        "since": _moment("Received, or started, at this time or later"),
        "until": _moment("Received, or started, before this time"),
        "severity": _TEXT,
        "alert_name": _TEXT,
        "instance": _TEXT,
        "fingerprint": _TEXT,
        "before": {
            "type": "string",
            "pattern": f"^({_RFC3339}(/[0-9A-Za-z_-]{{1,64}}){{1,2}})?$",
            "description": "`next` of the page before",
        },
        "limit": {
            "type": "integer",
            "minimum": 1,
            "maximum": search.MOST_ROWS,
            "default": limit,
        },
        "offset": {"type": "integer", "minimum": 0, "maximum": search.MOST_OFFSET, "default": 0},
    }
    if "outcome" in more:
        filters["outcome"] = {"type": "string", "enum": ["", *OUTCOMES]}
    if "status" in more:
        filters["status"] = {"type": "string", "enum": ["", FIRING, RESOLVED]}
    if more == "st2":
        filters["status"] = {"type": "string", "enum": ["", *STATUSES]}
    parameters = [{"name": n, "in": "query", "schema": s} for n, s in filters.items()]
    return _operation(
        summary,
        {
            "200": _json("a page", answer),
            "400": _problem("a parameter that cannot be used; `field` names it"),
            "503": _problem("the tables cannot be read now"),
        },
        *parameters,
    )


def _schemas() -> dict[str, Any]:
    brief = {
        "id": _COUNT,
        "alert_name": _TEXT,
        "severity": _TEXT,
        "instance": _TEXT,
        "status": _TEXT,
        "outcome": {"type": "string", "enum": list(OUTCOMES)},
        "reason": _TEXT,
        "st2_workflow": _TEXT,
    }
    incident = {name: brief[name] for name in ("alert_name", "severity", "instance")}
    state = {
        "type": "string",
        "enum": ["accepted", "announced", "recorded", "running", "completed", "lost", "failed"],
    }
    strings = {"type": "object", "additionalProperties": _TEXT, "nullable": True}
    moment = {"type": "string", "nullable": True, "description": "RFC 3339"}
    status = {"type": "string", "enum": [FIRING, RESOLVED, "", None], "nullable": True}
    return {
        "Webhook": {
            "description": "https://prometheus.io/docs/alerting/latest/configuration/"
            "#webhook_config; what is not named here is taken and kept",
            "type": "object",
            "required": ["alerts"],
            "properties": {
                "alerts": {
                    "type": "array",
                    "maxItems": MAX_ALERTS,
                    "items": {
                        "description": "one that is none is on record as malformed, and does not "
                        "take the others with it",
                        "anyOf": [_ref("Alert"), {}],
                    },
                },
                "status": status,
                "receiver": {"type": "string", "nullable": True},
                "groupKey": {"description": "a string; version 3 has a number"},
                "truncatedAlerts": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 10**18 - 1,
                    "nullable": True,
                },
            },
        },
        "Alert": {
            "type": "object",
            "required": ["labels"],
            "properties": {
                "status": {**status, "description": "the group's where it is missing"},
                "labels": {"type": "object", "additionalProperties": _TEXT},
                "annotations": strings,
                "startsAt": moment,
                "endsAt": moment,
                "generatorURL": {"type": "string", "nullable": True},
                "fingerprint": {
                    "type": "string",
                    "nullable": True,
                    "description": "made of the labels, as Alertmanager does, unless it fits "
                    "[0-9A-Za-z_-]{1,64}",
                },
            },
        },
        "Accepted": _object(
            status={"type": "string", "enum": ["accepted"]},
            request_id=_ID,
            alerts_received=_COUNT,
            message=_TEXT,
        ),
        "Status": _object(
            optional="held_up_by replay_of client_request_id error stackstorm",
            request_id=_ID,
            received_at=_TIME,
            completed_at=_NO_TIME,
            status=state,
            receiver=_TEXT,
            truncated_alerts=_COUNT,
            alerts=_list(
                _object(
                    **brief,
                    fingerprint=_TEXT,
                    episode=_TEXT,
                    starts_at=_NO_TIME,
                    ends_at=_NO_TIME,
                    st2_rule=_TEXT,
                )
            ),
            stackstorm_executions=_list(
                _object(
                    st2_execution_id=_TEXT,
                    st2_workflow=_TEXT,
                    st2_rule=_TEXT,
                    alert_id=_COUNT,
                    status=_STATE,
                    started_at=_NO_TIME,
                    ended_at=_NO_TIME,
                    duration_seconds=_SECONDS,
                    dry_run=_MAYBE,
                    mutated=_MAYBE,
                    verified=_MAYBE,
                    stage=_TEXT,
                    message=_TEXT,
                    url=_TEXT,
                )
            ),
            held_up_by={"type": "string", "description": "why it is not recorded yet"},
            replay_of=_ID,
            client_request_id=_TEXT,
            error={"type": "string", "description": "why it could not be recorded"},
            stackstorm=_TEXT,
        ),
        "Recent": _page(
            "executions",
            "total",
            request_id=_ID,
            received_at=_TIME,
            status=state,
            alert_count=_COUNT,
            st2_execution_count=_COUNT,
            alerts=_list(_object(**brief)),
        ),
        "Active": _page(
            "active_alerts",
            "count",
            **incident,
            fingerprint=_TEXT,
            episode=_TEXT,
            starts_at=_NO_TIME,
            last_seen_at=_TIME,
            notifications=_COUNT,
            stale=_BOOLEAN,
            request_id=_ID,
            st2_workflow=_TEXT,
            st2_execution_id=_TEXT,
            remediation_status=_TEXT,
        ),
        "Executions": _page(
            "st2_executions",
            "count",
            request_id=_ID,
            st2_execution_id=_TEXT,
            st2_workflow=_TEXT,
            st2_rule=_TEXT,
            status=_STATE,
            triggered_at=_TIME,
            duration_seconds=_SECONDS,
            url=_TEXT,
            alert=_object(name=_TEXT, severity=_TEXT, instance=_TEXT),
        ),
        "Live": _object(status={"type": "string", "enum": ["alive"]}),
        "Health": _object(
            status={
                "type": "string",
                "enum": ["ok", "degraded", "unavailable"],
                "description": "degraded: webhooks are taken, something else is wrong",
            },
            version=_TEXT,
            address=_TEXT,
            authentication=_TEXT,
            database=_TEXT,
            dry_run=_BOOLEAN,
            literal_secrets=_list(_TEXT),
            components={
                "type": "object",
                "required": ["journal"],
                "additionalProperties": {
                    "type": "object",
                    "required": ["state", "since", "detail"],
                    "additionalProperties": True,
                    "properties": {
                        "state": {"type": "string", "enum": ["unknown", "ok", "down", "full"]},
                        "since": _TIME,
                        "detail": _TEXT,
                        "waiting": _COUNT,
                    },
                },
            },
        ),
        "Problem": {
            **_object(
                optional="field",
                type=_TEXT,
                title=_TEXT,
                status={"type": "integer", "minimum": 400, "maximum": 599},
                detail=_TEXT,
                request_id=_ID,
                field={"type": "string", "description": "what cannot be used, in a 400"},
            ),
            "description": "RFC 9457",
        },
    }


def _operation(summary: str, responses: dict[str, Any], *parameters: Any) -> dict[str, Any]:
    found = {"summary": summary, "responses": dict(responses)}
    return {**found, "parameters": list(parameters)} if parameters else found


def _answer(what: str, media: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": what, "content": {media: {"schema": schema}}}


def _json(what: str, name: str, problem: str = "") -> dict[str, Any]:
    found = _answer(what, "application/json", _ref(name))
    if problem:
        found["content"]["application/problem+json"] = {"schema": _ref(problem)}
    return found


def _problem(what: str) -> dict[str, Any]:
    return _answer(what, "application/problem+json", _ref("Problem"))


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(optional: str = "", **properties: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional.split()]
    return {"type": "object", "required": required, "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _page(rows: str, count: str, **properties: Any) -> dict[str, Any]:
    parts = {rows: _list(_object(**properties)), count: _COUNT}
    more = {"at_least": _AT_LEAST, "next": _NEXT, "stackstorm": _TEXT}
    return _object(optional=" ".join(more), **parts, **more)


def _moment(what: str) -> dict[str, Any]:
    return {
        "type": "string",
        "pattern": f"^({_RFC3339}|{_DURATION})$",
        "description": f"{what}: RFC 3339, or how long ago, as 90m or 7d",
    }

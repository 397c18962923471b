"""The part of StackStorm's API that the pack and the `st2` command use."""

from __future__ import annotations

import http.server
import json
import logging
import re
import urllib.parse
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Callable, Mapping

import dateutil.parser

from standalone.content import Content
from standalone.executor import Executor
from standalone.store import COMPLETED, Document, Store

LOG = logging.getLogger("standalone.api")
MASK = "********"
MAX_PAGE = 100
# Fields that a response contains even if include_attributes does not name them.
REQUIRED_FIELDS = ("id", "action", "runner")
# For each kind of document, the query parameters of its list. Each function returns the value in a
# document that must equal the parameter.
FILTERS: dict[str, dict[str, Callable[[Document], str | None]]] = {
    "executions": {
        "action": lambda execution: execution["action"]["ref"],
        "status": lambda execution: execution["status"],
        "trigger_instance": lambda execution: execution.get("trigger_instance", {}).get("id"),
        "parent": lambda execution: execution.get("parent", "null"),
    },
    "triggerinstances": {
        "trigger": lambda instance: instance["trigger"],
        "status": lambda instance: instance["status"],
    },
    "ruleenforcements": {
        "trigger_instance": lambda enforcement: enforcement["trigger_instance_id"],
    },
    "traces": {"trace_tag": lambda trace: trace["trace_tag"]},
}
# The fields to which the query parameters timestamp_gt and timestamp_lt apply.
TIME_FIELDS = {
    "executions": "start_timestamp",
    "triggerinstances": "occurrence_time",
    "ruleenforcements": "enforced_at",
}


class ApiError(Exception):
    """A response that reports an error."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Request:
    """A request to the API."""

    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Response:
    """A response from the API. `total` is the number of documents on all pages of a list."""

    status: int
    document: Any
    total: int | None = None


def not_found(kind: str, id_: str) -> ApiError:
    """Return StackStorm's error for something that does not exist."""
    return ApiError(404, f"{kind} with id or reference {id_!r} not found")


class Api:
    """Handle each request with the handler of the first route that matches."""

    def __init__(self, content: Content, store: Store, executor: Executor):
        self.content, self.store, self.executor = content, store, executor
        self.routes: list[tuple[str, str, Callable[..., Response]]] = [
            ("GET", r"(executions|triggerinstances|ruleenforcements|traces)", self.list_documents),
            ("GET", r"traces/([^/]+)", self.show_trace),
            ("POST", r"executions", self.run),
            ("GET", r"executions/([^/]+)", self.show_execution),
            ("GET", r"executions/([^/]+)/children", self.list_children),
            (
                "GET",
                r"(rules|actions|sensortypes|triggertypes|runnertypes|policies|actionalias)",
                self.list_content,
            ),
            ("GET", r"packs/([^/]+)", self.show_pack),
            ("GET", r"user", self.show_user),
            ("GET", r"(rules|actions|triggertypes)/([^/]+)", self.show_content),
            ("PUT", r"(rules|actions)/([^/]+)", self.set_enabled),
            ("GET", r"actions/views/(overview|parameters|entry_point)/([^/]+)", self.show_action),
        ]

    def handle(self, method: str, path: str, request: Request) -> Response:
        """Return the response to a request, or raise ApiError."""
        is_known_path = False
        for allowed_method, pattern, handler in self.routes:
            match = re.match(rf"/?(?:api/)?(?:v1/)?{pattern}/?$", path)
            if match and allowed_method == method:
                return handler(request, *map(urllib.parse.unquote, match.groups()))
            is_known_path = is_known_path or bool(match)
        if is_known_path:
            raise ApiError(405, "Method not allowed")
        raise ApiError(404, f"standalone's API has no {path}")

    # -- executions, and their triggers, enforcements and traces

    def list_documents(self, request: Request, kind: str) -> Response:
        """List one page of executions, triggers, enforcements or traces, newest first."""
        query = request.query
        requested_ids = [i for i in query.get("id", "").split(",") if i]
        is_in_time_range = create_time_filter(query, TIME_FIELDS.get(kind, ""))

        def matches(document: Document) -> bool:
            return (
                (not requested_ids or document["id"] in requested_ids)
                and all(
                    query.get(name) in (None, get_value(document))
                    for name, get_value in FILTERS[kind].items()
                )
                and is_in_time_range(document)
            )

        limit = read_number(query, "limit", MAX_PAGE)
        if limit > MAX_PAGE:
            raise ApiError(403, f'Limit "{limit}" specified, maximum value is "{MAX_PAGE}"')
        total, page = self.store.tables[kind].select(
            matches, limit or MAX_PAGE, read_number(query, "offset", 0)
        )
        if kind == "executions":
            page = [self.format_execution(execution, query) for execution in page]
        return Response(200, page, total)

    def show_trace(self, request: Request, id_: str) -> Response:
        """Show one trace."""
        trace = self.store.traces.get(id_)
        if trace is None:
            raise not_found("Trace", id_)
        return Response(200, trace)

    def format_execution(
        self, execution: Document, query: Mapping[str, str] | None = None
    ) -> Document:
        """Return an execution in the API's format, with masked secrets and the selected fields."""
        query = query or {}
        if execution["status"] in COMPLETED:
            ended_at = dateutil.parser.parse(execution["end_timestamp"])
            duration = ended_at - dateutil.parser.parse(execution["start_timestamp"])
            execution["elapsed_seconds"] = round(duration.total_seconds(), 6)
        action = self.content.actions[execution["action"]["ref"]]
        for name, schema in self.content.get_parameter_schemas(action).items():
            for values in (execution["parameters"], execution["liveaction"]["parameters"]):
                if schema.get("secret") and values.get(name):
                    values[name] = MASK
        excluded = query.get("exclude_attributes", "").split(",")
        included_names = [n for n in query.get("include_attributes", "").split(",") if n]
        if included_names:
            fields = {*REQUIRED_FIELDS, *(name.split(".")[0] for name in included_names)}
            execution = {k: v for k, v in execution.items() if k in fields}
        return {k: v for k, v in execution.items() if k not in excluded}

    def get_execution(self, id_: str) -> Document:
        """Return an execution, or raise ApiError."""
        execution = self.store.executions.get(id_)
        if execution is None:
            raise not_found("ActionExecution", id_)
        return execution

    def show_execution(self, request: Request, id_: str) -> Response:
        """Show one execution."""
        return Response(200, self.format_execution(self.get_execution(id_), request.query))

    def list_children(self, request: Request, id_: str) -> Response:
        """List the descendants of an execution, level by level."""
        child_ids, descendants = self.get_execution(id_)["children"], []
        depth = int(request.query.get("depth", -1))
        while child_ids and depth != 0:
            documents = [self.get_execution(child) for child in child_ids]
            descendants += documents
            child_ids = [child for document in documents for child in document["children"]]
            depth -= 1
        return Response(200, [self.format_execution(child, request.query) for child in descendants])

    def run(self, request: Request) -> Response:
        """Run an action."""
        body = request.body
        if not isinstance(body, dict) or not isinstance(body.get("action"), str):
            raise ApiError(400, "'action' is a required property")
        context = {**(body.get("context") or {}), "user": body.get("user") or "stanley"}
        return self.start(body["action"], body.get("parameters") or {}, context)

    def start(self, ref: str, parameters: dict, context: dict) -> Response:
        """Request an execution and show it."""
        try:
            id_ = self.executor.request(ref, parameters, context)
        except (ValueError, SyntaxError) as error:
            raise ApiError(400, str(error)) from error
        return Response(201, self.format_execution(self.get_execution(id_)))

    # -- content

    def get_content_of_kind(self, kind: str) -> list[Document]:
        """Return all content of one kind."""
        content = self.content
        if kind == "runnertypes":
            return [
                {"name": name, "runner_parameters": schema, "id": name, "enabled": True}
                for name, schema in content.runner_types.items()
            ]
        source: dict[str, dict[str, Document]] = {
            "rules": content.rules,
            "actions": content.actions,
            "sensortypes": {sensor["ref"]: sensor for sensor in content.sensors},
            "policies": content.metadata["policies"],
            "actionalias": content.metadata["aliases"],
        }
        return list(source.get(kind, content.triggers).values())

    def list_content(self, request: Request, kind: str) -> Response:
        """List content of one kind."""
        documents = self.get_content_of_kind(kind)
        for key in ("name", "pack", "ref"):
            value = request.query.get(key)
            documents = [d for d in documents if value in (None, d.get(key))]
        return Response(200, [remove_paths(document) for document in documents], len(documents))

    def get_content(self, kind: str, id_: str) -> Document:
        """Return a piece of content by reference or id, or raise ApiError."""
        for document in self.get_content_of_kind(kind):
            if id_ in (document["ref"], document["id"]):
                return document
        raise not_found(kind, id_)

    def show_pack(self, request: Request, ref: str) -> Response:
        """Show the metadata of a pack."""
        if ref not in self.content.packs:
            raise not_found("pack", ref)
        return Response(200, remove_paths(self.content.packs[ref]))

    def show_user(self, request: Request) -> Response:
        """Show the user, whom the token of an action names."""
        _, _, user = request.headers.get("X-Auth-Token", "").partition(":")
        return Response(200, {"username": user or "stanley"})

    def show_content(self, request: Request, kind: str, id_: str) -> Response:
        """Show a piece of content."""
        return Response(200, remove_paths(self.get_content(kind, id_)))

    def set_enabled(self, request: Request, kind: str, id_: str) -> Response:
        """Enable or disable a rule or an action."""
        enabled = (request.body or {}).get("enabled")
        document = self.get_content(kind, id_)
        if not isinstance(enabled, bool):
            raise ApiError(400, "standalone can only change 'enabled'")
        if enabled and kind == "rules" and document["trigger"]["type"] not in self.content.triggers:
            raise ApiError(400, f"{id_}: standalone has no trigger {document['trigger']['type']}")
        document["enabled"] = enabled
        return Response(200, remove_paths(document))

    def show_action(self, request: Request, view: str, id_: str) -> Response:
        """Show an action with the parameters of its runner, only these parameters, or its code."""
        action = self.get_content("actions", id_)
        parameters = self.content.get_parameter_schemas(action)
        if view == "overview":
            return Response(200, {**remove_paths(action), "parameters": parameters})
        if view == "parameters":
            return Response(200, {"parameters": parameters})
        if not action["entry_point"]:
            raise not_found("entry point", id_)
        with open(action["file_path"], encoding="utf-8") as stream:
            return Response(200, stream.read())


def remove_paths(document: Document) -> Document:
    """Return a piece of content without paths on this machine."""
    return {k: v for k, v in document.items() if k not in ("file_path", "path")}


def read_number(query: Mapping[str, str], name: str, default: int) -> int:
    """Return a number from a query, at least 0, or raise ApiError."""
    try:
        return max(0, int(query.get(name, default)))
    except ValueError:
        raise ApiError(400, f"{name} is not a number") from None


def create_time_filter(query: Mapping[str, str], name: str) -> Callable[[Document], bool]:
    """Return a function that checks whether the time of a document is within a query's bounds."""
    prefix = "enforced_at" if name == "enforced_at" else "timestamp"
    after, before = (normalize_time(query.get(f"{prefix}_{end}")) for end in ("gt", "lt"))
    return lambda document: (
        (not after or document[name] > after) and (not before or document[name] < before)
    )


def normalize_time(text: str | None) -> str | None:
    """Return a time from a query in the format that documents use."""
    if not text:
        return None
    try:
        moment = dateutil.parser.parse(text)
    except (ValueError, OverflowError):
        raise ApiError(400, f"not a timestamp: {text}") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return datetime.strftime(moment.astimezone(timezone.utc), "%Y-%m-%dT%H:%M:%S.%fZ")


class ApiServer(http.server.ThreadingHTTPServer):
    """Serve the API on a loopback port. Any token is accepted."""

    daemon_threads = True
    request_queue_size = 128
    api: Api

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection to the API."""

    protocol_version = "HTTP/1.1"
    server: ApiServer

    def _handle(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        response = self._create_response(url.path, query)
        is_text = isinstance(response.document, str)
        data = b""
        if response.document is not None:
            text = response.document if is_text else json.dumps(response.document, default=str)
            data = text.encode()
        self.send_response(response.status)
        self.send_header("Content-Type", "text/plain" if is_text else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if response.total is not None:
            self.send_header("X-Total-Count", str(response.total))
            self.send_header("X-Limit", query.get("limit", str(MAX_PAGE)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815 - http.server's names

    def _create_response(self, path: str, query: dict[str, str]) -> Response:
        try:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(text.decode()) if text else None
            return self.server.api.handle(self.command, path, Request(query, body, self.headers))
        except ApiError as error:
            return Response(error.status, {"faultstring": str(error)})
        except ValueError as error:
            return Response(400, {"faultstring": f"not JSON: {error}"})
        except Exception as error:
            LOG.exception("%s %s", self.command, self.path)
            return Response(500, {"faultstring": f"Internal Server Error: {error!r}"})

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log a request with the program's own logger."""
        LOG.debug(format, *arguments)

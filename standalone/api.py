"""The part of StackStorm's API that the pack, its tests and the `st2` command use."""

import http.server
import json
import logging
import re
import urllib.parse

import dateutil.parser
from dateutil import tz

from standalone.content import NO_TIMERS, TIMERS
from standalone.sensors import check_payload
from standalone.store import COMPLETED, STATUSES

LOG = logging.getLogger("standalone.api")
MASK = "********"
MAX_PAGE = 100
ALWAYS = ("id", "action", "runner")  # include_attributes cannot leave these out


class ApiError(Exception):
    """An answer that is not a success."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def _not_found(kind, id_):
    return ApiError(404, f"{kind} with id or reference {id_!r} not found")


def _moment(text):
    try:
        moment = dateutil.parser.parse(text)
    except (ValueError, OverflowError):
        raise ApiError(400, f"not a timestamp: {text}")
    moment = moment if moment.tzinfo else moment.replace(tzinfo=tz.UTC)
    return moment.astimezone(tz.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _number(query, name, default):
    try:
        return max(0, int(query.get(name, default)))
    except ValueError:
        raise ApiError(400, f"{name} is not a number")


def _between(query, name, parameter="timestamp"):
    """Return a test of one timestamp field against timestamp_gt and timestamp_lt."""
    after, before = query.get(f"{parameter}_gt"), query.get(f"{parameter}_lt")
    after, before = after and _moment(after), before and _moment(before)
    return lambda document: (
        (not after or document[name] > after) and (not before or document[name] < before)
    )


class Api:
    """Answers requests: `answer` finds the method of the first route that fits."""

    def __init__(self, content, store, executor, consumer):
        self.content, self.store = content, store
        self.executor, self.consumer = executor, consumer
        self.routes = [
            ("GET", r"executions", self.executions),
            ("POST", r"executions", self.run),
            ("GET", r"executions/([^/]+)", self.execution),
            ("DELETE", r"executions/([^/]+)", self.cancel),
            ("PUT", r"executions/([^/]+)", self.change),
            ("GET", r"executions/([^/]+)/children", self.children),
            ("GET", r"executions/([^/]+)/attribute/(\w+)", self.attribute),
            ("GET", r"executions/([^/]+)/(result|output)", self.attribute),
            ("POST", r"executions/([^/]+)/re_run", self.run_again),
            ("GET", r"triggerinstances", self.trigger_instances),
            ("GET", r"triggerinstances/([^/]+)", self.trigger_instance),
            ("GET", r"ruleenforcements", self.enforcements),
            ("GET", r"traces", self.traces),
            ("GET", r"traces/([^/]+)", self.trace),
            ("GET", r"(rules|actions|packs|sensortypes|triggertypes|runnertypes)", self.catalogue),
            ("GET", r"actions/views/(overview|parameters|entry_point)/([^/]+)", self.action_view),
            ("GET", r"(rules|actions|packs|sensortypes|triggertypes)/([^/]+)", self.entry),
            ("PUT", r"(rules|actions)/([^/]+)", self.enable),
            ("GET", r"inquiries", self.inquiries),
            ("GET", r"inquiries/([^/]+)", self.inquiry),
            ("PUT", r"inquiries/([^/]+)", self.respond),
            ("POST", r"webhooks/st2", self.webhook),
            ("GET", r"keys", self.keys),
            ("GET", r"keys/([^/]+)", self.key),
            ("PUT", r"keys/([^/]+)", self.store_key),
            ("DELETE", r"keys/([^/]+)", self.delete_key),
        ]

    def answer(self, method, path, query, body, headers):
        """Return (status, document, how many there are in all or None)."""
        allowed = False
        for wanted, pattern, handler in self.routes:
            match = re.match(rf"/?(?:api/)?(?:v1/)?{pattern}/?$", path)
            if match and wanted == method:
                parts = [urllib.parse.unquote(part) for part in match.groups()]
                request = {"query": query, "body": body, "headers": headers}
                return (*handler(request, *parts), None)[:3]
            allowed = allowed or bool(match)
        if allowed:
            raise ApiError(405, "Method not allowed")
        raise ApiError(404, f"The standalone API has no {path}")

    # Executions

    def executions(self, request):
        query = request["query"]
        ids = [i for i in query.get("id", "").split(",") if i]
        in_time = _between(query, "start_timestamp")

        def matches(execution):
            rule, instance = execution.get("rule", {}), execution.get("trigger_instance", {})
            return (
                (not ids or execution["id"] in ids)
                and query.get("action") in (None, execution["action"]["ref"])
                and query.get("status") in (None, execution["status"])
                and query.get("rule") in (None, rule.get("name"), rule.get("ref"))
                and query.get("runner") in (None, execution["runner"]["name"])
                and query.get("trigger_instance") in (None, instance.get("id"))
                and query.get("user") in (None, execution["context"].get("user"))
                and query.get("liveaction") in (None, execution["liveaction"]["id"])
                and self._has_parent(execution, query.get("parent"))
                and in_time(execution)
            )

        total, found = self._page(self.store.executions, matches, query)
        return 200, [self._shown(execution, query) for execution in found], total

    @staticmethod
    def _has_parent(execution, wanted):
        if wanted == "null":
            return "parent" not in execution
        return wanted in (None, execution.get("parent"))

    @staticmethod
    def _page(table, matches, query):
        limit = _number(query, "limit", MAX_PAGE)
        if limit > MAX_PAGE:
            text = f'Limit "{limit}" specified, maximum value is "{MAX_PAGE}"'
            raise ApiError(403, text)
        total, found = table.select(matches, limit or MAX_PAGE, _number(query, "offset", 0))
        if query.get("sort_asc") == "True":
            found.reverse()
        return total, found

    def _shown(self, execution, query):
        ended = execution["status"] in COMPLETED
        if ended:
            span = _seconds(execution["end_timestamp"]) - _seconds(execution["start_timestamp"])
            execution["elapsed_seconds"] = round(span, 6)
        action = self.content.actions.get(execution["action"]["ref"])
        if action and query.get("show_secrets") not in ("true", "True", "1"):
            for name, schema in self.content.parameters_of(action).items():
                for holder in (execution["parameters"], execution["liveaction"]["parameters"]):
                    if schema.get("secret") and holder.get(name):
                        holder[name] = MASK
        excluded = [n for n in query.get("exclude_attributes", "").split(",") if n]
        included = [n for n in query.get("include_attributes", "").split(",") if n]
        if included:
            wanted = {name.split(".")[0] for name in included}
            execution = {k: v for k, v in execution.items() if k in wanted or k in ALWAYS}
        return {k: v for k, v in execution.items() if k not in excluded}

    def _execution(self, id_):
        execution = self.store.executions.get(id_)
        if execution is None:
            raise _not_found("ActionExecution", id_)
        return execution

    def execution(self, request, id_):
        return 200, self._shown(self._execution(id_), request["query"])

    def attribute(self, request, id_, name):
        execution = self._execution(id_)
        if name == "output":
            result = execution["result"]
            return 200, "".join(str(result.get(stream, "")) for stream in ("stdout", "stderr"))
        return 200, execution.get(name)

    def children(self, request, id_):
        execution, found = self._execution(id_), []
        depth = int(request["query"].get("depth", -1))
        level = execution["children"]
        while level and depth != 0:
            documents = [d for d in (self.store.executions.get(child) for child in level) if d]
            found += documents
            level = [child for document in documents for child in document["children"]]
            depth -= 1
        return 200, [self._shown(document, request["query"]) for document in found]

    def run(self, request):
        body = request["body"]
        if not isinstance(body, dict) or not isinstance(body.get("action"), str):
            raise ApiError(400, "'action' is a required property")
        context = dict(body.get("context") or {}, user=body.get("user") or "stanley")
        return self._request(body["action"], body.get("parameters") or {}, context)

    def _request(self, ref, parameters, context):
        try:
            id_ = self.executor.request(ref, parameters, context)
        except (ValueError, SyntaxError) as error:
            raise ApiError(400, str(error))
        return 201, self._shown(self._execution(id_), {})

    def run_again(self, request, id_):
        body, original = request["body"] or {}, self._execution(id_)
        if body.get("tasks"):
            raise ApiError(400, "standalone runs again whole executions only")
        # StackStorm renders the stored parameters once more; so does this.
        parameters = dict(original["parameters"], **(body.get("parameters") or {}))
        context = {"user": "stanley", "re-run": {"ref": id_}}
        return self._request(original["action"]["ref"], parameters, context)

    def cancel(self, request, id_):
        execution = self._execution(id_)
        if execution["status"] == "pending":  # not in LIVEACTION_CANCELABLE_STATES
            raise ApiError(500, "Failed canceling execution.")
        try:
            self.executor.cancel(execution["id"])
        except ValueError as error:
            if execution["status"] != "canceled":
                raise ApiError(200, str(error))  # a fault that StackStorm answers with 200
        return 200, self._shown(self._execution(id_), {})

    def change(self, request, id_):
        """Pause, resume or cancel; another status is set as it is, as StackStorm does
        (st2api/controllers/v1/actionexecutions.py, put)."""
        body, execution = request["body"] or {}, self._execution(id_)
        status = body.get("status")
        if status not in STATUSES:
            raise ApiError(400, "status: {!r} is not one of {}".format(status, ", ".join(STATUSES)))
        if execution["status"] in COMPLETED:
            raise ApiError(400, "Execution is already in completed state.")
        if status in ("canceling", "canceled"):
            return self.cancel(request, id_)
        try:
            if status in ("pausing", "paused"):
                self.executor.pause(execution["id"])
            elif status == "resuming":
                self.executor.resume(execution["id"])
            else:
                self.executor.set_status(execution["id"], status, body.get("result"))
        except ValueError as error:
            raise ApiError(400, f"Failed updating execution. {error}")
        return 200, self._shown(self._execution(id_), {})

    # What led to them

    def trigger_instances(self, request):
        query = request["query"]
        in_time = _between(query, "occurrence_time")
        ids = [i for i in query.get("id", "").split(",") if i]
        trigger = query.get("trigger") or query.get("trigger_type")

        def matches(instance):
            return (
                (not ids or instance["id"] in ids)
                and trigger in (None, instance["trigger"])
                and query.get("status") in (None, instance["status"])
                and in_time(instance)
            )

        total, found = self._page(self.store.trigger_instances, matches, query)
        return 200, found, total

    def trigger_instance(self, request, id_):
        instance = self.store.trigger_instances.get(id_)
        if instance is None:
            raise _not_found("TriggerInstance", id_)
        return 200, instance

    def enforcements(self, request):
        query = request["query"]
        in_time = _between(query, "enforced_at", "enforced_at")

        def matches(enforcement):
            return (
                query.get("trigger_instance") in (None, enforcement["trigger_instance_id"])
                and query.get("rule_ref") in (None, enforcement["rule"]["ref"])
                and query.get("execution") in (None, enforcement.get("execution_id"))
                and in_time(enforcement)
            )

        total, found = self._page(self.store.enforcements, matches, query)
        return 200, found, total

    def traces(self, request):
        query = request["query"]

        def matches(trace):
            return query.get("trace_tag") in (None, trace["trace_tag"]) and all(
                any(component["object_id"] == query[name] for component in trace[kind])
                for name, kind in (
                    ("execution", "action_executions"),
                    ("rule", "rules"),
                    ("trigger_instance", "trigger_instances"),
                )
                if name in query
            )

        total, found = self._page(self.store.traces, matches, query)
        return 200, found, total

    def trace(self, request, id_):
        trace = self.store.traces.get(id_)
        if trace is None:
            raise _not_found("Trace", id_)
        return 200, trace

    def webhook(self, request):
        body = request["body"]
        if not isinstance(body, dict) or not isinstance(body.get("trigger"), str):
            raise ApiError(400, "Trigger not specified.")
        payload = body.get("payload") or {}
        try:
            check_payload(self.content, body["trigger"], payload)
        except ValueError as error:
            raise ApiError(400, str(error))
        tag = request["headers"].get("St2-Trace-Tag")
        self.consumer.emit(body["trigger"], payload, {"trace_tag": tag} if tag else {})
        return 202, body

    # Content

    def _documents(self, kind):
        content = self.content
        if kind == "sensortypes":
            return content.sensors
        if kind == "runnertypes":
            parameters = content.runner_types.items()
            keys = ("name", "runner_parameters", "id", "enabled")
            return [dict(zip(keys, (name, schema, name, True))) for name, schema in parameters]
        source = {"rules": content.rules, "actions": content.actions, "packs": content.packs}
        return list(source.get(kind, content.triggers).values())

    def catalogue(self, request, kind):
        query, documents = request["query"], self._documents(kind)
        for key in ("name", "pack", "ref"):
            if query.get(key):
                documents = [d for d in documents if d.get(key) == query[key]]
        return 200, [_public(document) for document in documents], len(documents)

    def _entry(self, kind, id_):
        for document in self._documents(kind):
            if id_ in (document["ref"], document["id"]):
                return document
        raise _not_found(kind, id_)

    def entry(self, request, kind, id_):
        return 200, _public(self._entry(kind, id_))

    def enable(self, request, kind, id_):
        enabled = (request["body"] or {}).get("enabled")
        if not isinstance(enabled, bool):
            raise ApiError(400, "standalone changes nothing but 'enabled'")
        document = self._entry(kind, id_)
        if enabled and kind == "rules" and document["trigger"]["type"] in TIMERS:
            raise ApiError(400, "{}: {}".format(document["ref"], NO_TIMERS))
        document["enabled"] = enabled
        return 200, _public(document)

    def action_view(self, request, view, id_):
        action = self._entry("actions", id_)
        parameters = self.content.parameters_of(action)
        if view == "overview":
            return 200, dict(_public(action), parameters=parameters)
        if view == "parameters":
            return 200, {"parameters": parameters}
        if not action["entry_point"]:
            raise _not_found("entry point", id_)
        with open(action["file_path"], encoding="utf-8") as stream:
            return 200, stream.read()

    # Inquiries and the datastore

    def _inquiry(self, id_):
        execution = self._execution(id_)
        if execution["runner"]["name"] != "inquirer":
            raise _not_found("Inquiry", id_)
        return execution

    def inquiries(self, request):
        def matches(execution):
            runner, status = execution["runner"]["name"], execution["status"]
            return runner == "inquirer" and status == "pending"

        total, found = self._page(self.store.executions, matches, request["query"])
        return 200, [dict(d["result"], id=d["id"]) for d in found], total

    def inquiry(self, request, id_):
        execution = self._inquiry(id_)
        if execution["status"] != "pending":
            raise ApiError(400, f"Inquiry {id_} has already been responded to")
        return 200, dict(execution["result"], id=id_)

    def respond(self, request, id_):
        response = (request["body"] or {}).get("response")
        self._inquiry(id_)
        try:
            self.executor.answer(id_, response)
        except ValueError as error:
            raise ApiError(400, str(error))
        return 200, {"id": id_, "response": response}

    def keys(self, request):
        names = sorted(self.store.keys)
        return 200, [self._key(name) for name in names], len(names)

    def _key(self, name):
        if name not in self.store.keys:
            raise _not_found("KeyValuePair", name)
        document = {"id": name, "name": name, "value": self.store.keys[name]}
        return dict(document, scope="st2kv.system", uid="key_value_pair:st2kv.system:" + name)

    def key(self, request, name):
        return 200, self._key(name)

    def store_key(self, request, name):
        self.store.keys[name] = str((request["body"] or {}).get("value", ""))
        return 200, self._key(name)

    def delete_key(self, request, name):
        self._key(name)
        del self.store.keys[name]
        return 204, None


def _seconds(text):
    return dateutil.parser.parse(text).timestamp()


def _public(document):
    return {k: v for k, v in document.items() if k not in ("file_path", "path")}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _handle(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=False))
        try:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(text.decode()) if text else None
            answer = self.server.api.answer(self.command, url.path, query, body, self.headers)
            status, document, total = answer
        except ApiError as error:
            status, document, total = error.status, {"faultstring": str(error)}, None
        except ValueError as error:
            status, document, total = 400, {"faultstring": f"not JSON: {error}"}, None
        except Exception as error:
            LOG.exception("%s %s", self.command, self.path)
            status, document, total = (
                500,
                {"faultstring": f"Internal Server Error: {error!r}"},
                None,
            )
        plain = isinstance(document, str)
        data = b"" if document is None else document.encode() if plain else _json(document)
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if plain else "application/json")
        self.send_header("Content-Length", str(len(data)))
        if total is not None:
            self.send_header("X-Total-Count", str(total))
            self.send_header("X-Limit", query.get("limit", str(MAX_PAGE)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def log_message(self, text, *arguments):
        LOG.debug(text, *arguments)


def _json(document):
    return json.dumps(document, default=str).encode()


class ApiServer(http.server.ThreadingHTTPServer):
    """Serves the API on a loopback port; any token is accepted."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, port):
        super().__init__(("127.0.0.1", port), _Handler)
        self.api = None
        self.url = "http://127.0.0.1:%d/v1" % self.server_address[1]

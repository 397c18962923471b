"""The workflow engine: drives workflows with Orquesta's conductor, as StackStorm does.

All conductors are touched by one thread alone, which takes one event after the other.
"""

import logging
from concurrent.futures import ThreadPoolExecutor

from standalone import expressions, orquesta_compat
from standalone.store import COMPLETED, new_id

LOG = logging.getLogger("standalone.workflows")


class _Run:
    """A workflow under way: its conductor, and its tasks by id and route."""

    def __init__(self, conductor, execution, st2_context):
        self.conductor, self.execution_id = conductor, execution["id"]
        self.workflow_execution_id = st2_context["st2"]["workflow_execution_id"]
        self.user, self.pack = st2_context["st2"]["user"], st2_context["st2"]["pack"]
        self.tasks = {}


class WorkflowEngine:
    """Starts workflows and takes them further whenever one of their children has changed."""

    def __init__(self, content, store, api_url):
        self.content, self.store, self.api_url = content, store, api_url
        self.executor = None  # set by the executor, which needs this engine as well
        self.orquesta = orquesta_compat.load(dict(expressions.FUNCTIONS, st2kv=self._st2kv()))
        self._runs = {}
        self._events = ThreadPoolExecutor(1, "workflows")

    def post(self, handler, *arguments):
        """Have a handler called by the engine's thread."""
        return self._events.submit(self._guard, handler, *arguments)

    def stop(self):
        """Take no more events."""
        self._events.shutdown(wait=False)

    @staticmethod
    def _guard(handler, *arguments):
        try:
            handler(*arguments)
        except Exception:
            LOG.exception("%s%r", handler.__name__, arguments[:1])

    def _st2kv(self):
        keys, missing = self.store.keys, object()

        def st2kv(context, key, default=missing, decrypt=False):
            name = key[len("system.") :] if key.startswith("system.") else key
            if name in keys:
                return keys[name]
            if default is missing:
                raise KeyError(f'The key "{key}" does not exist in the StackStorm datastore.')
            return default

        return st2kv

    def start(self, execution_id, parameters):
        """Begin a workflow, or fail it before its first task where its definition is wrong."""
        execution = self.store.executions.get(execution_id)
        action = self.content.actions[execution["action"]["ref"]]
        st2_context = {
            "st2": {
                "action_execution_id": execution_id,
                "api_url": self.api_url,
                "user": execution["context"].get("user"),
                "pack": execution["context"].get("pack"),
                "action": action["ref"],
                "runner": action["runner_type"],
                "workflow_execution_id": new_id(),
            },
            "parent": execution["context"],
        }
        try:
            with open(action["file_path"], encoding="utf-8") as stream:
                spec = self.orquesta.native.instantiate(stream.read())
            errors = self.inspect(spec, st2_context)
            if errors:
                return self._end(execution_id, "failed", {"errors": errors, "output": None})
            conductor = self.orquesta.conducting.WorkflowConductor(
                spec, context=st2_context, inputs=parameters
            )
            run = self._runs[execution_id] = _Run(conductor, execution, st2_context)
            if conductor.get_workflow_status() not in self.orquesta.statuses.COMPLETED_STATUSES:
                conductor.request_workflow_status(self.orquesta.statuses.REQUESTED)
                conductor.request_workflow_status(self.orquesta.statuses.RUNNING)
            self._advance(run)
        except Exception as error:
            LOG.exception("workflow %s", action["ref"])
            self._runs.pop(execution_id, None)
            self._end(execution_id, "failed", {"error": str(error), "output": None})

    def inspect(self, spec, st2_context):
        """Return what is wrong with a workflow: Orquesta's findings, then actions and inputs."""
        kinds = {"contents": "content", "expressions": "expression", "semantics": "semantic"}
        found = spec.inspect(app_ctx=st2_context, raise_exception=False)
        errors = []
        for kind, entries in found.items():
            for entry in entries:
                if kind in ("context", "expressions"):
                    entry["language"] = entry.pop("type", None)
                errors.append(dict(entry, type=kinds.get(kind, kind)))
        for name, task in spec.tasks.items():
            errors += self._inspect_task(name, task)
        return sorted(errors, key=lambda error: (error["type"], error["schema_path"] or ""))

    def _inspect_task(self, name, task):
        ref, given = getattr(task, "action", None), getattr(task, "input", None) or {}
        evaluators = self.orquesta.expressions.get_evaluators().values()
        if not ref or any(e.has_expressions(ref) for e in evaluators):
            return
        schema_path = r"properties.tasks.patternProperties.^\w+$.properties."
        entry = {"type": "content", "schema_path": schema_path + "action"}
        entry["spec_path"] = f"tasks.{name}.action"
        if "." not in ref:
            yield dict(entry, message=f'The action reference "{ref}" is not formatted correctly.')
        elif ref not in self.content.actions:
            text = f'The action "{ref}" is not registered in the database.'
            yield dict(entry, message=text)
        elif isinstance(given, dict):
            schemas = self.content.parameters_of(self.content.actions[ref])
            entry["schema_path"] = schema_path + "input"
            entry["spec_path"] = f"tasks.{name}.input"
            for parameter, schema in sorted(schemas.items()):
                if schema.get("required") and "default" not in schema and parameter not in given:
                    text = f'Action "{ref}" is missing required input "{parameter}".'
                    yield dict(entry, message=text)
            for parameter in sorted(set(given) - set(schemas)):
                text = f'Action "{ref}" has unexpected input "{parameter}".'
                yield dict(entry, message=text)

    def child_changed(self, child_id):
        """Tell a workflow that one of its children has ended, or waits."""
        child = self.store.executions.get(child_id)
        run = self._runs.get(child["context"]["parent"]["execution_id"])
        if run is None:
            return
        where, events = child["context"]["orquesta"], self.orquesta.events
        task, item = run.tasks[(where["task_id"], where["task_route"])], where.get("item_id")
        if item is None:
            event = events.ActionExecutionEvent(child["status"], result=child["result"])
        else:
            if child["status"] in COMPLETED:
                task["items"][item] = child["result"]
            event = events.TaskItemActionExecutionEvent(
                item, child["status"], child["result"], accumulated_result=list(task["items"])
            )
        try:
            run.conductor.update_task_state(where["task_id"], where["task_route"], event)
            self._advance(run)
        except Exception as error:
            LOG.exception("workflow execution %s", run.execution_id)
            self._fail(run, error, where["task_id"], where["task_route"])

    def cancel(self, execution_id):
        """Start no more tasks; the workflow is canceled when those that run have ended."""
        run = self._runs.get(execution_id)
        if run is not None:
            run.conductor.request_workflow_status(self.orquesta.statuses.CANCELED)
            for child_id in self.store.executions.get(execution_id)["children"]:
                if child_id in self._runs:
                    self.cancel(child_id)
                elif self.store.executions.get(child_id)["status"] == "delayed":
                    self.executor.set_status(child_id, "canceled")
            self._settle(run)

    def pause(self, execution_id, user):
        """Start no more tasks; the workflow is paused when those that run have ended."""
        run, statuses = self._runs.get(execution_id), self.orquesta.statuses
        if run is None or run.conductor.get_workflow_status() != statuses.RUNNING:
            return
        run.conductor.request_workflow_status(statuses.PAUSED)
        context = self.store.executions.get(execution_id)["context"]
        self.store.executions.change(execution_id, context=dict(context, paused_by=user))
        self._settle(run)

    def resume(self, execution_id, user):
        """Go on with a workflow that paused, for an inquiry or by request, and with its parents."""
        run, statuses = self._runs.get(execution_id), self.orquesta.statuses
        if run is None or run.conductor.get_workflow_status() not in statuses.PAUSE_STATUSES:
            return
        run.conductor.request_workflow_status(statuses.RESUMING)
        run.conductor.request_workflow_status(statuses.RUNNING)
        self._advance(run)
        context = self.store.executions.get(execution_id)["context"]
        self.store.executions.change(execution_id, context=dict(context, resumed_by=user))
        if "orquesta" not in context:
            return
        parent_id, where = context["parent"]["execution_id"], context["orquesta"]
        self.resume(parent_id, user)
        if parent_id in self._runs and where.get("item_id") is None:
            event = self.orquesta.events.ActionExecutionEvent(statuses.RUNNING)
            conductor = self._runs[parent_id].conductor
            conductor.update_task_state(where["task_id"], where["task_route"], event)

    def _advance(self, run):
        conductor, events = run.conductor, self.orquesta.events
        running = self.orquesta.statuses.RUNNING
        while True:
            tasks = conductor.get_next_tasks()
            for task in tasks:
                if task.get("items_count") == 0:
                    event = events.ActionExecutionEvent(running)
                    conductor.update_task_state(task["id"], task["route"], event)
                for action in task["actions"]:
                    event = events.ActionExecutionEvent(running)
                    if action.get("item_id") is not None:
                        event = events.TaskItemActionExecutionEvent(action["item_id"], running)
                    conductor.update_task_state(task["id"], task["route"], event)
            self._settle(run)
            if not tasks:
                return
            for task in tasks:
                try:
                    self._request(run, task)
                except Exception as error:
                    return self._fail(run, error, task["id"], task["route"])

    def _request(self, run, task):
        key, itemized = (task["id"], task["route"]), task["spec"].has_items()
        record = run.tasks.get(key)
        if record is None or not itemized or None not in record["items"]:
            items = [None] * (task.get("items_count") or 0)
            record = run.tasks[key] = {"id": new_id(), "items": items}
        if task["spec"].action is None or (itemized and not task["items_count"]):
            event = self.orquesta.events.ActionExecutionEvent(self.orquesta.statuses.SUCCEEDED)
            return run.conductor.update_task_state(task["id"], task["route"], event)
        for request in task["actions"]:
            item, limit = request.get("item_id"), task.get("concurrency")
            context = {
                "pack": request["action"].split(".")[0],
                "user": run.user,
                "parent": {
                    "execution_id": run.execution_id,
                    "user": run.user,
                    "pack": run.pack,
                },
                "orquesta": {
                    "workflow_execution_id": run.workflow_execution_id,
                    "task_execution_id": record["id"],
                    "task_name": task["spec"].name or task["id"],
                    "task_id": task["id"],
                    "task_route": task["route"],
                },
            }
            if item is not None:
                context["orquesta"]["item_id"] = item
            # Of items that run a few at a time only the first few are delayed.
            delayed = not (itemized and limit and item >= limit)
            if request["action"] not in self.content.actions:
                raise ValueError('Unable to find action "{}".'.format(request["action"]))
            self.executor.request(
                request["action"],
                request.get("input") or {},
                context,
                delay=(task.get("delay") or 0) if delayed else 0,
            )

    def _fail(self, run, error, task_id, route):
        if run.conductor.get_workflow_status() not in self.orquesta.statuses.COMPLETED_STATUSES:
            run.conductor.request_workflow_status(self.orquesta.statuses.FAILED)
        run.conductor.log_error(error, task_id=task_id, route=route)
        self._settle(run)

    def _settle(self, run):
        """Write the conductor's status to the execution; the output also of a failed one."""
        conductor, statuses = run.conductor, self.orquesta.statuses
        result = None
        if conductor.get_workflow_status() in statuses.COMPLETED_STATUSES:
            conductor.render_workflow_output()
            result = {"output": conductor.get_workflow_output()}
            if conductor.get_workflow_status() in statuses.ABENDED_STATUSES:
                result["errors"] = list(conductor.errors)
            if not conductor.workflow_state.has_active_tasks:
                self._runs.pop(run.execution_id, None)
        self._end(run.execution_id, conductor.get_workflow_status(), result)

    def _end(self, execution_id, status, result):
        execution = self.store.executions.get(execution_id)
        if execution["status"] not in COMPLETED:
            self.executor.set_status(execution_id, status, result)

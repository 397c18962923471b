"""The workflow engine, which runs workflows with Orquesta's conductor, as StackStorm does.

A single thread drives all conductors, and handles one event at a time.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Iterator, NamedTuple

from standalone import expressions, orquesta_compat
from standalone.content import Content
from standalone.store import COMPLETED, Store, new_id

LOG = logging.getLogger("standalone.workflows")
# The path of the properties of a task in Orquesta's schema.
TASK_SCHEMA = r"properties.tasks.patternProperties.^\w+$.properties."
ERROR_TYPES = {"contents": "content", "expressions": "expression", "semantics": "semantic"}


class TaskRun(NamedTuple):
    """One run of a task: its id, and the results of the items that have ended."""

    id: str
    items: list[Any]


class WorkflowRun:
    """A workflow in progress: its conductor, and its tasks by id and route."""

    def __init__(self, conductor: Any, execution: dict, st2: dict):
        self.conductor, self.execution_id = conductor, execution["id"]
        self.workflow_execution_id = st2["workflow_execution_id"]
        self.user, self.pack = st2["user"], st2["pack"]
        self.tasks: dict[tuple[str, int], TaskRun] = {}


class WorkflowEngine:
    """Start workflows, and advance each one whenever one of its children changes."""

    def __init__(self, content: Content, store: Store, api_url: str):
        self.content, self.store, self.api_url = content, store, api_url
        self.executor: Any = None  # set by the executor, which also needs this engine
        self.orquesta = orquesta_compat.load(
            {**expressions.FUNCTIONS, "st2kv": self._create_st2kv()}
        )
        self.runs: dict[str, WorkflowRun] = {}
        self._events = ThreadPoolExecutor(1, "workflows")

    def post(self, handler: Callable[..., None], *arguments: Any) -> Future[None]:
        """Call a handler in the engine's thread."""
        return self._events.submit(self._run_handler, handler, *arguments)

    def stop(self) -> None:
        """Stop accepting events."""
        self._events.shutdown(wait=False)

    @staticmethod
    def _run_handler(handler: Callable[..., None], *arguments: Any) -> None:
        try:
            handler(*arguments)
        except Exception:
            LOG.exception("%s%r", handler.__name__, arguments[:1])

    def _create_st2kv(self) -> Callable[..., Any]:
        """Return st2kv() for workflows. It must be a plain function: YAQL reads its signature."""
        keys = self.store.keys

        def st2kv(context: Any, key: str, default: Any = KeyError, decrypt: bool = False) -> Any:
            name = key[len("system.") :] if key.startswith("system.") else key
            if name not in keys and default is KeyError:
                raise KeyError(f'The key "{key}" does not exist in the StackStorm datastore.')
            return keys.get(name, default)

        return st2kv

    def start(self, execution_id: str, parameters: dict) -> None:
        """Start a workflow, or fail it before its first task if its definition is invalid."""
        execution = self.store.executions.get(execution_id)
        action = self.content.actions[execution["action"]["ref"]]
        st2 = {
            "action_execution_id": execution_id,
            "api_url": self.api_url,
            "user": execution["context"].get("user"),
            "pack": execution["context"].get("pack"),
            "action": action["ref"],
            "runner": action["runner_type"],
            "workflow_execution_id": new_id(),
        }
        context = {"st2": st2, "parent": execution["context"]}
        try:
            with open(action["file_path"], encoding="utf-8") as stream:
                spec = self.orquesta.native.instantiate(stream.read())
            errors = self.inspect(spec, context)
            if errors:
                self._set_status(execution_id, "failed", {"errors": errors, "output": None})
                return
            conductor = self.orquesta.conducting.WorkflowConductor(
                spec, context=context, inputs=parameters
            )
            run = self.runs[execution_id] = WorkflowRun(conductor, execution, st2)
            if conductor.get_workflow_status() not in self.orquesta.statuses.COMPLETED_STATUSES:
                conductor.request_workflow_status(self.orquesta.statuses.REQUESTED)
                conductor.request_workflow_status(self.orquesta.statuses.RUNNING)
            self.advance(run)
        except Exception as error:
            LOG.exception("workflow %s", action["ref"])
            self.runs.pop(execution_id, None)
            self._set_status(execution_id, "failed", {"error": str(error), "output": None})

    def inspect(self, spec: Any, context: dict) -> list[dict]:
        """Return the errors of a workflow: Orquesta's own, and unknown actions and inputs."""
        errors = []
        for kind, entries in spec.inspect(app_ctx=context, raise_exception=False).items():
            for entry in entries:
                if kind in ("context", "expressions"):
                    entry["language"] = entry.pop("type", None)
                errors.append({**entry, "type": ERROR_TYPES.get(kind, kind)})
        for name, task in spec.tasks.items():
            for field, message in self._inspect_task(task):
                error = {"type": "content", "message": message}
                error.update(schema_path=TASK_SCHEMA + field, spec_path=f"tasks.{name}.{field}")
                errors.append(error)
        return sorted(errors, key=lambda error: (error["type"], error["schema_path"] or ""))

    def _inspect_task(self, task: Any) -> Iterator[tuple[str, str]]:
        """Yield the errors of a task: (`action` or `input`, message)."""
        ref, values = getattr(task, "action", None), getattr(task, "input", None) or {}
        evaluators = self.orquesta.expressions.get_evaluators().values()
        if not ref or any(e.has_expressions(ref) for e in evaluators):
            return
        if ref not in self.content.actions:
            yield "action", f'The action "{ref}" is not registered in the database.'
        elif isinstance(values, dict):
            schemas = self.content.get_parameter_schemas(self.content.actions[ref])
            for name, schema in sorted(schemas.items()):
                if schema.get("required") and "default" not in schema and name not in values:
                    yield "input", f'Action "{ref}" is missing required input "{name}".'
            for name in sorted(set(values) - set(schemas)):
                yield "input", f'Action "{ref}" has unexpected input "{name}".'

    def handle_child_change(self, child_id: str) -> None:
        """Pass the new status of a child to its workflow, and advance the workflow."""
        child = self.store.executions.get(child_id)
        run = self.runs.get(child["context"]["parent"]["execution_id"])
        if run is None:
            return
        events, task_context = self.orquesta.events, child["context"]["orquesta"]
        task_id, route = task_context["task_id"], task_context["task_route"]
        task_run, item = run.tasks[(task_id, route)], task_context.get("item_id")
        if item is None:
            event = events.ActionExecutionEvent(child["status"], result=child["result"])
        else:
            if child["status"] in COMPLETED:
                task_run.items[item] = child["result"]
            event = events.TaskItemActionExecutionEvent(
                item, child["status"], child["result"], accumulated_result=list(task_run.items)
            )
        try:
            run.conductor.update_task_state(task_id, route, event)
            self.advance(run)
        except Exception as error:
            LOG.exception("workflow execution %s", run.execution_id)
            self._fail(run, error, task_id, route)

    def advance(self, run: WorkflowRun) -> None:
        """Start the next tasks, until no task can be started."""
        while True:
            tasks = run.conductor.get_next_tasks()
            for task in tasks:
                self._mark_running(run, task)
            self.update_execution(run)
            if not tasks:
                return
            for task in tasks:
                try:
                    self._start_task(run, task)
                except Exception as error:
                    self._fail(run, error, task["id"], task["route"])
                    return

    def _mark_running(self, run: WorkflowRun, task: dict) -> None:
        events, running = self.orquesta.events, self.orquesta.statuses.RUNNING
        items = [action.get("item_id") for action in task["actions"]]
        for item in [None] if task.get("items_count") == 0 else items:
            event = events.ActionExecutionEvent(running)
            if item is not None:
                event = events.TaskItemActionExecutionEvent(item, running)
            run.conductor.update_task_state(task["id"], task["route"], event)

    def _start_task(self, run: WorkflowRun, task: dict) -> None:
        """Start the executions of a task. A task without an action succeeds immediately."""
        key, has_items = (task["id"], task["route"]), task["spec"].has_items()
        task_run = run.tasks.get(key)
        if task_run is None or not has_items or None not in task_run.items:
            task_run = TaskRun(new_id(), [None] * (task.get("items_count") or 0))
            run.tasks[key] = task_run
        if task["spec"].action is None or (has_items and not task["items_count"]):
            event = self.orquesta.events.ActionExecutionEvent(self.orquesta.statuses.SUCCEEDED)
            run.conductor.update_task_state(*key, event)
            return
        for request in task["actions"]:
            if request["action"] not in self.content.actions:
                raise ValueError(f'Unable to find action "{request["action"]}".')
            item, limit = request.get("item_id"), task.get("concurrency")
            # With a concurrency limit, only the first items are delayed.
            is_delayed = not (has_items and limit and item >= limit)
            self.executor.request(
                request["action"],
                request.get("input") or {},
                build_child_context(run, task, request, task_run),
                delay=(task.get("delay") or 0) if is_delayed else 0,
            )

    def _fail(self, run: WorkflowRun, error: Exception, task_id: str, route: int) -> None:
        if run.conductor.get_workflow_status() not in self.orquesta.statuses.COMPLETED_STATUSES:
            run.conductor.request_workflow_status(self.orquesta.statuses.FAILED)
        run.conductor.log_error(error, task_id=task_id, route=route)
        self.update_execution(run)

    def update_execution(self, run: WorkflowRun) -> None:
        """Write the conductor's status to the execution, and the output once it has ended."""
        conductor, statuses = run.conductor, self.orquesta.statuses
        result = None
        if conductor.get_workflow_status() in statuses.COMPLETED_STATUSES:
            conductor.render_workflow_output()
            result = {"output": conductor.get_workflow_output()}
            if conductor.get_workflow_status() in statuses.ABENDED_STATUSES:
                result["errors"] = list(conductor.errors)
            if not conductor.workflow_state.has_active_tasks:
                self.runs.pop(run.execution_id, None)
        self._set_status(run.execution_id, conductor.get_workflow_status(), result)

    def _set_status(self, execution_id: str, status: str, result: dict | None) -> None:
        if self.store.executions.get(execution_id)["status"] not in COMPLETED:
            self.executor.set_status(execution_id, status, result)


def build_child_context(run: WorkflowRun, task: dict, request: dict, task_run: TaskRun) -> dict:
    """Return the context for an execution that a task starts."""
    orquesta = {
        "workflow_execution_id": run.workflow_execution_id,
        "task_execution_id": task_run.id,
        "task_name": task["spec"].name or task["id"],
        "task_id": task["id"],
        "task_route": task["route"],
    }
    if request.get("item_id") is not None:
        orquesta["item_id"] = request["item_id"]
    return {
        "pack": request["action"].split(".")[0],
        "user": run.user,
        "parent": {"execution_id": run.execution_id, "user": run.user, "pack": run.pack},
        "orquesta": orquesta,
    }

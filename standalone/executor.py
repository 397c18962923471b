"""Create executions, run them, and record how they end."""

from __future__ import annotations

import logging
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Mapping, NamedTuple

from standalone import expressions, runners, schemas
from standalone.content import Content
from standalone.remote_script import remote_script
from standalone.store import COMPLETED, Store, new_id, timestamp

LOG = logging.getLogger("standalone.executions")
MAX_PYTHON_ACTIONS = 8
MAX_WORKFLOWS = 40  # StackStorm's default, actionrunner.workflows_pool_size
MAX_OTHER_ACTIONS = 32
ACTION_KEYS = ("id", "ref", "name", "pack", "uid", "runner_type")


class Origin(NamedTuple):
    """The rule and the trigger instance that caused an execution, if any."""

    rule: dict | None = None
    trigger_instance: dict | None = None


NO_ORIGIN = Origin()


class Executor:
    """A replacement for StackStorm's action service, scheduler and action runner."""

    runners: ClassVar[Mapping[str, runners.Runner]] = {
        **runners.RUNNERS,
        "remote-shell-script": remote_script,
    }
    workflow_runners = ("orquesta",)

    def __init__(self, content: Content, store: Store, engine: Any, api_url: str):
        self.content, self.store, self.engine, self.api_url = content, store, engine, api_url
        engine.executor = self
        self.commands = runners.Commands()
        self._pools = {
            "python-script": ThreadPoolExecutor(MAX_PYTHON_ACTIONS, "python"),
            "workflows": ThreadPoolExecutor(MAX_WORKFLOWS, "workflow"),
            "other": ThreadPoolExecutor(MAX_OTHER_ACTIONS, "runner"),
        }
        self._stopping = False

    def stop(self) -> None:
        """Start no more executions, and kill the running ones."""
        self._stopping = True
        self.commands.kill()
        for pool in self._pools.values():
            pool.shutdown(wait=False)
        self.engine.stop()

    def request(
        self,
        ref: str,
        parameters: dict,
        context: dict,
        origin: Origin = NO_ORIGIN,
        delay: float = 0,
    ) -> str:
        """Create an execution and start it after `delay` seconds.

        Args:
            ref: The reference of the action.
            parameters: The action's parameters. Templates in them are rendered, as in StackStorm.
            context: The context of the execution: its user, its parent and its trace.
            origin: The rule and the trigger instance, whose payload is `trigger` in templates.
            delay: Seconds to wait before the start.

        Returns:
            The id of the execution.

        Raises:
            ValueError: The action does not exist, or its parameters are invalid. If a parameter
                cannot be rendered, a failed execution is also created, as in StackStorm.
        """
        action = self.content.actions.get(ref)
        if action is None:
            raise ValueError(f'Action "{ref}" cannot be found.')
        context = {**context, "pack": action["pack"]}
        parameter_schemas = self.content.get_parameter_schemas(action)
        scope = self._build_scope(action, context)
        if origin.trigger_instance:
            scope["trigger"] = origin.trigger_instance["payload"]
        try:
            values = expressions.render_parameters(parameters, parameter_schemas, scope)
        except expressions.ParameterError as error:
            execution_id = self._create(action, parameters, context, origin)
            self.set_status(execution_id, "failed", {"error": str(error), "traceback": ""})
            raise
        stored_parameters = select_stored_parameters(parameters, values, parameter_schemas)
        validate(action, stored_parameters, parameter_schemas)
        execution_id = self._create(action, stored_parameters, context, origin)
        if delay:
            self.set_status(execution_id, "delayed")
            self._start_later(execution_id, delay)
        else:
            self._start(execution_id)
        return execution_id

    def _build_scope(self, action: dict, context: dict) -> dict[str, Any]:
        user, system = expressions.Datastore({}), expressions.Datastore(self.store.keys)
        config = self.content.configs.get(action["pack"], {})
        st2kv = {"system": system, "user": user}
        return {"st2kv": st2kv, "action_context": context, "config_context": config}

    def _create(self, action: dict, parameters: dict, context: dict, origin: Origin) -> str:
        now, execution_id = timestamp(), new_id()
        parent_id = context.get("parent", {}).get("execution_id")
        execution = {
            "id": execution_id,
            "status": "requested",
            "start_timestamp": now,
            "parameters": parameters,
            "result": {},
            "action": {key: action[key] for key in ACTION_KEYS},
            "runner": {"name": action["runner_type"]},
            "context": context,
            "children": [],
            "liveaction": {"id": new_id(), "action": action["ref"], "parameters": parameters},
            "log": [{"status": "requested", "timestamp": now}],
            "web_url": f"{self.api_url}/executions/{execution_id}",
        }
        if origin.rule:
            execution["rule"] = {k: origin.rule[k] for k in ("id", "ref", "name", "pack")}
            execution["trigger_instance"] = origin.trigger_instance
        if parent_id:
            execution["parent"] = parent_id
        self.store.executions.add(execution)
        if parent_id:
            self.store.executions.append(parent_id, "children", execution_id)
        self._add_to_trace(execution, context.get("trace_context") or {}, origin)
        return execution_id

    def _add_to_trace(self, execution: dict, trace_context: dict, origin: Origin) -> None:
        """Add an execution to the trace of its cause, or to a new trace."""
        caused_by: dict = {}
        trace_id = trace_context.get("id_")
        if origin.rule and origin.trigger_instance:
            ids = f"{origin.rule['id']}:{origin.trigger_instance['id']}"
            caused_by = {"type": "rule", "id": ids}
        elif "parent" in execution and not trace_context:
            trace_id = self.store.find_trace_id(execution["parent"])
            caused_by = {"type": "execution", "id": execution["parent"]}
        if not trace_id:
            tag = trace_context.get("trace_tag") or f"execution-{execution['id']}"
            trace_id = self.store.create_trace(tag)
        ref = execution["action"]["ref"]
        self.store.extend_trace(trace_id, "action_executions", execution["id"], ref, caused_by)

    def set_status(
        self,
        execution_id: str,
        status: str,
        result: dict | None = None,
        context: dict | None = None,
    ) -> None:
        """Change the status of an execution, unless it has ended."""
        with self.store.lock:
            execution = self.store.executions.get(execution_id)
            if execution is None or execution["status"] in COMPLETED:
                return
            if execution["status"] == status and result is None:
                return
            now = timestamp()
            changes: dict = {"status": status}
            changes["log"] = [*execution["log"], {"status": status, "timestamp": now}]
            if result is not None:
                changes["result"] = result
            if context is not None:
                changes["context"] = context
            if status in COMPLETED:
                changes["end_timestamp"] = now
            self.store.executions.change(execution_id, **changes)
        if status in (*COMPLETED, "pending", "paused") and "orquesta" in execution["context"]:
            self.engine.post(self.engine.handle_child_change, execution_id)

    def _start_later(self, execution_id: str, seconds: float) -> None:
        timer = threading.Timer(seconds, self._start, [execution_id])
        timer.daemon = True
        timer.start()

    def _start(self, execution_id: str) -> None:
        execution = self.store.executions.get(execution_id)
        if self._stopping or execution is None or execution["status"] in COMPLETED:
            return
        self.set_status(execution_id, "scheduled")
        self._select_pool(execution).submit(self._run, execution_id)

    def _select_pool(self, execution: dict) -> ThreadPoolExecutor:
        runner = execution["runner"]["name"]
        name = "workflows" if runner in self.workflow_runners else runner
        return self._pools.get(name, self._pools["other"])

    def _run(self, execution_id: str) -> None:
        if self._stopping:
            return
        execution = self.store.executions.get(execution_id)
        action = self.content.actions[execution["action"]["ref"]]
        self.set_status(execution_id, "running")
        try:
            runner_parameters, parameters = self._render_parameters(action, execution)
            if action["runner_type"] == "orquesta":
                self.engine.post(self.engine.start, execution_id, parameters)
                return
            runner = self.runners[action["runner_type"]]
            run = runners.Run(self, execution, action, runner_parameters, parameters)
            status, result = runner(run)
        except Exception as error:
            LOG.warning("execution %s of %s: %s", execution_id, action["ref"], error)
            status, result = "failed", {"error": str(error), "traceback": traceback.format_exc()}
        if not self._stopping:
            self.set_status(execution_id, status, result)

    def _render_parameters(self, action: dict, execution: dict) -> tuple[dict, dict]:
        """Return the parameters of the runner and of the action, with defaults."""
        parameter_schemas = self.content.get_parameter_schemas(action)
        scope = self._build_scope(action, execution["context"])
        values = expressions.render_defaults(execution["parameters"], parameter_schemas, scope)
        runner_schemas = self.content.runner_types[action["runner_type"]]
        values = {n: expressions.cast(v, parameter_schemas.get(n, {})) for n, v in values.items()}
        action_parameters = {
            n: v for n, v in values.items() if n not in runner_schemas and n in parameter_schemas
        }
        return {n: v for n, v in values.items() if n in runner_schemas}, action_parameters


def select_stored_parameters(passed: dict, values: dict, parameter_schemas: dict) -> dict:
    """Return the parameters to store: those that were passed, and rendered defaults."""
    stored = {n: expressions.cast(values[n], parameter_schemas.get(n, {})) for n in passed}
    for name, schema in parameter_schemas.items():
        is_template = expressions.is_template(schema.get("default"))
        if name not in passed and is_template and not schema.get("immutable"):
            stored[name] = expressions.cast(values[name], schema)
    return stored


def validate(action: dict, parameters: dict, parameter_schemas: dict) -> None:
    """Raise ValueError if an action is disabled or does not accept these parameters."""
    if not action["enabled"]:
        raise ValueError(f'Unable to execute. Action "{action["ref"]}" is disabled.')
    schema = {"type": "object", "properties": parameter_schemas, "additionalProperties": False}
    schemas.check(schemas.apply_defaults(parameters, schema), schema, allow_null=True)
    immutable = [n for n in parameters if parameter_schemas.get(n, {}).get("immutable")]
    if immutable:
        raise ValueError(f"Override of immutable parameter(s) {immutable} is unsupported.")

"""Executions: how they are requested, wait for their policies, run, end and are canceled."""

import logging
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

from standalone import expressions, runners, schemas
from standalone.content import COMPLETION_TRIGGER
from standalone.forks import Forks
from standalone.store import COMPLETED, new_id, timestamp

LOG = logging.getLogger("standalone.executions")
PYTHON_ACTIONS_AT_ONCE = 8
WORKFLOWS_AT_ONCE = 40  # StackStorm's own default: actionrunner.workflows_pool_size
WORKFLOW_RUNNERS = ("orquesta", "action-chain")
# POLICY_DELAYED_EXECUTION_RESCHEDULE_TIME_MS in st2actions/scheduler/handler.py
DELAYED_BY_POLICY = 2.5


class Executor:
    """StackStorm's action service, scheduler and action runner."""

    def __init__(self, content, store, engine, api_url, emit=None):
        self.content, self.store, self.engine, self.api_url = content, store, engine, api_url
        engine.executor = self
        self.emit = emit
        self.commands, self.forks = runners.Commands(), Forks()
        self._pools = {
            "python-script": ThreadPoolExecutor(PYTHON_ACTIONS_AT_ONCE, "python"),
            "workflows": ThreadPoolExecutor(WORKFLOWS_AT_ONCE, "workflow"),
            "other": ThreadPoolExecutor(32, "runner"),
        }
        self._waiting, self._busy = [], {}
        self._changed, self._stopping = threading.Condition(), False
        threading.Thread(target=self._schedule, name="scheduler", daemon=True).start()

    def stop(self):
        """Start nothing more and kill what runs."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self.commands.kill()
        self.forks.kill()
        for pool in self._pools.values():
            pool.shutdown(wait=False)
        self.engine.stop()

    def request(self, ref, given, context, scope=None, rule=None, trigger_instance=None, delay=0):
        """Create an execution and have it scheduled; returns its id.

        What is wrong with the action or its parameters is a ValueError. A parameter that does
        not render leaves a failed execution as well, as in StackStorm.
        """
        action = self.content.actions.get(ref)
        if action is None:
            raise ValueError(f'Action "{ref}" cannot be found.')
        context = dict(context, pack=action["pack"])
        parameter_schemas = self.content.parameters_of(action)
        scope = dict(self._scope(action, context), **(scope or {}))
        origin = {"rule": rule, "trigger_instance": trigger_instance}
        try:
            values = expressions.render_parameters(given, parameter_schemas, scope)
        except expressions.ParameterError as error:
            execution_id = self._create(action, given, context, origin)
            self.set_status(execution_id, "failed", {"error": str(error), "traceback": ""})
            raise
        live = {n: expressions.cast(values[n], parameter_schemas.get(n, {})) for n in given}
        for name, schema in parameter_schemas.items():
            if name not in given and expressions.is_template(schema.get("default")):
                if not schema.get("immutable"):
                    live[name] = expressions.cast(values[name], schema)
        self._validate(action, live, parameter_schemas)
        execution_id = self._create(action, live, context, origin)
        if delay:
            self.set_status(execution_id, "delayed")
        with self._changed:
            self._waiting.append((time.monotonic() + delay, execution_id))
            self._changed.notify()
        return execution_id

    def _scope(self, action, context):
        datastore = expressions.Datastore(self.store.keys)
        user = expressions.Datastore({})
        config = self.content.configs.get(action["pack"], {})
        st2kv = {"system": datastore, "user": user}
        return {"st2kv": st2kv, "action_context": context, "config_context": config}

    @staticmethod
    def _validate(action, live, parameter_schemas):
        if not action["enabled"]:
            raise ValueError('Unable to execute. Action "{}" is disabled.'.format(action["ref"]))
        schema = {"type": "object", "properties": parameter_schemas, "additionalProperties": False}
        schemas.check(schemas.with_defaults(live, schema), schema, nulls=True)
        fixed = [n for n in live if parameter_schemas.get(n, {}).get("immutable")]
        if fixed:
            raise ValueError(f"Override of immutable parameter(s) {fixed} is unsupported.")

    def _create(self, action, parameters, context, origin):
        execution_id = new_id()
        parent_id = context.get("parent", {}).get("execution_id")
        trace_context = context.get("trace_context") or {}
        trace_id = trace_context.get("id_")
        caused_by = {}
        if origin["rule"]:
            ids = (origin["rule"]["id"], origin["trigger_instance"]["id"])
            caused_by = {"type": "rule", "id": "{}:{}".format(*ids)}
        elif not trace_id and trace_context.get("trace_tag"):
            trace_id = self.store.new_trace(trace_context["trace_tag"])
        elif not trace_id and parent_id:
            trace_id = self.store.trace_of(parent_id)
            caused_by = {"type": "execution", "id": parent_id}
        if not trace_id:
            trace_id = self.store.new_trace("execution-" + execution_id)
        now, shown = timestamp(), ("id", "ref", "name", "pack", "uid", "runner_type")
        execution = {
            "id": execution_id,
            "status": "requested",
            "start_timestamp": now,
            "parameters": parameters,
            "result": {},
            "action": {key: action[key] for key in shown},
            "runner": {"name": action["runner_type"]},
            "context": context,
            "children": [],
            "liveaction": {"id": new_id(), "action": action["ref"], "parameters": parameters},
            "log": [{"status": "requested", "timestamp": now}],
            "web_url": f"{self.api_url}/executions/{execution_id}",
        }
        if origin["rule"]:
            execution["rule"] = {k: origin["rule"][k] for k in ("id", "ref", "name", "pack")}
            execution["trigger_instance"] = origin["trigger_instance"]
        with self.store.lock:
            self.store.executions.add(execution)
            if parent_id:
                execution["parent"] = parent_id
                parent = self.store.executions.get(parent_id)
                if parent:
                    children = parent["children"] + [execution_id]
                    self.store.executions.change(parent_id, children=children)
        self.store.extend_trace(
            trace_id, "action_executions", execution_id, action["ref"], caused_by
        )
        return execution_id

    def ended(self, execution_id):
        """Wait for the end of an execution; returns it."""
        while not self._stopping:
            execution = self.store.executions.get(execution_id)
            if execution["status"] in COMPLETED:
                return execution
            time.sleep(0.1)
        raise RuntimeError("stopping")

    def set_status(self, execution_id, status, result=None, context=None):
        """Move an execution on; one that has ended stays as it is."""
        with self.store.lock:
            execution = self.store.executions.get(execution_id)
            if execution is None or execution["status"] in COMPLETED:
                return
            if execution["status"] == status and result is None:
                return
            now = timestamp()
            log = execution["log"] + [{"status": status, "timestamp": now}]
            changes = {"status": status, "log": log}
            changes.update({"result": result} if result is not None else {})
            changes.update({"context": context} if context is not None else {})
            if status in COMPLETED:
                changes["end_timestamp"] = now
            execution = self.store.executions.change(execution_id, **changes)
        with self._changed:
            if status in ("scheduled", "running"):
                live = execution["parameters"]
                self._busy[execution_id] = (execution["action"]["ref"], live)
            else:
                self._busy.pop(execution_id, None)
                self._changed.notify()
        if status in COMPLETED + ("pending", "paused") and "orquesta" in execution["context"]:
            self.engine.post(self.engine.child_changed, execution_id)
        if status in COMPLETED and self.emit:
            self._emit_completion(execution)

    def _emit_completion(self, execution):
        payload = {"execution_id": execution["id"], "action_ref": execution["action"]["ref"]}
        payload.update(action_name=execution["action"]["name"], status=execution["status"])
        payload.update(runner_ref=execution["runner"]["name"], result=execution["result"])
        for key in ("parameters", "start_timestamp"):
            payload[key] = execution[key]
        trace = self.store.traces.get(self.store.trace_of(execution["id"])) or {}
        context = {"id_": trace.get("id"), "trace_tag": trace.get("trace_tag")}
        self.emit(COMPLETION_TRIGGER, payload, context)

    def _schedule(self):
        while True:
            with self._changed:
                ready = None
                while ready is None and not self._stopping:
                    now = time.monotonic()
                    ready = self._next(now)
                    if ready is None:
                        due = [at - now for at, _ in self._waiting if at > now]
                        self._changed.wait(min(due) if due else None)
                if self._stopping:
                    return
                self._waiting.remove(ready)
            execution = self.store.executions.get(ready[1])
            if execution is None or execution["status"] in COMPLETED:
                continue
            self.set_status(ready[1], "scheduled")
            self._pool(execution).submit(self._run, ready[1])

    def _pool(self, execution):
        runner = execution["runner"]["name"]
        name = "workflows" if runner in WORKFLOW_RUNNERS else runner
        return self._pools.get(name, self._pools["other"])

    def _next(self, now):
        """What is due and may run; what a policy delays is looked at again later."""
        for index, waiting in enumerate(self._waiting):
            if waiting[0] <= now:
                if self._may(waiting):
                    return waiting
                self._waiting[index] = (now + DELAYED_BY_POLICY, waiting[1])
        return None

    def _may(self, waiting):
        """Apply the policies: an execution over a threshold is delayed, or canceled."""
        execution = self.store.executions.get(waiting[1])
        if execution is None or execution["status"] in COMPLETED:
            return True  # to be dropped by the scheduler
        for policy in self.content.policies.values():
            if policy["resource_ref"] != execution["action"]["ref"]:
                continue
            # Only parameters that were passed count; a default does not.
            wanted = policy["parameters"].get("attributes") or []
            live = execution["parameters"]
            same = {name: live[name] for name in wanted if name in live}
            others = [p for ref, p in self._busy.values() if ref == execution["action"]["ref"]]
            count = sum(1 for p in others if all(p.get(n) == v for n, v in same.items()))
            if count < policy["parameters"]["threshold"]:
                continue
            cancel = policy["parameters"].get("action") == "cancel"
            if cancel or execution["status"] == "requested":
                self.set_status(waiting[1], "canceled" if cancel else "delayed")
            return False
        return True

    def _run(self, execution_id):
        if self._stopping:
            return
        execution = self.store.executions.get(execution_id)
        action = self.content.actions[execution["action"]["ref"]]
        self.set_status(execution_id, "running")
        try:
            runner_parameters, parameters = self._final_parameters(action, execution)
            if action["runner_type"] == "orquesta":
                self.engine.post(self.engine.start, execution_id, parameters)
                return
            run = runners.RUNNERS[action["runner_type"]]
            status, result = run(self, execution, action, runner_parameters, parameters)
        except Exception as error:
            LOG.warning("execution %s of %s: %s", execution_id, action["ref"], error)
            status, result = "failed", {"error": str(error), "traceback": traceback.format_exc()}
        if not self._stopping:
            self.set_status(execution_id, status, result)

    def _final_parameters(self, action, execution):
        """Return (the runner's, the action's) parameters, every declared one with a value."""
        parameter_schemas = self.content.parameters_of(action)
        scope = self._scope(action, execution["context"])
        values = expressions.render_defaults(execution["parameters"], parameter_schemas, scope)
        of_runner = self.content.runner_types[action["runner_type"]]
        values = {n: expressions.cast(v, parameter_schemas.get(n, {})) for n, v in values.items()}
        return (
            {n: v for n, v in values.items() if n in of_runner},
            {n: v for n, v in values.items() if n not in of_runner and n in parameter_schemas},
        )

    def cancel(self, execution_id, user="stanley"):
        """Cancel an execution; ValueError when it has ended. A running process is left to end."""
        execution = self.store.executions.get(execution_id)
        if execution["status"] in COMPLETED:
            text = "Action cannot be canceled. State = %s."
            raise ValueError(text % execution["status"])
        context = dict(execution["context"], cancelled_by=user)
        under_way = ("running", "pausing", "paused", "resuming", "canceling")
        if execution["runner"]["name"] == "orquesta" and execution["status"] in under_way:
            self.set_status(execution_id, "canceling", context=context)
            self.engine.post(self.engine.cancel, execution_id)
        else:
            result = {"message": "Action canceled by user.", "user": user}
            self.set_status(execution_id, "canceled", result, context)

    def pause(self, execution_id, user="stanley"):
        """Have a workflow start no more tasks; ValueError where it is none, or does not run."""
        self._workflow_in(execution_id, "pause", ("running", "pausing", "paused"))
        self.engine.post(self.engine.pause, execution_id, user).result(10)

    def resume(self, execution_id, user="stanley"):
        """Go on with a workflow that paused; ValueError where it is none, or did not pause."""
        self._workflow_in(execution_id, "resume", ("running", "resuming", "paused"))
        execution = self.store.executions.get(execution_id)
        if execution["status"] == "paused":
            self.set_status(execution_id, "resuming")
            self._pool(execution).submit(self.engine.post, self.engine.resume, execution_id, user)

    def _workflow_in(self, execution_id, verb, statuses):
        execution = self.store.executions.get(execution_id)
        text = f'Unable to {verb} liveaction "{execution_id}" because it is '
        runner, status = execution["runner"]["name"], execution["status"]
        if runner != "orquesta":
            raise ValueError(text + f'not supported by the "{runner}" runner.')
        if status not in statuses:
            raise ValueError(text + f'in "{status}" state.')

    def answer(self, execution_id, response, user="stanley"):
        """Answer an inquiry; ValueError when it is none, has an answer already, or a bad one."""
        execution = self.store.executions.get(execution_id)
        if execution["runner"]["name"] != "inquirer":
            raise ValueError(f"{execution_id} is not an Inquiry.")
        if execution["status"] != "pending":
            raise ValueError(f"Inquiry {execution_id} has already been responded to")
        schemas.check(response, execution["result"]["schema"], nulls=True)
        if "orquesta" in execution["context"]:
            parent_id = execution["context"]["parent"]["execution_id"]
            # The parent goes on first: the end of its child finds it running.
            self.engine.post(self.engine.resume, parent_id, user).result(10)
        self.set_status(execution_id, "succeeded", dict(execution["result"], response=response))

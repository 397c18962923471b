"""Run action chains, apply policies, and cancel, pause and resume executions."""

from __future__ import annotations

import threading
import time

from standalone import executor, expressions, runners, schemas
from standalone.content import read_yaml
from standalone.store import COMPLETED
from tests.standin.forks import Forks

# POLICY_DELAYED_EXECUTION_RESCHEDULE_TIME_MS in st2actions/scheduler/handler.py
DELAYED_BY_POLICY = 2.5  # seconds
USER = "stanley"


class Executor(executor.Executor):
    """The executor, which also applies policies and can cancel, pause and resume."""

    workflow_runners = ("orquesta", "action-chain")

    def __init__(self, content, store, engine, api_url):
        super().__init__(content, store, engine, api_url)
        self.runners = {
            **self.runners,
            "python-script": run_python_script,
            "action-chain": run_action_chain,
        }
        self.forks = Forks()
        self._starting = threading.Lock()

    def stop(self):
        """Start no more executions, and kill the running ones."""
        self.forks.kill()
        super().stop()

    def wait_until_ended(self, execution_id):
        """Wait until an execution has ended, and return it."""
        while not self._stopping:
            execution = self.store.executions.get(execution_id)
            if execution["status"] in COMPLETED:
                return execution
            time.sleep(0.1)
        raise RuntimeError("stopping")

    def _start(self, execution_id):
        """Start an execution, unless a policy delays or cancels it."""
        with self._starting:
            execution = self.store.executions.get(execution_id)
            policy = self._find_blocking_policy(execution) if execution else None
            if policy is None:
                super()._start(execution_id)
            elif policy["parameters"].get("action") == "cancel":
                self.set_status(execution_id, "canceled")
            else:
                # Only the first time, because a test may have set another status since then.
                if "delayed" not in [entry["status"] for entry in execution["log"]]:
                    self.set_status(execution_id, "delayed")
                self._start_later(execution_id, DELAYED_BY_POLICY)

    def _find_blocking_policy(self, execution):
        """Return a policy that delays or cancels the execution, or None."""
        action_ref, parameters = execution["action"]["ref"], execution["parameters"]
        for policy in self.content.policies:
            # A parameter that was not passed is not compared, even if it has a default.
            names = policy["parameters"].get("attributes") or []
            expected_values = {name: parameters[name] for name in names if name in parameters}

            def is_counted(other, action_ref=action_ref, expected_values=expected_values):
                return (
                    other["action"]["ref"] == action_ref
                    and other["status"] in ("scheduled", "running")
                    and all(
                        other["parameters"].get(name) == value
                        for name, value in expected_values.items()
                    )
                )

            count, _ = self.store.executions.select(is_counted, limit=0)
            if policy["resource_ref"] == action_ref and count >= policy["parameters"]["threshold"]:
                return policy
        return None

    def cancel(self, execution_id):
        """Cancel an execution without ending its process. Raise ValueError if it has ended."""
        execution = self.store.executions.get(execution_id)
        if execution["status"] in COMPLETED:
            raise ValueError(f"Action cannot be canceled. State = {execution['status']}.")
        context = {**execution["context"], "cancelled_by": USER}
        in_progress = ("running", "pausing", "paused", "resuming", "canceling")
        if execution["runner"]["name"] == "orquesta" and execution["status"] in in_progress:
            self.set_status(execution_id, "canceling", context=context)
            self.engine.post(self.engine.cancel, execution_id)
        else:
            result = {"message": "Action canceled by user.", "user": USER}
            self.set_status(execution_id, "canceled", result, context)

    def pause(self, execution_id):
        """Pause a workflow. Raise ValueError if the execution cannot be paused."""
        self._check_workflow(execution_id, "pause", ("running", "pausing", "paused"))
        self.engine.post(self.engine.pause, execution_id, USER).result(10)

    def resume(self, execution_id):
        """Resume a workflow. Raise ValueError if the execution cannot be resumed."""
        execution = self._check_workflow(execution_id, "resume", ("running", "resuming", "paused"))
        if execution["status"] == "paused":
            self.set_status(execution_id, "resuming")
            self._select_pool(execution).submit(
                self.engine.post, self.engine.resume, execution_id, USER
            )

    def _check_workflow(self, execution_id, verb, statuses):
        execution = self.store.executions.get(execution_id)
        text = f'Unable to {verb} liveaction "{execution_id}" because it is '
        runner, status = execution["runner"]["name"], execution["status"]
        if runner != "orquesta":
            raise ValueError(f'{text}not supported by the "{runner}" runner.')
        if status not in statuses:
            raise ValueError(f'{text}in "{status}" state.')
        return execution

    def respond(self, execution_id, response, user):
        """Answer an inquiry.

        Raise ValueError if the inquiry is not open or the response is invalid, and PermissionError
        if the user may not answer it.
        """
        execution = self.store.executions.get(execution_id)
        if execution["status"] != "pending":
            raise ValueError(f"Inquiry {execution_id} has already been responded to")
        users = execution["result"].get("users")
        if users and user not in users:
            raise PermissionError(
                f'User "{user}" does not have permission to respond to inquiry "{execution_id}".'
            )
        schemas.check(response, execution["result"]["schema"], allow_null=True)
        if "orquesta" in execution["context"]:
            parent_id = execution["context"]["parent"]["execution_id"]
            # The parent resumes first, so that it is running when its child ends.
            self.engine.post(self.engine.resume, parent_id, user).result(10)
        self.set_status(execution_id, "succeeded", {**execution["result"], "response": response})


def run_python_script(run):
    """Run a Python action in a fork of a process that has loaded the common modules."""
    task, environment = runners.build_python_task(run)
    ended = run.executor.forks.run(task, run.runner_parameters.get("timeout"), environment)
    return runners.build_python_result(run, task["mark"], ended)


def run_action_chain(run):
    """Run the tasks of a chain one by one in this thread."""
    chain = read_yaml(run.action["file_path"])
    tasks = {task["name"]: task for task in chain["chain"]}
    name, status, task_results = chain.get("default") or chain["chain"][0]["name"], "succeeded", []
    parent = {**run.execution["context"], "execution_id": run.execution["id"]}
    context = {"user": run.execution["context"].get("user"), "parent": parent}
    while name:
        task = tasks[name]
        parameters = {
            name: expressions.render(name, value, run.parameters.get)
            for name, value in (task.get("parameters") or {}).items()
        }
        child = run.executor.wait_until_ended(
            run.executor.request(task["ref"], parameters, context)
        )
        status = child["status"]
        outcome = {"name": name, "execution_id": child["id"], "state": status}
        task_results.append({**outcome, "action": task["ref"], "result": child["result"]})
        name = task.get("on-success" if status == "succeeded" else "on-failure")
        if run.executor.store.executions.get(run.execution["id"])["status"] in COMPLETED:
            break  # the chain was canceled
    return status, {"tasks": task_results, "published": {}}

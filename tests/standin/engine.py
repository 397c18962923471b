"""Cancel, pause and resume workflows."""

from __future__ import annotations

from standalone import orquesta_engine


class WorkflowEngine(orquesta_engine.WorkflowEngine):
    """The workflow engine, whose workflows can be canceled, paused and resumed."""

    def cancel(self, execution_id):
        """Start no more tasks. The workflow is canceled when the running tasks have ended."""
        run = self.runs.get(execution_id)
        if run is None:
            return
        run.conductor.request_workflow_status(self.orquesta.statuses.CANCELED)
        children = self.store.executions.get(execution_id)["children"]
        workflow_ids = [child_id for child_id in children if child_id in self.runs]
        for child_id in children:
            if child_id in workflow_ids:
                self.cancel(child_id)
            elif self.store.executions.get(child_id)["status"] == "delayed":
                self.executor.set_status(child_id, "canceled")
        # As in StackStorm, a workflow is not canceled until the workflows that it started are.
        if not workflow_ids:
            self.update_execution(run)

    def pause(self, execution_id, user):
        """Start no more tasks. The workflow is paused when the running tasks have ended."""
        run, statuses = self.runs.get(execution_id), self.orquesta.statuses
        if run is None or run.conductor.get_workflow_status() != statuses.RUNNING:
            return
        run.conductor.request_workflow_status(statuses.PAUSED)
        self._update_context(execution_id, paused_by=user)
        self.update_execution(run)

    def resume(self, execution_id, user=None):
        """Resume a workflow that was paused by an inquiry or on request, and its parents.

        Like StackStorm, record who resumed it only in the workflow itself, not in its parents.
        """
        run, statuses = self.runs.get(execution_id), self.orquesta.statuses
        if run is None or run.conductor.get_workflow_status() not in statuses.PAUSE_STATUSES:
            return
        run.conductor.request_workflow_status(statuses.RESUMING)
        run.conductor.request_workflow_status(statuses.RUNNING)
        self.advance(run)
        context = self._update_context(execution_id, **({"resumed_by": user} if user else {}))
        if "orquesta" not in context:
            return
        parent_id, task_context = context["parent"]["execution_id"], context["orquesta"]
        self.resume(parent_id)
        if parent_id in self.runs and task_context.get("item_id") is None:
            event = self.orquesta.events.ActionExecutionEvent(statuses.RUNNING)
            conductor = self.runs[parent_id].conductor
            conductor.update_task_state(task_context["task_id"], task_context["task_route"], event)

    def _update_context(self, execution_id, **changes):
        context = {**self.store.executions.get(execution_id)["context"], **changes}
        self.store.executions.change(execution_id, context=context)
        return context

"""Find places where StackStorm would evaluate untrusted text.

The output of a command, the result of another pack and the text of an alert are evaluated again
wherever an expression of a workflow uses them, and when a rule passes them to a workflow or a
command.
"""

from __future__ import annotations

import re

from tests.content.stackstorm import OWN_RESULT_RUNNERS

# The trigger fields that contain text of an alert. The pack generates or validates all others.
ALERT_TEXT = {
    "alert_name",
    "severity",
    "instance",
    "job",
    "labels",
    "receiver",
    "annotations",
    "summary",
    "message",
    "reason",
    "change",
    "target",
}

EXPRESSION = re.compile(r"<%(.*?)%>|\{\{(.*?)\}\}|\{%(.*?)%\}", re.DOTALL)
RESULT_CALL = re.compile(r"\bresult\s*\(")
TASK_CALL = re.compile(r"\btask\s*\(\s*(?:'([^']*)'|\"([^\"]*)\"|([^)]*?))\s*\)(\s*\.\s*status\b)?")
TRIGGER_FIELD = re.compile(r"\btrigger\b(?:\.(\w+)|\[\s*['\"](\w+)['\"]\s*\])?")
ACTION_CONTEXT = re.compile(r"\baction_context\b[\w.]*")


def find_expressions(value):
    """Yield every YAQL or Jinja expression in a value, at any depth, keys included."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from find_expressions(key)
            yield from find_expressions(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from find_expressions(item)
    elif isinstance(value, str):
        for match in EXPRESSION.finditer(value):
            yield next(group for group in match.groups() if group is not None)


def check_workflow(pack, workflow):
    """Yield a problem for each expression that uses the result of another pack's code."""
    tasks = workflow.get("tasks") or {}
    trusted_tasks = {
        name
        for name, task in tasks.items()
        if str(task.get("action")).startswith(f"{pack.ref}.")
        and pack.find_runner(task.get("action")) in OWN_RESULT_RUNNERS
    }
    for key, value in workflow.items():
        if key != "tasks":
            yield from check_text(key, value, None, trusted_tasks, tasks)
    for name, task in tasks.items():
        for key, value in task.items():
            # result() is the result of the task, and exists only after the task has ended.
            own_task = name if key in ("next", "retry") else None
            yield from check_text(f"task {name}, {key}", value, own_task, trusted_tasks, tasks)


def check_text(where, value, own_task, trusted_tasks, tasks):
    """Yield a problem for each expression in one place that uses an untrusted result."""
    for expression in find_expressions(value):
        if RESULT_CALL.search(expression):
            if own_task is None:
                yield f"{where}: result() is not available here"
            elif own_task not in trusted_tasks:
                yield untrusted_result_problem(where, own_task, tasks)
        for call in TASK_CALL.finditer(expression):
            name = call[1] or call[2] or call[3]
            if name not in tasks:
                yield f"{where}: task({name}) is not a task of this workflow"
            elif name not in trusted_tasks and not call[4]:
                yield untrusted_result_problem(where, name, tasks)


def untrusted_result_problem(where, task, tasks):
    """Return the problem with an expression that uses the result of another pack's task."""
    action = tasks[task].get("action", "a task without an action")
    return (
        f"{where}: an expression uses the result of {action} (task {task}), which is evaluated "
        "again; let an action of this pack read it through the API"
    )


def check_rule(pack, action, declared):
    """Yield a problem for each parameter of a rule that passes alert text to an unsafe action."""
    called_action = pack.find_action(action.get("ref")) or {}
    is_python_action = called_action.get("runner_type") == "python-script"
    for expression in find_expressions(action.get("parameters")):
        for match in TRIGGER_FIELD.finditer(ACTION_CONTEXT.sub("", expression)):
            field = match[1] or match[2]
            if declared is not None and field is not None and field not in declared:
                yield f"the trigger has no {field}"
            if (field is None or field in ALERT_TEXT) and not is_python_action:
                yield (
                    f"passes {match[0]} to {action.get('ref')}; pass request_id and episode, and "
                    "let an action of this pack read everything else"
                )

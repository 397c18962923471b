"""Run one Python action. This file is the main program of the action's process.

The program reads {file, config, parameters, mark} as JSON from stdin, and writes the action's
return value to stdout, between two marks.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import os
import sys
from typing import Any


class ActionService:
    """The service that StackStorm passes to an action. It only provides a client of the API."""

    def __init__(self) -> None:
        self.datastore_service = self

    def get_api_client(self) -> Any:
        """Return a client of the API with this execution's token."""
        from st2client.client import Client

        return Client(
            api_url=os.environ["ST2_ACTION_API_URL"], token=os.environ["ST2_ACTION_AUTH_TOKEN"]
        )


def load_action_class(path: str) -> Any:
    """Return the action class in a file: the first class, by name, that has a run() method."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # not in sys.modules, as in StackStorm
    for _, candidate in sorted(inspect.getmembers(module, inspect.isclass)):
        if candidate.__module__ == name and callable(getattr(candidate, "run", None)):
            return candidate
    raise ImportError(f"file {path!r} has no action class")


def run(task: dict) -> None:
    """Run the action of a task and write its result."""
    here = os.path.dirname(os.path.realpath(__file__))
    # As in StackStorm, an action cannot import the modules in this folder.
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != here]
    sys.path += [os.path.join(here, "st2"), os.path.dirname(task["file"])]
    action_class = load_action_class(task["file"])
    action = action_class(config=task["config"], action_service=ActionService())
    output = action.run(**task["parameters"])
    status = None
    if isinstance(output, tuple) and len(output) == 2:
        status, output = output
        if not isinstance(status, bool):
            sys.exit("Status returned from the action run() method must either be True or False")
    try:
        text = json.dumps({"status": status, "result": output})
    except (TypeError, ValueError):
        text = json.dumps({"status": status, "result": str(output)})
    sys.stdout.flush()
    sys.stdout.buffer.write((task["mark"] + text + task["mark"]).encode())
    sys.stdout.flush()


if __name__ == "__main__":
    run(json.loads(sys.stdin.buffer.read().decode()))

"""Run Python actions in forks of a process that has already loaded their common modules.

These modules include the pack's own code in this repository. An action of another pack, or of
another copy of this pack, loads its own code, as under StackStorm.

This file is also the main program of the process that forks.
"""

from __future__ import annotations

import gc
import glob
import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress

LIBRARIES = (
    "sqlalchemy",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.sqlite",
    "st2client.client",
)


class Forks:
    """Runs tasks of python_action.py, each in a separate process and process group."""

    def __init__(self):
        from tests.forks import ForkServer

        self._server = ForkServer([sys.executable, "-u", os.path.abspath(__file__)])
        self._lock, self._running, self._killed = threading.Lock(), set(), False

    def run(self, task, timeout, environment):
        """Run a task until it ends or exceeds its timeout in seconds."""
        from standalone.runners import ProcessResult

        with ExitStack() as stack:
            stdin, *outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            stdin.write(json.dumps({"task": task, "environment": environment}).encode())
            stdin.seek(0)
            code, timed_out = self._run_to_end([stdin, *outputs], timeout)
            texts = []
            for file in outputs:
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))
        return ProcessResult(code, *texts, timed_out)

    def _run_to_end(self, streams, timeout):
        with self._lock:
            if self._killed:
                raise RuntimeError("stopping")
            process = self._server.start(*streams)
            self._running.add(process)
        try:
            return process.wait(timeout or None), False
        except subprocess.TimeoutExpired:
            process.kill_group()
            return process.wait(), True
        finally:
            with self._lock:
                self._running.discard(process)

    def kill(self):
        """Kill all running tasks, and refuse new ones."""
        with self._lock:
            self._killed = True
            for process in self._running:
                process.kill_group()
            self._server.close()


def load_actions(directory):
    """Load the pack's Python actions once, and return the names of the modules of the pack.

    Actions load the pack's own code through the symbolic link `lib` in `directory`.
    """
    before = set(sys.modules)
    paths = [os.path.join(directory, "lib"), directory]
    sys.path += paths
    for file in sorted(glob.glob(os.path.join(directory, "*.py"))):
        if os.path.basename(file) != "pack_action.py":  # the base class of the others
            python_action.load_action_class(file)
    del sys.path[-len(paths) :]
    origins = {name: getattr(sys.modules[name], "__file__", None) for name in sys.modules}
    return {
        name for name in set(sys.modules) - before if (origins[name] or "").startswith(directory)
    }


def read_task(streams):
    """Use these descriptors as stdin, stdout and stderr, and return the task in stdin."""
    for number, file in enumerate(streams):
        os.dup2(file, number)
        os.close(file)
    with open(0, "rb", closefd=False) as task_file:
        message = json.loads(task_file.read().decode())
    os.environ.clear()
    os.environ.update(message["environment"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return message["task"]


if __name__ == "__main__":
    this_directory = os.path.dirname(os.path.realpath(__file__))
    root = os.path.dirname(os.path.dirname(this_directory))
    actions = os.path.join(root, "actions")
    # This folder is not on an action's path.
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != this_directory]
    sys.path.insert(0, root)
    from tests import forks
    from tests.standin import network

    network.install()
    sys.path[0] = os.path.join(root, "standalone")
    import python_action

    for name in LIBRARIES:
        with suppress(ImportError):  # actions that need the module report the error
            importlib.import_module(name)
    sys.path.append(os.path.join(root, "standalone", "st2"))
    pack_modules = load_actions(actions)
    del sys.path[-1]
    gc.freeze()  # a garbage collection would copy the memory that the forks share
    task = read_task(forks.serve())
    if os.path.dirname(task["file"]) != actions:
        for name in pack_modules:
            del sys.modules[name]
    forks.run_and_exit(python_action.run, task)

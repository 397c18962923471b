"""The runners, which execute an action of each runner type and return its result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any, Callable, Mapping, NamedTuple

from standalone.store import new_id

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON_ACTION = os.path.join(HERE, "python_action.py")


class Run(NamedTuple):
    """An execution that a runner has to run.

    Attributes:
        executor: The executor.
        execution: The execution.
        action: The action.
        runner_parameters: The parameters of the runner.
        parameters: The action's own parameters.
    """

    executor: Any
    execution: dict
    action: dict
    runner_parameters: dict
    parameters: dict

    def environment(self) -> dict[str, str]:
        """Return the environment that StackStorm gives to the processes of an action."""
        variables = self.runner_parameters.get("env") or {}
        # StackStorm's token stands for the user of the execution.
        token = f"standalone:{self.execution['context'].get('user', '')}"
        return {
            **os.environ,
            **{str(name): str(value) for name, value in variables.items()},
            "ST2_ACTION_PACK_NAME": self.action["pack"],
            "ST2_ACTION_EXECUTION_ID": self.execution["id"],
            "ST2_ACTION_API_URL": self.executor.api_url,
            "ST2_ACTION_AUTH_TOKEN": token,
            "ST2_API_URL": self.executor.api_url,
            "ST2_AUTH_TOKEN": token,
            # The settings of a StackStorm that is installed on this machine do not apply here.
            "ST2_CONFIG_PATH": os.devnull + "/st2.conf",
        }


class ProcessResult(NamedTuple):
    """The result of a process."""

    code: int
    stdout: str
    stderr: str
    timed_out: bool


class Commands:
    """Run each command in a separate process group, so that its children can be killed with it."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._killed = False

    def run(
        self,
        arguments: list[str],
        timeout: float | None,
        environment: Mapping[str, str],
        stdin: bytes = b"",
        cwd: str | None = None,
    ) -> ProcessResult:
        """Run a command until it ends, or kill it after `timeout` seconds."""
        with self._lock:
            if self._killed:
                raise RuntimeError("stopping")
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=cwd,
                start_new_session=True,
            )
            self._running.add(process)
        timed_out = False
        try:
            out, err = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
            kill_group(process.pid)
            out, err = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        code = -signal.SIGKILL if timed_out else process.returncode
        return ProcessResult(
            code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), timed_out
        )

    def kill(self) -> None:
        """Kill all running processes, and start no more."""
        with self._lock:
            self._killed = True
            for process in self._running:
                kill_group(process.pid)


def kill_group(pid: int) -> None:
    """Kill a process with all of its children."""
    with suppress(ProcessLookupError):  # it has already ended
        os.killpg(pid, signal.SIGKILL)


def run_python_action(run: Run) -> tuple[str, dict]:
    """Run a Python action in a separate process."""
    task, environment = build_python_task(run)
    return build_python_result(
        run,
        task["mark"],
        run.executor.commands.run(
            [sys.executable, PYTHON_ACTION],
            run.runner_parameters.get("timeout"),
            environment,
            json.dumps(task).encode(),
        ),
    )


def build_python_task(run: Run) -> tuple[dict, dict[str, str]]:
    """Return the input for python_action.py, and its environment.

    Parameters and configuration are passed on stdin, so that they are not in the process list.
    """
    content, pack = run.executor.content, run.action["pack"]
    task = {
        "file": run.action["file_path"],
        "config": content.configs.get(pack, {}),
        "parameters": run.parameters,
        "mark": f"standalone-result-{new_id()}\n",
    }
    environment = run.environment()
    lib = os.path.join(content.packs[pack]["path"], "actions", "lib")
    paths = [lib, os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return task, environment


def build_python_result(run: Run, mark: str, process: ProcessResult) -> tuple[str, dict]:
    """Return the status and the result of a Python action that has ended."""
    status, value, output = None, "None", process.stdout
    if mark in output:
        before, encoded, after = output.split(mark, 2)
        output = before + after
        status, value = json.loads(encoded)["status"], json.loads(encoded)["result"]
    result = {
        "stdout": output,
        "stderr": process.stderr,
        "exit_code": process.code,
        "result": value,
    }
    if process.timed_out:
        return "timeout", {**result, **timeout_error(run)}
    return "succeeded" if process.code == 0 and status is not False else "failed", result


def timeout_error(run: Run) -> dict[str, str]:
    """Return the error that StackStorm adds to the result of an execution that timed out."""
    return {"error": f"Action failed to complete in {run.runner_parameters.get('timeout')} seconds"}


def run_local_command(run: Run) -> tuple[str, dict]:
    """Run a command on this machine, in a shell."""
    process = run.executor.commands.run(
        ["/bin/sh", "-c", run.runner_parameters.get("cmd") or ""],
        run.runner_parameters.get("timeout"),
        run.environment(),
        cwd=run.runner_parameters.get("cwd"),
    )
    result = command_result(process)
    if process.timed_out:
        return "timeout", {**result, **timeout_error(run)}
    return "succeeded" if process.code == 0 else "failed", result


def command_result(process: ProcessResult) -> dict[str, Any]:
    """Return the result of a command, as StackStorm stores it."""
    return {
        "failed": process.code != 0,
        "succeeded": process.code == 0,
        "return_code": process.code,
        "stdout": parse_output(process.stdout),
        "stderr": parse_output(process.stderr),
    }


def parse_output(text: str) -> Any:
    """Return the output of a command, parsed if it is JSON, as StackStorm does."""
    text = text[:-1] if text.endswith("\n") else text
    try:
        return json.loads(text)
    except ValueError:
        return text


def start_inquiry(run: Run) -> tuple[str, dict]:
    """Leave the execution pending until somebody answers."""
    names = ("schema", "roles", "users", "route", "ttl")
    return "pending", {name: run.runner_parameters.get(name) for name in names}


def do_nothing(run: Run) -> tuple[str, dict]:
    """Do nothing."""
    return "succeeded", {}


Runner = Callable[[Run], "tuple[str, dict]"]
RUNNERS: dict[str, Runner] = {
    "python-script": run_python_action,
    "local-shell-cmd": run_local_command,
    "inquirer": start_inquiry,
    "noop": do_nothing,
}

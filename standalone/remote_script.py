"""The runner remote-shell-script, which runs a script on a host with this machine's `ssh`.

Like StackStorm, it copies the script and the folder `lib` next to it to the host, passes the
parameters as quoted arguments, and then deletes the copy.
"""

from __future__ import annotations

import io
import os
import shlex
import tarfile
from typing import Any

from standalone.runners import Run, command_result, timeout_error

CONNECT_TIMEOUT = 10  # seconds
SSH_FAILED = 255  # the exit status of ssh if it cannot connect


def remote_script(run: Run) -> tuple[str, dict]:
    """Run a script on the only host in the parameter `hosts`."""
    host = run.runner_parameters["hosts"]
    folder = f"{run.runner_parameters['dir']}/{run.execution['id']}"
    archive = _create_archive(run.action["file_path"])
    script = f"{folder}/{os.path.basename(run.action['file_path'])}"
    command = (
        f"cd {shlex.quote(run.runner_parameters['cwd'])} && {script} {build_shell_arguments(run)}"
    )
    if run.runner_parameters.get("sudo"):
        command = f"sudo -E -- bash -c {shlex.quote(command)}"
    remote_command = (
        f"mkdir -m 755 {folder} && tar -C {folder} -xf - && {{ {command}; code=$?; "
        f"rm -rf {folder}; exit $code; }}"
    )
    process = run.executor.commands.run(
        [*_build_ssh_command(run, host), remote_command],
        run.runner_parameters.get("timeout"),
        dict(os.environ),
        archive,
    )
    if process.code == SSH_FAILED:
        error = f"Unable to connect to any one of the hosts: {[host]}.\n{process.stderr}"
        return "failed", {"error": error, "traceback": "", "failed": True, "succeeded": False}
    result = command_result(process)
    if process.timed_out:
        return "timeout", {host: {**result, "timeout": True, **timeout_error(run)}}
    return "succeeded" if process.code == 0 else "failed", {host: result}


def build_shell_arguments(run: Run) -> str:
    """Return the parameters of an action as arguments for a shell, as StackStorm does."""
    arguments = []
    for name, value in run.parameters.items():
        if value is None or value == "" or value is False:
            continue
        option = run.runner_parameters["kwarg_op"] + name
        arguments.append(option if value is True else f"{option}={shlex.quote(str(value))}")
    return " ".join(arguments)


def _build_ssh_command(run: Run, host: str) -> list[str]:
    """Return the command that connects to a host. StackStorm does not check host keys either."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_TIMEOUT,
        "LogLevel": "ERROR",
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": os.devnull,
    }
    command = ["ssh"]
    for name, value in options.items():
        command += ["-o", f"{name}={value}"]
    for flag, name in (("-p", "port"), ("-l", "username"), ("-i", "private_key")):
        value: Any = run.runner_parameters.get(name)
        if value:
            command += [flag, str(value)]
    return [*command, "--", host]


def _create_archive(script: str) -> bytes:
    """Return a tar archive of a script and the folder `lib` next to it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(script, os.path.basename(script))
        library = os.path.join(os.path.dirname(script), "lib")
        if os.path.isdir(library):
            archive.add(library, "lib")
    return stream.getvalue()

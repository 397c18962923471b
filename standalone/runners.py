"""The runners: what executes an action of each runner type and what its result looks like."""

import json
import os
import signal
import subprocess
import threading

from standalone import expressions
from standalone.content import read_yaml
from standalone.store import COMPLETED, new_id

TIMED_OUT = "Action failed to complete in %s seconds"


class Commands:
    """The processes under way, each with its own process group so that all of it can be killed."""

    def __init__(self):
        self._running, self._lock, self._killed = set(), threading.Lock(), False

    def run(self, arguments, timeout, **options):
        """Run a command; returns (exit code, stdout, stderr, whether it took too long)."""
        with self._lock:
            if self._killed:
                raise RuntimeError("stopping")
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                **options,
            )
            self._running.add(process)
        late = False
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            late = True
            self._kill(process)
            out, err = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        texts = [stream.decode("utf-8", "replace") for stream in (out, err)]
        return (-signal.SIGKILL if late else process.returncode, *texts, late)

    def kill(self):
        """Kill all that run; none starts after this."""
        with self._lock:
            self._killed = True
            for process in self._running:
                self._kill(process)

    @staticmethod
    def _kill(process):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _environment(executor, execution, extra=None):
    environment = dict(os.environ, **{str(k): str(v) for k, v in (extra or {}).items()})
    environment.update(
        ST2_ACTION_PACK_NAME=execution["action"]["pack"],
        ST2_ACTION_EXECUTION_ID=execution["id"],
        ST2_ACTION_API_URL=executor.api_url,
        ST2_ACTION_AUTH_TOKEN="standalone",
        ST2_API_URL=executor.api_url,
        ST2_AUTH_TOKEN="standalone",
    )
    return environment


def python_script(executor, execution, action, runner, parameters):
    """Run a python action in a process of its own, its parameters and config out of sight."""
    pack = action["pack"]
    mark = f"standalone-result-{new_id()}\n"
    message = {
        "file": action["file_path"],
        "config": executor.content.configs.get(pack, {}),
        "parameters": parameters,
        "mark": mark,
    }
    environment = _environment(executor, execution, runner.get("env"))
    lib = os.path.join(executor.content.packs[pack]["path"], "actions", "lib")
    environment["PYTHONPATH"] = os.pathsep.join(
        path for path in (lib, os.environ.get("PYTHONPATH")) if path
    )
    timeout = runner.get("timeout")
    code, out, err, late = executor.forks.run(message, timeout, environment)
    status, value = None, "None"
    if mark in out:
        before, answer, after = out.split(mark, 2)
        out, answer = before + after, json.loads(answer)
        status, value = answer["status"], answer["result"]
    result = {"stdout": out, "stderr": err, "exit_code": code, "result": value}
    if late:
        result["error"] = TIMED_OUT % timeout
        return "timeout", result
    return "succeeded" if code == 0 and status is not False else "failed", result


def _typed(text):
    """Strip what a command printed and, as StackStorm does, take JSON for what it says."""
    text = text[:-1] if text.endswith("\n") else text
    try:
        return json.loads(text)
    except ValueError:
        return text


def local_shell(executor, execution, action, runner, parameters):
    """Run a command here, in a shell."""
    timeout = runner.get("timeout")
    code, out, err, late = executor.commands.run(
        ["/bin/sh", "-c", runner.get("cmd") or ""],
        timeout,
        env=_environment(executor, execution, runner.get("env")),
        cwd=runner.get("cwd"),
    )
    result = {"failed": code != 0, "succeeded": code == 0, "return_code": code}
    result.update(stdout=_typed(out), stderr=_typed(err))
    if late:
        result["error"] = TIMED_OUT % timeout
        return "timeout", result
    return "succeeded" if code == 0 else "failed", result


def remote_shell(executor, execution, action, runner, parameters):
    """Run a command on each host by the ssh command (StackStorm has an ssh client of its own)."""
    hosts = [host.strip() for host in runner["hosts"].split(",") if host.strip()]
    if not hosts:
        raise ValueError("No hosts specified to run action for action {}.".format(execution["id"]))
    results = {}
    for host in hosts:
        command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
        command += ["-p", str(runner["port"])] if runner.get("port") else []
        command += ["-i", runner["private_key"]] if runner.get("private_key") else []
        command += ["-l", runner["username"]] if runner.get("username") else []
        line = "cd {} && {}".format(runner["cwd"], runner.get("cmd"))
        command += ["--", host, f"sudo -n -- sh -c '{line}'" if runner.get("sudo") else line]
        code, out, err, late = executor.commands.run(command, runner.get("timeout"))
        result = {"failed": code != 0, "succeeded": code == 0, "timeout": late}
        result.update(return_code=code, stdout=_typed(out), stderr=_typed(err))
        if code == 255:  # ssh's own: it never reached the host's shell
            result["error"] = f"Failed connecting to host {host}. {err.strip()}"
        results[host] = result
    if all(result["return_code"] == 255 for result in results.values()):
        text = "Unable to connect to any one of the hosts: %s.\n\n connect_errors=%s"
        raise ConnectionError(text % (hosts, json.dumps(results)))
    if all(result["succeeded"] for result in results.values()):
        return "succeeded", results
    return ("timeout" if all(r["timeout"] for r in results.values()) else "failed"), results


def inquirer(executor, execution, action, runner, parameters):
    """Wait for an answer, which comes through the API."""
    names = ("schema", "roles", "users", "route", "ttl")
    return "pending", {name: runner.get(name) for name in names}


def action_chain(executor, execution, action, runner, parameters):
    """Run a chain's tasks one after the other; it has this thread until the last has ended."""
    chain = read_yaml(action["file_path"])
    tasks = {task["name"]: task for task in chain["chain"]}
    name, status, done = chain.get("default") or chain["chain"][0]["name"], "succeeded", []
    context = {"user": execution["context"].get("user")}
    context["parent"] = dict(execution["context"], execution_id=execution["id"])
    while name:
        task = tasks[name]
        given = expressions.render_values(task.get("parameters") or {}, parameters)
        child = executor.ended(executor.request(task["ref"], given, context))
        status = child["status"]
        done.append({"name": name, "execution_id": child["id"], "state": status})
        done[-1].update(action=task["ref"], result=child["result"])
        name = task.get("on-success" if status == "succeeded" else "on-failure")
        if executor.store.executions.get(execution["id"])["status"] in COMPLETED:
            break  # canceled meanwhile
    return status, {"tasks": done, "published": {}}


def noop(executor, execution, action, runner, parameters):
    """Do nothing."""
    return "succeeded", {}


RUNNERS = {
    "action-chain": action_chain,
    "python-script": python_script,
    "local-shell-cmd": local_shell,
    "remote-shell-cmd": remote_shell,
    "inquirer": inquirer,
    "noop": noop,
}

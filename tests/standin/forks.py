"""Processes for python actions, each a fork of a process that has loaded their common modules.

Importing SQLAlchemy takes half a second, which would be most of an action's time. This file is
also the main program of the process that forks.
"""

from __future__ import annotations

import array
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress

# The packs' own code is loaded by each action, as under StackStorm.
LIBRARIES = (
    "sqlalchemy",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.sqlite",
    "st2client.client",
)


class Forks:
    """Runs tasks of python_action.py, each in a separate process and process group."""

    def __init__(self):
        self._lock, self._running, self._killed = threading.Lock(), set(), False
        self._server = self._control = None

    def run(self, task, timeout, environment):
        """Run a task until it ends or exceeds its timeout in seconds."""
        from standalone.runners import Ended

        with ExitStack() as stack:
            given, *printed = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            given.write(json.dumps({"task": task, "environment": environment}).encode())
            given.seek(0)
            code, timed_out = self._wait(self._begin(given, *printed), timeout)
            texts = []
            for file in printed:
                file.seek(0)
                texts.append(file.read().decode("utf-8", "replace"))
        return Ended(code, *texts, timed_out)

    def _begin(self, *files):
        """Pass the files to the server, and return the pipe for its reports about the process."""
        reports, reporting = socket.socketpair()
        descriptors = array.array("i", [f.fileno() for f in (reporting, *files)])
        with self._lock, reporting:
            if self._killed:
                raise RuntimeError("stopping")
            if self._server is None:
                self._control, theirs = socket.socketpair()
                # The server ends when the other end of its stdin closes.
                command = [sys.executable, "-u", os.path.abspath(__file__)]
                with theirs:
                    self._server = subprocess.Popen(command, stdin=theirs, start_new_session=True)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)
            self._control.sendmsg([b"."], [rights])
        return reports.makefile()

    def _wait(self, reports, timeout):
        pid, late = int(reports.readline()), []
        timer = threading.Timer(timeout or 0, lambda: late.append(kill_group(pid)))
        with self._lock:
            self._running.add(pid)
            if self._killed:
                kill_group(pid)
        if timeout:
            timer.start()
        code = int(reports.readline())
        timer.cancel()
        with self._lock:
            self._running.discard(pid)
        reports.close()
        return code, bool(late)

    def kill(self):
        """Kill all running tasks, and start no more."""
        with self._lock:
            self._killed = True
            for pid in self._running:
                kill_group(pid)
            if self._server:
                self._control.close()
                self._server.wait()


def kill_group(pid):
    """Kill a process and all of its children."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def serve():
    """Fork a process for each task that arrives on the socket at stdin.

    Returns the task in the forked process. Exits when the socket is closed.
    """
    for name in LIBRARIES:
        with suppress(ImportError):  # actions that need it report the error
            importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(0)) as control:
        while True:
            files = array.array("i")
            byte, rights, _, _ = control.recvmsg(1, socket.CMSG_SPACE(4 * files.itemsize))
            if not byte:
                sys.exit()
            files.frombytes(rights[0][2])
            if os.fork() == 0:
                break
            for file in files:
                os.close(file)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return run_below(files)


def run_below(files):
    """Fork once more and report about the child. In the child, return the task."""
    reporting, *streams = files
    process = os.fork()
    if process:
        _, status = os.waitpid(process, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        os.write(reporting, b"%d\n" % code)
        os._exit(0)
    os.setsid()
    os.write(reporting, b"%d\n" % os.getpid())
    os.close(reporting)
    for number, file in enumerate(streams):
        os.dup2(file, number)
        os.close(file)
    with open(0, "rb", closefd=False) as given:
        message = json.loads(given.read().decode())
    os.environ.clear()
    os.environ.update(message["environment"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return message["task"]


if __name__ == "__main__":
    here = os.path.dirname(os.path.realpath(__file__))
    root = os.path.dirname(os.path.dirname(here))
    # The modules of the tests are not on an action's path.
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != here]
    sys.path.insert(0, root)
    from tests.standin import network

    network.install()
    sys.path[0] = os.path.join(root, "standalone")
    import python_action

    python_action.run(serve())

"""Processes for python actions, each a fork of one that has loaded what most of them need.

Half a second of loading SQLAlchemy for each action would be most of what a run costs.
"""

import array
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "python_action.py")


class Forks:
    """Runs tasks of python_action.py, each in a process and a process group of its own."""

    def __init__(self):
        self._lock, self._running, self._killed = threading.Lock(), set(), False
        self._server = self._control = None

    def run(self, task, timeout, environment):
        """Run a task; returns (exit code, stdout, stderr, whether it took too long)."""
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out:
            with tempfile.TemporaryFile() as err:
                given.write(json.dumps({"task": task, "environment": environment}).encode())
                given.seek(0)
                code, late = self._wait(self._begin(given, out, err), timeout)
                texts = []
                for file in (out, err):
                    file.seek(0)
                    texts.append(file.read().decode("utf-8", "replace"))
        return (code, *texts, late)

    def _begin(self, *files):
        """Hand the files to the server; returns where it tells of the process."""
        told, telling = socket.socketpair()
        descriptors = array.array("i", [f.fileno() for f in (telling, *files)])
        with self._lock, telling:
            if self._killed:
                raise RuntimeError("stopping")
            if self._server is None:
                self._control, theirs = socket.socketpair()
                # It ends when the other end of its stdin does.
                command = [sys.executable, "-u", PROGRAM]
                with theirs:
                    self._server = subprocess.Popen(command, stdin=theirs, start_new_session=True)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)
            self._control.sendmsg([b"."], [rights])
        return told.makefile()

    def _wait(self, told, timeout):
        pid, late = int(told.readline()), []
        timer = threading.Timer(timeout or 0, lambda: late.append(_kill(pid)))
        with self._lock:
            self._running.add(pid)
            if self._killed:
                _kill(pid)
        if timeout:
            timer.start()
        code = int(told.readline())
        timer.cancel()
        with self._lock:
            self._running.discard(pid)
        told.close()
        return code, bool(late)

    def kill(self):
        """Kill all that run; none starts after this."""
        with self._lock:
            self._killed = True
            for pid in self._running:
                _kill(pid)
            if self._server:
                self._control.close()
                self._server.wait()


def _kill(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass

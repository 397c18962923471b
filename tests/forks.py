"""Fork processes from a process that has already imported their modules.

Importing SQLAlchemy, Alembic and eventlet takes most of a second. Many of these processes run for
less time than that.
"""

from __future__ import annotations

# The functions of `_socket` and `posix` keep working after eventlet has replaced those of `socket`
# and `os`.
import _socket
import array
import os
import posix
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from contextlib import suppress


class ForkServer:
    """A process from which others are forked. Its `command` must call serve()."""

    def __init__(self, command):
        self._command = command
        self._lock = threading.Lock()
        self._server = self._control = None

    def start(self, *files):
        """Fork a process and return it. It gets a duplicate of each file's descriptor."""
        report_reader, report_writer = socket.socketpair()
        descriptors = array.array("i", [file.fileno() for file in (report_writer, *files)])
        with self._lock, report_writer:
            if self._server is None:
                self._control, server_end = socket.socketpair()
                # The server ends when the other end of its stdin closes.
                with server_end:
                    self._server = subprocess.Popen(
                        self._command, stdin=server_end, start_new_session=True
                    )
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)
            self._control.sendmsg([b"."], [rights])
        return Fork(report_reader)

    def close(self):
        """End the server, but not the processes that were forked from it."""
        with self._lock:
            if self._server:
                self._control.close()
                self._server.wait()
                self._server = None


class Fork:
    """A forked process, with the methods of subprocess.Popen that the tests use."""

    def __init__(self, report_reader):
        self._socket, self._reports = report_reader, report_reader.makefile()
        self.pid = int(self._reports.readline())
        self.returncode = None

    def wait(self, timeout=None):
        """Wait for the process to end, and return its exit code, or -N if signal N killed it.

        Raises:
            subprocess.TimeoutExpired: The process is still running after `timeout` seconds.
        """
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            if not poll.poll(None if timeout is None else timeout * 1000):
                raise subprocess.TimeoutExpired("fork", timeout)
            self.returncode = int(self._reports.readline())
            self._reports.close()
            self._socket.close()
        return self.returncode

    def poll(self):
        """Return the exit code, or None while the process is running."""
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number):
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def kill_group(self):
        """Send SIGKILL to the process and to all processes that it has started."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


def serve():
    """Fork a process for each request of a ForkServer, whose socket is stdin.

    Returns:
        The descriptors passed to the forked process, which has its own session. The server itself
        does not return; it exits when the socket is closed.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # socket.recv_fds() needs Python 3.9.
    control = _socket.socket(fileno=os.dup(0))
    size = array.array("i").itemsize
    while True:
        byte, rights, _, _ = control.recvmsg(1, socket.CMSG_SPACE(8 * size))
        if not byte:
            sys.exit()
        files = array.array("i")
        files.frombytes(rights[0][2])
        if os.fork() == 0:
            break
        for file in files:
            os.close(file)
    control.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return _fork_and_report(files)


def _fork_and_report(files):
    """Fork once more, report the child's pid and exit code, and return in the child."""
    report_writer, *passed_files = files
    child = os.fork()
    if child:
        for file in passed_files:
            os.close(file)
        posix.write(report_writer, b"%d\n" % child)
        _, status = posix.waitpid(child, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        posix.write(report_writer, b"%d\n" % code)
        os._exit(0)
    os.setsid()
    os.close(report_writer)
    return passed_files


def run_and_exit(function, *arguments):
    """Call a function and end the process, with the exit code and output of a normal exit.

    This skips the interpreter's clean-up, which would take longer than most functions, because it
    would make the fork copy all the memory that it shares with its server.
    """
    code = 0
    try:
        function(*arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

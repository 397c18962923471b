"""Runs python actions, each in a process of its own: this file is their main program.

Reads {file, parameters, config, mark} of one; writes what the action returned to stdout, between
two marks.
"""

import array
import importlib.util
import inspect
import json
import os
import signal
import socket
import sys

# What most actions need. The packs' own code is loaded anew by each, as StackStorm does it.
LIBRARIES = (
    "sqlalchemy",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.sqlite",
    "st2client.client",
)


class ActionService:
    """What StackStorm hands to an action: the datastore and an API client."""

    def __init__(self, pack, class_name):
        self._prefix = f"{pack}.{class_name}:"
        self.datastore_service = self

    def get_api_client(self):
        """Return a client of the API with this execution's token."""
        from st2client.client import Client

        return Client(
            api_url=os.environ["ST2_ACTION_API_URL"], token=os.environ["ST2_ACTION_AUTH_TOKEN"]
        )

    def get_value(self, name, local=True, scope=None, decrypt=False):
        """Return a value, or None."""
        found = self.get_api_client().keys.get_by_id(self._prefix + name if local else name)
        return found.value if found else None

    def set_value(self, name, value, ttl=None, local=True, scope=None, encrypt=False):
        """Store a text."""
        from st2client.models import KeyValuePair

        name = self._prefix + name if local else name
        self.get_api_client().keys.update(KeyValuePair(id=name, name=name, value=str(value)))
        return True

    def get_user_info(self):
        """Return who runs this."""
        return {"username": "stanley", "rbac": {"enabled": False}}


def load_action_class(path):
    """Return the action class of a file: the first by name that is defined there and has run()."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # not in sys.modules, as in StackStorm
    for _, candidate in sorted(inspect.getmembers(module, inspect.isclass)):
        if candidate.__module__ == name and callable(getattr(candidate, "run", None)):
            return candidate
    raise Exception(f"File {path!r} has no action class or the file doesn't exist.")


def serve():
    """Fork a process for each task that comes by the socket on stdin; returns in that process,
    with the task. Ends when the socket is closed."""
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:
            pass  # the actions that need it say so
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
    telling = files[0]
    process = os.fork()
    if process:
        _, status = os.waitpid(process, 0)
        code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        os.write(telling, b"%d\n" % code)
        os._exit(0)
    os.setsid()
    os.write(telling, b"%d\n" % os.getpid())
    os.close(telling)
    for number, file in enumerate(files[1:]):
        os.dup2(file, number)
        os.close(file)
    with open(0, "rb", closefd=False) as given:
        message = json.loads(given.read().decode())
    os.environ.clear()
    os.environ.update(message["environment"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return message["task"]


def main(task):
    here = os.path.dirname(os.path.realpath(__file__))
    # This folder's modules are no business of an action.
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) != here]
    sys.path.append(os.path.join(here, "st2"))
    sys.path.append(os.path.dirname(task["file"]))
    action_class = load_action_class(task["file"])
    service = ActionService(os.environ["ST2_ACTION_PACK_NAME"], action_class.__name__)
    try:
        action = action_class(config=task["config"], action_service=service)
    except TypeError as error:
        if "unexpected keyword argument 'action_service'" not in str(error):
            raise
        action = action_class(config=task["config"])
        action.action_service = service
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
    main(serve())

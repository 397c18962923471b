"""StackStorm's `st2` command: the commands in the documents, and the help of each action."""

from __future__ import annotations

import pathlib
import re
import shlex

import pytest
from st2client.shell import Shell

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification

# The command does not depend on the kind of database, so one is enough.
pytestmark = [
    pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # st2client's
]

ROOT = pathlib.Path(__file__).parents[2]
ACTIONS = sorted(path.stem for path in (ROOT / "actions").glob("*.yaml"))
# These scripts would run on the hosts of this network.
HOST_ACTIONS = [
    path.stem
    for path in (ROOT / "actions").glob("*.yaml")
    if "remote-shell-script" in path.read_text(encoding="utf-8")
]
DOCUMENTS = [
    # CHANGES.md contains commands that never worked.
    *(path for path in ROOT.glob("*.md") if path.name != "CHANGES.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("etc/*.yml"),
]
# Other commands in the documents would affect the other scenarios.
COMMAND = re.compile(
    r"\bst2 ((?:run poundcake\.|execution get|trace list|rule list|sensor list)[^`\n|#]*)",
)
EXECUTION = re.compile(r"st2 execution get (\w+)")


def documented_commands():
    """Return every `st2` command in the documents that can run here, without duplicates."""
    found = {
        command.strip()
        for document in DOCUMENTS
        for command in COMMAND.findall(document.read_text(encoding="utf-8"))
    }
    return sorted(found)


def is_on_a_host(command):
    """Return True if a command connects to a host over SSH."""
    words = command.split()
    return words[0] == "run" and words[1].partition(".")[2] in HOST_ACTIONS


def moves_the_trail(command):
    """Return True if a command moves the trail to another database."""
    return "copy_" in command


def changes_silences(command):
    """Return True if a command creates or ends a silence in Alertmanager."""
    return "silence " in command


@pytest.fixture
def st2(stack, monkeypatch, capsys):
    """Return a function that runs `st2` with some arguments and returns its output."""
    return client_of(stack, monkeypatch, capsys)


def client_of(stack, monkeypatch, capsys):
    """Return a function that runs `st2` on a stack.

    The command runs in this process, because Python and st2client take half a second to start.
    """
    monkeypatch.setenv("ST2_API_URL", stack._api)
    if not stack.live:
        monkeypatch.setenv("ST2_AUTH_TOKEN", "any")

    def run(*arguments):
        code = Shell().run(["--skip-config", *arguments])
        printed = capsys.readouterr()
        text = printed.out + printed.err
        # The help of an action contains the log level ERROR; an error starts a line with it.
        failed = code != 0 or re.search("^ERROR", text, re.MULTILINE)
        assert not failed, f"st2 {' '.join(arguments)}\n{text}"
        return text

    return run


@pytest.fixture(scope="module")
def recorded(stack):
    """Return the ids of a remediated alert, by their placeholders in the documents."""
    request_id = stack.accepted(notification(alert("ScenarioLinked")))
    trail = stack.completed(request_id)
    (shown,) = trail["alerts"]
    (execution,) = trail["stackstorm_executions"]
    return {
        "REQUEST_ID": request_id,
        "EPISODE": shown["episode"],
        "EXECUTION_ID": execution["st2_execution_id"],
    }


def _filled_in(command, values):
    for placeholder, value in values.items():
        command = command.replace(placeholder, value)
    return command


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_has_help(st2, action):
    text = st2("run", "poundcake." + action, "--help")
    assert "Parameters:" in text


def test_each_documented_command_works(stack, st2, recorded):
    # The trail of the stack that the scenarios share has to stay where it is.
    commands = [
        command
        for command in documented_commands()
        if not moves_the_trail(command)
        and not changes_silences(command)
        and not is_on_a_host(command)
    ]
    assert any(command.startswith("run poundcake.why ") for command in commands)
    # A claim can be released after all work on its episode has ended, so these commands come last.
    # They also depend on the previous ones.
    last = [
        [c for c in commands if c.startswith("run poundcake.release ")],
        [c for c in commands if "acknowledge" in c and "undo" not in c],
        [c for c in commands if "acknowledge" in c and "undo" in c],
        [c for c in commands if c.startswith("run poundcake.close ")],
    ]
    others = [command for command in commands if not any(command in some for some in last)]
    for some in (others, *last):
        started = {}
        for command in some:
            verb, *arguments = shlex.split(_filled_in(command, recorded))
            if verb == "run" and "--help" not in arguments:
                # Without waiting, so that they run concurrently.
                text = st2("run", "--async", *arguments)
                match = EXECUTION.search(text)
                assert match, f"st2 {command}: no execution in\n{text}"
                started[command] = match.group(1)
            else:
                st2(verb, *arguments)
        for command, execution_id in started.items():
            execution = stack.ended(execution_id)
            assert execution["status"] == "succeeded", f"st2 {command}: {execution['result']}"
            if command.startswith("run poundcake.replay "):
                # The workflow of the replay must end as well.
                stack.completed(execution["result"]["result"]["request_id"])


def test_the_documented_commands_on_a_host_work(stack, st2, test_host):
    """On a host of the tests, never on one of this network."""
    test_host.run("mkdir -p /var/log/app")
    commands = [command for command in documented_commands() if is_on_a_host(command)]
    assert len(commands) > 5
    for command in commands:
        arguments = shlex.split(command.replace("web-21", test_host.address))
        login = ["username=root", f"private_key={test_host.key_file}"]
        text = st2(arguments[0], "--async", *arguments[1:], *login)
        execution = stack.ended(EXECUTION.search(text).group(1))
        assert execution["status"] == "succeeded", f"st2 {command}: {execution['result']}"


def test_the_documented_commands_that_move_the_trail_work(
    kind, new_stack, monkeypatch, capsys, tmp_path
):
    """There and back: the file in the documents contains the URL of the default SQLite file."""
    if kind == "live":
        pytest.skip("live: the database of the installation stays as it is")
    file = tmp_path / "database_url"

    def config(url):
        default = url.replace("/tracking.sqlite", "/state/tracking.sqlite")
        file.write_text(default)
        return {"database_url": url}

    stack = new_stack(config)
    stack.recorded(stack.accepted(notification(alert("ScenarioLinked"))))
    st2 = client_of(stack, monkeypatch, capsys)
    commands = sorted(filter(moves_the_trail, documented_commands()), reverse=True)
    assert ["copy_to" in command for command in commands] == [True, False]
    for command in commands:
        documented = "/opt/stackstorm/exports/poundcake/database_url"
        arguments = shlex.split(command.replace(documented, str(file)))
        text = st2(arguments[0], "--async", *arguments[1:])
        execution = stack.ended(EXECUTION.search(text).group(1))
        assert execution["status"] == "succeeded", f"st2 {command}: {execution['result']}"
        assert execution["result"]["result"]["copy"]["complete"]
    stack.recorded(stack.accepted(notification(alert("ScenarioLinked"))))


def test_the_documented_commands_that_silence_an_alert_work(stack, st2, recorded, alertmanager):
    """A real Alertmanager has the silences afterwards."""
    server = alertmanager("http://127.0.0.1:1/")
    commands = [c for c in documented_commands() if changes_silences(c)]
    by_labels = sorted(c for c in commands if "labels=" in c or "SILENCE_ID" in c)
    by_episode = sorted(c for c in commands if c not in by_labels)
    assert (len(by_labels), len(by_episode)) == (2, 2)

    def run(command, **values):
        verb, *arguments = shlex.split(_filled_in(command, {**recorded, **values}))
        text = st2(verb, "--async", *arguments)
        execution = stack.ended(EXECUTION.search(text).group(1))
        assert execution["status"] == "succeeded", f"st2 {command}: {execution['result']}"
        return execution["result"]["result"]

    with stack.configured(alertmanagers=[{"url": server.url}]):
        for silence, unsilence in (by_episode, by_labels):
            made = run(silence)
            (shown,) = [s for s in server.silences() if s["status"]["state"] == "active"]
            assert [shown["id"]] == made["silence_ids"]
            assert run(unsilence, SILENCE_ID=shown["id"])["state"] == "ended"
            assert "active" not in [s["status"]["state"] for s in server.silences()]

"""StackStorm's `st2` command: the documented commands, and the help of each action."""

from __future__ import annotations

import functools
import pathlib
import re
import shlex

import pytest
from st2client.shell import Shell

from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification, unique

# The command does not depend on the kind of database, so one is enough.
pytestmark = [
    pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # st2client's
]

ROOT = pathlib.Path(__file__).parents[2]
ACTIONS = sorted(path.stem for path in (ROOT / "actions").glob("*.yaml"))
# These actions would run scripts on hosts in this network.
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
# All other commands in the documents would affect other scenarios.
COMMAND = re.compile(
    r"\bst2 ((?:run poundcake\.|execution (?:get|list)|trace list|rule list|sensor list)[^`\n|#]*)",
)
# An example output contains the ids of its own execution or episode.
EXAMPLE_ID = re.compile(r"[0-9a-f]{24}|[0-9a-f]{16}-[0-9]{13}")
EXECUTION = re.compile(r"st2 execution get (\w+)")


def documented_commands():
    """Return every `st2` command in the documents that can run here, without duplicates."""
    commands = {
        command.strip()
        for document in DOCUMENTS
        for command in COMMAND.findall(document.read_text(encoding="utf-8"))
        if not EXAMPLE_ID.search(command)
    }
    return sorted(commands)


def connects_to_a_host(command):
    """Return True if a command connects to a host over SSH."""
    words = command.split()
    return words[0] == "run" and words[1].partition(".")[2] in HOST_ACTIONS


def moves_the_trail(command):
    """Return True if a command moves the trail to another database."""
    return "copy_" in command


def changes_silences(command):
    """Return True if a command creates or ends a silence in Alertmanager."""
    return "silence " in command


def answers_an_approval(command):
    """Return True if a command answers a request for approval. Here, none waits."""
    return "poundcake.approve" in command


@pytest.fixture
def st2(stack, monkeypatch, capsys):
    """Return a function that runs `st2` with arguments and returns its output."""
    return st2_runner(stack, monkeypatch, capsys)


@functools.lru_cache
def create_shell():
    """Return st2client's shell. Creating its parsers is slow, so they are shared."""
    return Shell()


def st2_runner(stack, monkeypatch, capsys):
    """Return a function that runs `st2` on a stack.

    The command runs in this process, because Python and st2client take half a second to start.
    """
    shell = create_shell()
    monkeypatch.setenv("ST2_API_URL", stack._api)
    if not stack.is_live:
        monkeypatch.setenv("ST2_AUTH_TOKEN", "any")

    def run(*arguments):
        code = shell.run(["--skip-config", *arguments])
        printed = capsys.readouterr()
        text = printed.out + printed.err
        # Only an error starts a line with ERROR. The help of an action lists ERROR as a log level.
        failed = code != 0 or re.search("^ERROR", text, re.MULTILINE)
        assert not failed, f"st2 {' '.join(arguments)}\n{text}"
        return text

    return run


@pytest.fixture
def resume_changes(stack):
    """Resume changes, even if the test fails: otherwise, the other scenarios would fail as well."""
    yield
    stack.run("poundcake.resume")


@pytest.fixture(scope="module")
def placeholder_values(stack):
    """Remediate an alert, and return {placeholder in the documents: id}.

    Also open the incident that some commands name by its alert: HostDown on web-1.example.org.
    """
    sample = ROOT / "tests" / "scenarios" / "samples" / "firing.json"
    stack.wait_until_recorded(stack.send(sample.read_bytes()))
    request_id = stack.send(notification(alert("ScenarioLinked")))
    trail = stack.wait_until_completed(request_id)
    (alert_view,) = trail["alerts"]
    (execution,) = trail["stackstorm_executions"]
    return {
        "REQUEST_ID": request_id,
        "EPISODE": alert_view["episode"],
        "EXECUTION_ID": execution["st2_execution_id"],
    }


def _fill_in(command, values):
    for placeholder, value in values.items():
        command = command.replace(placeholder, value)
    return command


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_has_help(st2, action):
    text = st2("run", "poundcake." + action, "--help")
    assert "Parameters:" in text


@pytest.mark.usefixtures("resume_changes")
def test_each_documented_command_works(stack, st2, placeholder_values):
    # Moving the trail would break the other scenarios on this stack.
    commands = [
        command
        for command in documented_commands()
        if not moves_the_trail(command)
        and not changes_silences(command)
        and not connects_to_a_host(command)
        and not answers_an_approval(command)
    ]
    assert any(command.startswith("run poundcake.why ") for command in commands)
    # These commands run last, in this order, because a claim can be released only after all work on
    # its episode has ended, and the other scenarios need changes that are not paused.
    last_groups = [
        [c for c in commands if c.startswith("run poundcake.release ")],
        [c for c in commands if "acknowledge" in c and "undo" not in c],
        [c for c in commands if "acknowledge" in c and "undo" in c],
        [c for c in commands if c.startswith("run poundcake.close ")],
        ["run poundcake.resume format=text"],
    ]
    first_group = [
        command for command in commands if not any(command in group for group in last_groups)
    ]
    for group in (first_group, *last_groups):
        execution_ids = {}
        for command in group:
            verb, *arguments = shlex.split(_fill_in(command, placeholder_values))
            if verb == "run" and "--help" not in arguments:
                # With --async, the commands of a group run concurrently.
                text = st2("run", "--async", *arguments)
                match = EXECUTION.search(text)
                assert match, f"st2 {command}: no execution in\n{text}"
                execution_ids[command] = match.group(1)
            else:
                st2(verb, *arguments)
        for command, execution_id in execution_ids.items():
            # A busy StackStorm takes minutes for 60 actions at once.
            execution = stack.wait_until_ended(execution_id, timeout=600)
            assert execution["status"] == "succeeded", f"st2 {command}: {execution['result']}"
            if command.startswith("run poundcake.replay "):
                # The workflow of the replay must also end before the next group.
                replayed_id = execution["result"]["result"]["request_id"]
                stack.wait_until_completed(replayed_id, timeout=600)


def test_a_parameter_without_a_name_is_refused(st2):
    """docs/FAQ.md explains this message."""
    with pytest.raises(AssertionError, match="Additional properties are not allowed"):
        st2("run", "poundcake.why", "HostDown")


def test_the_option_k_prints_only_the_view_with_all_letters(stack, st2):
    """docs/FAQ.md recommends this option."""
    name = unique("Größe")
    stack.wait_until_completed(stack.send(notification(alert(name, labels={"alertname": name}))))
    parameters = ["poundcake.why", f"alert_name={name}", "format=text"]
    assert name not in st2("run", *parameters)
    printed = st2("run", "-k", "result", *parameters)
    assert name in printed and printed.rstrip().endswith("1 episode")
    assert "start_timestamp" not in printed


def test_the_documented_commands_that_connect_to_a_host_work(stack, st2, test_host):
    """The commands run on the test host, never on another host in this network."""
    test_host.run("mkdir -p /var/log/app")
    commands = [command for command in documented_commands() if connects_to_a_host(command)]
    assert len(commands) > 5
    for command in commands:
        arguments = shlex.split(command.replace("web-21", test_host.address))
        login_parameters = ["username=root", f"private_key={test_host.key_file}"]
        text = st2(arguments[0], "--async", *arguments[1:], *login_parameters)
        execution = stack.wait_until_ended(EXECUTION.search(text).group(1))
        assert execution["status"] == "succeeded", f"st2 {command}: {execution['result']}"


def test_the_documented_commands_that_move_the_trail_work(
    kind, new_stack, monkeypatch, capsys, tmp_path
):
    """Move the trail to the other database and back."""
    if kind == "live":
        pytest.skip("live: the tests do not change the installation's database")
    url_file = tmp_path / "database_url"

    def config(url):
        default_url = url.replace("/tracking.sqlite", "/state/tracking.sqlite")
        url_file.write_text(default_url)
        return {"database_url": url}

    stack = new_stack(config)
    stack.wait_until_recorded(stack.send(notification(alert("ScenarioLinked"))))
    st2 = st2_runner(stack, monkeypatch, capsys)
    commands = sorted(filter(moves_the_trail, documented_commands()), reverse=True)
    assert ["copy_to" in command for command in commands] == [True, False]
    for command in commands:
        documented_path = "/opt/stackstorm/exports/poundcake/database_url"
        arguments = shlex.split(command.replace(documented_path, str(url_file)))
        text = st2(arguments[0], "--async", *arguments[1:])
        execution = stack.wait_until_ended(EXECUTION.search(text).group(1))
        assert execution["status"] == "succeeded", f"st2 {command}: {execution['result']}"
        assert execution["result"]["result"]["copy"]["complete"]
    stack.wait_until_recorded(stack.send(notification(alert("ScenarioLinked"))))


def test_the_documented_commands_that_silence_an_alert_work(
    stack, st2, placeholder_values, alertmanager
):
    """A real Alertmanager creates and expires the silences."""
    server = alertmanager("http://127.0.0.1:1/")
    commands = [c for c in documented_commands() if changes_silences(c)]
    commands_by_labels = sorted(c for c in commands if "labels=" in c or "SILENCE_ID" in c)
    commands_by_episode = sorted(c for c in commands if c not in commands_by_labels)
    assert (len(commands_by_labels), len(commands_by_episode)) == (2, 2)

    def run(command, **values):
        verb, *arguments = shlex.split(_fill_in(command, {**placeholder_values, **values}))
        text = st2(verb, "--async", *arguments)
        execution = stack.wait_until_ended(EXECUTION.search(text).group(1))
        assert execution["status"] == "succeeded", f"st2 {command}: {execution['result']}"
        return execution["result"]["result"]

    with stack.configured(alertmanagers=[{"url": server.url}]):
        for silence, unsilence in (commands_by_episode, commands_by_labels):
            assert run(silence).strip().startswith("SILENCED: ")
            (active_silence,) = [s for s in server.silences() if s["status"]["state"] == "active"]
            text = run(unsilence, SILENCE_ID=active_silence["id"])
            assert text.strip().startswith("SILENCE ENDED: ")
            assert "active" not in [s["status"]["state"] for s in server.silences()]

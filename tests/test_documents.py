"""The documents refer only to things that exist, and their snippets are valid.

tests/scenarios/test_cli.py runs their `st2` commands.
"""

from __future__ import annotations

import re
import shlex
import socket
import subprocess

import pytest
import yaml
from st2client.shell import Shell

from poundcake.remediation.safety import PASSING_REFUSALS, Refusal
from poundcake.remediations import read_remediations
from scripts import compose
from tests import documents
from tests.documents import DOCUMENTS, ROOT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # st2client's

CONFIG = "# /opt/stackstorm/configs/poundcake.yaml\n"
MODULE = re.compile(r"(?:endpoint|trail|remediation|stackstorm)(?:\.[A-Za-z_]+)+\Z")
# A file of the pack or of the tests, optionally with a function.
FILE_REFERENCE = re.compile(r"((?:[\w-]+/)*[\w-]+\.(?:py|yaml))(?:::(\w+))?\Z")
# A command that writes a new secret, or a URL with a password, into a file.
WRITES_A_SECRET = re.compile(r"openssl rand .*>|-keyout |mysql\+pymysql://.*>")
# The pages whose commands start containers, and why a command on them is not executed by a test.
CONTAINER_DOCUMENTS = [ROOT / "docs" / name for name in ("COMPOSE.md", "KUBERNETES.md")]
NOT_EXECUTED = {
    "docker ": "the tests run where there is no Docker",
    "helm ": "the tests have no cluster",
    "kubectl ": "the tests have no cluster",
    "rm .env": "it would delete the developer's passwords",
    "st2 inquiry respond ": "tests/scenarios/test_approvals.py answers inquiries with real ids",
}
DEVELOPER_DOCUMENTS = [ROOT / "docs" / "ARCHITECTURE.md", ROOT / "docs" / "CONTRIBUTING.md"]


def code_blocks(language):
    """Return the code blocks in this language as test parameters, with their documents as ids."""
    return [
        pytest.param(text, id=f"{documents.display_name(path)}-{number}")
        for path in DOCUMENTS
        for number, text in enumerate(documents.find_code_blocks(path, language), 1)
    ]


@pytest.mark.parametrize("path", DOCUMENTS, ids=documents.display_name)
def test_each_link_has_a_target(path):
    for link in documents.find_links(path):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in documents.find_anchors(target), link


def test_each_page_is_linked_from_the_readme():
    linked = set(documents.find_links(ROOT / "README.md"))
    assert {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} <= linked


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_commands_that_write_a_secret_set_a_umask():
    """Otherwise, other users can read the secret until the next command protects the file."""
    lines = [line for block in code_blocks("sh") for line in block.values[0].splitlines()]
    commands = [line for line in lines if WRITES_A_SECRET.search(line)]
    unprotected = [command for command in commands if not command.startswith("(umask 077; ")]
    # The containers of docker-compose.pack.yml read etc/poundcake.token as another user.
    assert len(unprotected) < len(commands)
    assert [command for command in unprotected if "etc/poundcake.token" not in command] == []


@pytest.mark.parametrize("text", code_blocks("sh"))
def test_the_shell_can_parse_each_snippet(text):
    subprocess.run(["sh", "-n"], input=text.encode(), check=True)


@pytest.mark.parametrize("name", ["README.md", "docs/INSTALL.md"])
def test_the_check_of_a_new_installation_waits_for_the_endpoint_at_even_intervals(name):
    """Without --retry-delay, curl doubles its pause up to ten minutes, and shows nothing."""
    (command,) = [
        line
        for block in documents.find_code_blocks(ROOT / name, "sh")
        for line in block.splitlines()
        if "--retry-connrefused" in line
    ]
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        command = command.replace(":8000/", f":{server.getsockname()[1]}/")
        client = subprocess.Popen(shlex.split(command), stderr=subprocess.PIPE, text=True)
        lines = [client.stderr.readline() for _ in range(8)]
        waits = [line for line in lines if "Will retry" in line]
        server.listen()
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert client.wait(10) == 0
        client.stderr.close()
    assert waits and all("in 2 seconds" in line for line in waits), lines


@pytest.mark.parametrize("path", CONTAINER_DOCUMENTS, ids=documents.display_name)
def test_each_command_about_containers_is_executed_or_has_a_reason(path, tmp_path):
    lines = [
        line for block in documents.find_code_blocks(path, "sh") for line in block.splitlines()
    ]
    commands = [line.strip() for line in lines]
    assert len(commands) > 5
    for command in commands:
        if command.startswith("make "):
            # tests/test_compose_scripts.py runs each of them, with a replacement of Docker.
            assert command.split()[1] in compose.COMMANDS
        elif command.startswith("st2 run poundcake."):
            pass  # tests/scenarios/test_cli.py runs it
        elif command.startswith(("(umask 077; ", "(printf ", "rm database_url ", "rm poundcake-")):
            in_folder = command.replace(" etc/", f" {ROOT}/etc/")
            subprocess.run(["sh", "-ec", in_folder], cwd=tmp_path, check=True)
        else:
            assert command.startswith(tuple(NOT_EXECUTED)), command
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def st2_parser():
    """Return the parser of the st2 client, which takes longer to create than to use."""
    return Shell().parser


@pytest.mark.parametrize("text", code_blocks("sh"))
def test_the_st2_client_can_parse_each_command(st2_parser, text):
    for line in text.splitlines():
        if line.startswith("st2 "):
            st2_parser.parse_args(shlex.split(line, comments=True)[1:])


@pytest.mark.parametrize("text", code_blocks("yaml"))
def test_each_yaml_snippet_is_valid(text):
    assert yaml.safe_load(text)


@pytest.mark.parametrize("text", [p for p in code_blocks("yaml") if p.values[0].startswith(CONFIG)])
def test_each_configuration_has_only_known_keys(text):
    schema = yaml.safe_load((ROOT / "config.schema.yaml").read_text(encoding="utf-8"))
    configuration = yaml.safe_load(text)
    assert set(configuration) <= set(schema)
    assert read_remediations(configuration.get("remediations", []))[1] == ()


@pytest.mark.parametrize("path", DEVELOPER_DOCUMENTS, ids=documents.display_name)
def test_each_module_in_the_text_exists(path):
    names = [text for text in documents.find_inline_code(path) if MODULE.match(text)]
    for text in names:
        package, *names_in_package = text.split(".")
        # The last part of `endpoint.native.run_in_native_thread` is a function.
        paths = [ROOT / "lib" / "poundcake" / package]
        for name in names_in_package:
            paths.append(paths[-1] / name)
        *_, longest = [p for p in paths if p.is_dir() or p.with_suffix(".py").exists()]
        assert longest != paths[0], f"{text}: no such module"
        if longest != paths[-1]:
            module = longest / "__init__.py" if longest.is_dir() else longest.with_suffix(".py")
            assert names_in_package[-1] in module.read_text(encoding="utf-8"), (
                f"{text}: not in {module}"
            )


@pytest.mark.parametrize("path", DEVELOPER_DOCUMENTS, ids=documents.display_name)
def test_each_file_and_test_in_the_text_exists(path):
    for text in documents.find_inline_code(path):
        match = FILE_REFERENCE.match(text)
        if not match or "NNNN" in text or "NAME" in text:
            continue
        file, function = match.groups()
        paths = [p for p in (ROOT / file, ROOT / "lib" / "poundcake" / file) if p.exists()]
        assert paths, f"{text}: no such file"
        if function:
            assert f"def {function}(" in paths[0].read_text(encoding="utf-8"), text


def test_the_table_of_refusals_lists_each_refusal():
    text = (ROOT / "docs" / "REMEDIATION.md").read_text(encoding="utf-8")
    section = text.partition("## Why a change is refused")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.*) \| (.+) \|$", section, re.MULTILINE)
    assert [name for name, *_ in rows] and {name for name, *_ in rows} == set(map(str, Refusal))
    schema = yaml.safe_load((ROOT / "config.schema.yaml").read_text(encoding="utf-8"))
    defaults = re.findall(r"`(\w+): (\d+)`", section)
    assert len(defaults) == 12
    for key, value in defaults:
        assert schema[key]["default"] == int(value), key


def test_the_refusals_that_are_tried_again_are_listed():
    text = (ROOT / "docs" / "REMEDIATION.md").read_text(encoding="utf-8")
    section = text.partition("### Refused changes that are tried again\n\n")[2]
    sentence = section.partition(". ")[0]
    assert re.findall(r"`(\w+)`", sentence) == list(map(str, PASSING_REFUSALS))

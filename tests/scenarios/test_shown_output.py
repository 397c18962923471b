"""The outputs that the documents show are those that a user sees, through the real `st2` client.

If the text of a view has changed, update the documents with:
POUNDCAKE_UPDATE_PAGES=1 .venv/bin/python -m pytest tests/scenarios/test_shown_output.py
"""

from __future__ import annotations

import os
import shlex

import pytest

from tests import documents
from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification
from tests.scenarios.test_cli import st2_runner
from tests.shown_output import find_shown_outputs, is_shown_in, read_result

# The text does not depend on the kind of database, so one is enough.
pytestmark = [
    pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # st2client's
]

ROOT = documents.ROOT
WORK = "poundcake_scenarios.work"
ENTRIES = [
    {
        "name": "nginx",
        "match": ['alertname="ServiceDown"', 'service=~"nginx|app-.*"'],
        "mode": "dry_run",
        "action": "poundcake.service_restart",
        "with": {"service": "$service"},
    },
    {
        "name": "var-log",
        "match": ['alertname="NodeFilesystemAlmostOutOfSpace"', 'mountpoint="/var"'],
        "mode": "dry_run",
        "action": "poundcake.disk_cleanup",
        "with": {"directories": ["/var/log/app"], "older_than_days": 7},
    },
    {
        "name": "postgres",
        "match": ['alertname="ServiceDown"', 'service="postgres"'],
        "mode": "ask",
        "approvers": ["anna", "ben"],
        "action": WORK,
    },
]
# What undoes the actions that change something, so that the outputs do not depend on their order.
UNDO = {
    "poundcake.pause": {"action": "poundcake.resume", "parameters": {}},
    "poundcake.acknowledge": {
        "action": "poundcake.acknowledge",
        "parameters": {"instance": "web-1.example.org", "undo": True},
    },
}
OUTPUTS = [
    pytest.param(path, shown, id=f"{path.name}-{number}")
    for path in documents.DOCUMENTS
    for number, shown in enumerate(find_shown_outputs(path), 1)
    if shown.command.startswith("st2 ")  # tests/test_escalation.py runs those of amtool
]


@pytest.fixture(scope="module")
def shown_stack(kind, new_stack):
    """Return a stack with the alerts of the documents: HostDown, and ServiceDown, which waits."""
    if kind == "live":
        pytest.skip("live: the history contains more than the alerts of the documents")
    stack = new_stack()
    sample = ROOT / "tests" / "scenarios" / "samples" / "firing.json"
    request_id = stack.send(sample.read_bytes())
    stack.wait_until_completed(request_id)
    actions = [WORK, "poundcake.restart_service", "poundcake.clean_disk"]
    allowed = {"dry_run": False, "allowed_hosts": ["*"], "allowed_actions": actions}
    with stack.configured_remediations(ENTRIES, **allowed):
        labels = {"alertname": "ServiceDown", "instance": "db-1:9100", "service": "postgres"}
        annotations = {"summary": "postgres on db-1 does not answer"}
        waiting_alert = alert("ServiceDown", labels=labels, annotations=annotations)
        waiting_id = stack.send(notification(waiting_alert))
        stack.wait_for_trail(
            waiting_id,
            lambda trail: [e for e in trail["stackstorm_executions"] if e["status"] == "paused"],
        )
        yield stack


@pytest.mark.parametrize(("path", "shown"), OUTPUTS)
def test_the_output_is_the_one_that_the_document_shows(
    shown_stack, monkeypatch, capsys, path, shown
):
    st2 = st2_runner(shown_stack, monkeypatch, capsys)
    _, *arguments = shlex.split(shown.command)
    action = arguments[1]
    if action == "poundcake.resume":
        shown_stack.run("poundcake.pause", reason="maintenance of rack 12")
    # The documents name an action of the linux pack, which the stand-in does not have.
    lines = [line.replace(WORK, "linux.service") for line in read_result(st2(*arguments))]
    if action in UNDO:
        shown_stack.run(UNDO[action]["action"], **UNDO[action]["parameters"])
    if os.environ.get("POUNDCAKE_UPDATE_PAGES"):
        text = path.read_text(encoding="utf-8")
        new_block = "\n".join([f"$ {shown.command}", *lines]) + "\n"
        path.write_text(text.replace(shown.block, new_block), encoding="utf-8")
        return
    text = "\n".join(lines)
    assert is_shown_in(shown.lines, lines), f"$ {shown.command}\n{text}"

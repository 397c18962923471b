"""The pack in docs/REMEDIATION.md works: its action is a check of the host."""

from __future__ import annotations

import http.server
import json
import threading

import pytest
import yaml

from tests.documents import ROOT, find_block
from tests.scenarios import conftest
from tests.scenarios.notifications import alert, notification

# The check does not depend on the kind of database, so one is enough.
pytestmark = [
    pytest.mark.parametrize("kind", conftest.KINDS[:1], indirect=True, scope="package"),
    pytest.mark.skipif(conftest.KINDS == ["live"], reason="live: it has no pack mypack"),
]
PAGE = ROOT / "docs" / "REMEDIATION.md"
HOST = "web-1.example.org"


@pytest.fixture
def queues():
    """Return a server that knows the length of each queue, with its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps({"length": server.lengths[self.path[1:]]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.url = f"http://127.0.0.1:{server.server_port}/"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def pack(tmp_path, queues):
    """Return the folder of the pack, as the page shows it."""
    for language, name in (("yaml", "pack.yaml"), ("yaml", "check.yaml"), ("python", "check.py")):
        block = find_block(PAGE, language, f"/{name}\n")
        path = tmp_path / block.splitlines()[0].lstrip("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.replace("http://queues.example.org/", queues.url))
    return tmp_path / "mypack"


def test_an_action_of_ones_own_is_a_check_of_the_host(new_stack, pack, queues):
    config = yaml.safe_load(find_block(PAGE, "yaml", "action:mypack.check"))
    stack = new_stack(config, packs=[pack])
    seen = {}
    for length in (1500, 10):
        queues.lengths = {HOST: length}
        labels = {"alertname": "QueueTooLong", "instance": f"{HOST}:9100", "n": str(length)}
        trail = stack.wait_until_completed(
            stack.send(notification(alert("QueueTooLong", labels=labels)))
        )
        (execution,) = trail["stackstorm_executions"]
        assert execution["stage"] == "dry_run"
        seen[length] = execution["message"]
    assert "the queue has 1500 entries; would run linux.service" in seen[1500]
    assert "the queue has 10 entries, so nothing would be changed" in seen[10]

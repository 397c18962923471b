"""Run schemathesis with the OpenAPI description against an endpoint in a separate process.

schemathesis needs Python 3.10 or later and a separate environment, .venv-fuzz, which `make fuzz`
creates. Without it, the test is skipped.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.fuzz import ROOT
from tests.lib.endpoints import Unpatched
from tests.lib.samples import alert, webhook

SCHEMATHESIS = os.path.join(ROOT, ".venv-fuzz", "bin", "schemathesis")
TOKEN = "the-token-in-use"
# Not included are the checks that all valid inputs are accepted and all invalid ones are refused,
# because OpenAPI cannot express that `until` must not be before `since`, and because the endpoint
# accepts fields that the document does not list.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance,ignored_auth,missing_required_header,"
    "unsupported_method"
)

pytestmark = pytest.mark.skipif(
    not os.path.exists(SCHEMATHESIS),
    reason="no schemathesis in .venv-fuzz: run `make fuzz` with Python 3.10 or later",
)


def test_the_endpoint_matches_its_description(tmp_path):
    endpoint = Unpatched(tmp_path, auth_tokens=[TOKEN], log_level="error").start().ready()
    try:
        endpoint.accept(webhook(alert(), alert("B")), Authorization="Bearer " + TOKEN)
        run = subprocess.run(
            [
                SCHEMATHESIS,
                "run",
                f"http://127.0.0.1:{endpoint.port}/api/v1/openapi.json",
                "--header=Authorization: Bearer " + TOKEN,
                "--checks=" + CHECKS,
                "--max-examples={}".format(os.environ.get("SCHEMATHESIS_EXAMPLES", "3")),
                "--seed=1",
                "--phases=examples,coverage,fuzzing,stateful",
                "--no-color",
            ],
            cwd=str(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout
        print(run.stdout)
        assert endpoint.is_alive
    finally:
        endpoint.stop()

"""schemathesis over the OpenAPI description, against an endpoint in a process of its own.

It runs in an environment of its own, .venv-fuzz, which `make fuzz` makes; elsewhere it is skipped.
"""

import os
import subprocess

import pytest

from tests.fuzz import ROOT
from tests.lib.endpoints import Unpatched
from tests.lib.samples import alert, webhook

SCHEMATHESIS = os.path.join(ROOT, ".venv-fuzz", "bin", "schemathesis")
TOKEN = "the-token"
# An input that fits the description may still be refused, as until before since is, and one that
# does not may be taken: all that is not named is welcome.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance,ignored_auth,missing_required_header,"
    "unsupported_method"
)

pytestmark = pytest.mark.skipif(
    not os.path.exists(SCHEMATHESIS),
    reason="schemathesis is in no .venv-fuzz: `make fuzz` on Python 3.10 or later makes it",
)


def test_the_endpoint_is_as_it_is_described(tmp_path):
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
            universal_newlines=True,
        )
        assert run.returncode == 0, run.stdout
        print(run.stdout)
        assert endpoint.alive
    finally:
        endpoint.stop()

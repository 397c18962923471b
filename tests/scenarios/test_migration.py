"""What docs/MIGRATION.md says about the predecessor's routes, tables and variables is true."""

from __future__ import annotations

import re

import pytest
import yaml

from tests import documents
from tests.lib.samples import FIRST_COLUMNS
from tests.scenarios.notifications import alert, notification

PAGE = (documents.ROOT / "docs" / "MIGRATION.md").read_text(encoding="utf-8")
# The fields and columns that clients of the predecessor read.
FIELDS = {
    "POST /api/v1/webhook": {"status", "request_id", "alerts_received"},
    "GET /api/v1/status/{request_id}": {
        "request_id",
        "received_at",
        "alerts",
        "stackstorm_executions",
    },
    "GET /api/v1/executions/recent": set(),
    "GET /api/v1/alerts/active": set(),
    "GET /api/v1/st2/executions": set(),
    "GET /api/v1/health": {"status"},
}


def rows_below(heading):
    """Return the cells of the table in a section of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def request_id(stack):
    request_id = stack.send(notification(alert("ScenarioLinked")))
    stack.wait_until_completed(request_id)
    return request_id


@pytest.mark.parametrize("row", rows_below("Routes"), ids=lambda row: row[0])
def test_each_route_answers_with_the_fields_of_the_predecessor(stack, request_id, row):
    route = row[0].strip("`")
    method, path = route.split()
    if method == "POST":
        response = stack.post(notification(alert("ScenarioLinked")))
        assert response.status_code == 202
    else:
        path = path.replace("{request_id}", request_id)
        response = stack.get(path[len("/api/v1") :])
        assert response.status_code == 200
    assert FIELDS[route] <= set(response.json())


def test_each_route_of_the_predecessor_is_on_the_page():
    assert [row[0].strip("`") for row in rows_below("Routes")] == list(FIELDS)


def test_each_execution_in_the_status_view_has_the_fields_of_the_predecessor(stack, request_id):
    (execution,) = stack.get_trail(request_id)["stackstorm_executions"]
    assert {"st2_execution_id", "st2_workflow"} <= set(execution)


@pytest.mark.parametrize("row", rows_below("Tables"), ids=lambda row: row[0])
def test_each_table_has_the_columns_of_the_predecessor(stack, request_id, row):
    table = row[0].strip("`")
    columns = set(stack.rows(f"SELECT * FROM {table} LIMIT 1")[0])
    assert set(FIRST_COLUMNS[table].split()) <= columns
    assert set(re.match("`(.*?)`", row[1]).groups()) <= columns


def test_each_table_of_the_predecessor_is_on_the_page():
    assert [row[0].strip("`") for row in rows_below("Tables")] == list(FIRST_COLUMNS)


def test_each_variable_is_replaced_by_a_key_or_by_nothing():
    schema = yaml.safe_load((documents.ROOT / "config.schema.yaml").read_text(encoding="utf-8"))
    replacements = {row[0].strip("`"): row[1] for row in rows_below("Environment variables")}
    keys = {name: re.match("`(.*?)`", text) for name, text in replacements.items()}
    assert {name: match.group(1) if match else None for name, match in keys.items()} == {
        "DATABASE_URL": "database_url",
        "CELERY_BROKER_URL": None,
        "CELERY_RESULT_BACKEND": None,
        "ST2_API_URL": "st2_api_url",
        "ST2_API_KEY": "st2_api_key",
        "LOG_LEVEL": "log_level",
    }
    assert {match.group(1) for match in keys.values() if match} <= set(schema)
    assert all(text.startswith("none") for name, text in replacements.items() if not keys[name])

"""The description of the endpoint: all of its routes, and answers as it says."""

import logging
import re
import time

import jsonschema
import pytest

from poundcake.config import load
from poundcake.endpoint import app, openapi
from poundcake.trail import claims, database
from poundcake.trail.schema import executions
from tests.lib.endpoints import InThreads
from tests.lib.samples import NOON, alert, later, webhook

TOKEN = "Bearer the-token"


def translate(schema, names):
    """A schema of OpenAPI 3.0 as JSON Schema, in which nothing but what is named may stand."""
    if isinstance(schema, list):
        return [translate(part, names) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return translate(names[schema["$ref"].rpartition("/")[2]], names)
    found = {key: translate(value, names) for key, value in schema.items()}
    if "properties" in schema:
        found.setdefault("additionalProperties", False)
    if schema.get("nullable"):
        found["type"] = [schema["type"], "null"]
    return found


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    found = InThreads(tmp_path_factory.mktemp("openapi"), auth_tokens=["the-token"])
    yield found.start().ready()
    found.stop()


@pytest.fixture(scope="module")
def described(endpoint):
    return endpoint.get("/api/v1/openapi.json", Authorization=TOKEN).json


@pytest.fixture(scope="module")
def worked_on(endpoint):
    """The id of a request that has all that a request can have."""
    request_id = endpoint.accept(
        webhook(alert("Worked"), {"labels": 5}, alert("Ran")), Authorization=TOKEN
    )
    deadline = time.monotonic() + 60
    while True:
        found = endpoint.get("/api/v1/status/" + request_id, Authorization=TOKEN).json
        if found["alerts"]:
            break
        assert time.monotonic() < deadline
        time.sleep(0.02)
    config = load(endpoint.config)
    engine = database.open_engine(config.tracking_url)
    for one, more in zip((found["alerts"][0], found["alerts"][2]), ({}, {"end": later(9)})):
        claims.link(engine, request_id, one["episode"], "p.work", "e-" + one["alert_name"])
        with engine.begin() as connection:
            connection.execute(
                executions.update()
                .where(executions.c.id == "e-" + one["alert_name"])
                .values(
                    status="succeeded" if more else "running",
                    start_timestamp=NOON,
                    end_timestamp=more.get("end"),
                    dry_run=True if more else None,
                )
            )
    engine.dispose()
    return request_id


def check(described, path, answer, method="get"):
    """The answer is one that the description has for this path."""
    response = described["paths"][path][method]["responses"][str(answer.status)]
    media = answer.headers["content-type"].split(";")[0]
    schema = response["content"][media]["schema"]
    if media.endswith("json"):
        names = described["components"]["schemas"]
        jsonschema.Draft7Validator(translate(schema, names)).validate(answer.json)


def test_its_routes_are_the_endpoints(described, endpoint):
    served = app.Receiver(load({}), None, logging.getLogger("openapi"))._routes
    assert sorted((verb.lower(), path) for verb, path, _ in served) == sorted(
        (verb, path) for path, operations in described["paths"].items() for verb in operations
    )


@pytest.mark.parametrize("path", sorted(openapi.description([])["paths"]))
def test_its_parameters_are_those_that_are_taken(described, endpoint, path):
    operation = described["paths"][path].get("get")
    if operation is None or "400" not in operation["responses"]:
        return
    asked = path.replace("{request_id}", "x")
    answer = endpoint.get(asked + "?nonsense=1", Authorization=TOKEN)
    check(described, path, answer)
    known = answer.json["detail"].partition("there are ")[2].split(", ")
    named = [p["name"] for p in operation["parameters"] if p["in"] == "query"]
    assert sorted(known) == sorted(named or ["none"])
    for parameter in operation["parameters"]:
        schema, name = parameter["schema"], parameter["name"]
        for bound, step in (("minimum", -1), ("maximum", 1)):
            if bound in schema:
                for value, status in ((schema[bound], 200), (schema[bound] + step, 400)):
                    url = f"{path}?{name}={value}"
                    assert endpoint.get(url, Authorization=TOKEN).status == status, url
        for value in schema.get("enum", []):
            url = f"{path}?{name}={value}"
            assert endpoint.get(url, Authorization=TOKEN).status == 200, url
        if "enum" in schema:
            url = f"{path}?{name}=other"
            check(described, path, endpoint.get(url, Authorization=TOKEN))


@pytest.mark.parametrize(
    "path, query",
    [(path, "") for path in sorted(openapi.description([])["paths"]) if "webhook" not in path]
    + [
        ("/api/v1/executions/recent", "?limit=1"),
        ("/api/v1/alerts/active", "?limit=1"),
        ("/api/v1/st2/executions", "?limit=1"),
        ("/api/v1/alerts/active", "?outcome=admitted&alert_name=Ran"),
    ],
)
def test_answers_are_as_it_says(described, endpoint, worked_on, path, query):
    answer = endpoint.get(
        path.replace("{request_id}", worked_on) + query,
        Authorization=TOKEN,
    )
    assert answer.status == 200
    check(described, path, answer)
    if path.startswith(("/api/v1/executions", "/api/v1/alerts", "/api/v1/st2")):
        (rows,) = [value for value in answer.json.values() if isinstance(value, list)]
        assert rows


@pytest.mark.parametrize("path", sorted(openapi.description([])["paths"]))
def test_who_asks_is_asked_where_it_says(described, endpoint, path):
    ((method, operation),) = described["paths"][path].items()
    assert described["security"] == [{"bearer": []}]
    answer = endpoint.ask(method.upper(), path, b"{}" if method == "post" else None)
    if operation.get("security") == []:
        assert answer.status == 200
    else:
        assert answer.status == 401
    check(described, path, answer, method)


@pytest.mark.parametrize(
    "body, headers, status",
    [
        (b'{"alerts": []}', {}, 202),
        (b"{", {}, 400),
        (b"{}", {"Content_Length": None}, 411),
        (b"{}", {"Content_Length": "99999999"}, 413),
        (b"{}", {"Content_Type": "text/plain"}, 415),
    ],
)
def test_answers_to_a_webhook(described, endpoint, body, headers, status):
    answer = endpoint.ask("POST", "/api/v1/webhook", body, Authorization=TOKEN, **headers)
    assert answer.status == status
    check(described, "/api/v1/webhook", answer, "post")


def test_an_unknown_request(described, endpoint):
    answer = endpoint.get("/api/v1/status/x", Authorization=TOKEN)
    assert answer.status == 404
    check(described, "/api/v1/status/{request_id}", answer)


def test_a_webhook_of_alertmanager_fits(described):
    names = described["components"]["schemas"]
    validator = jsonschema.Draft7Validator(translate(names["Alert"], names))
    for one in (alert(), alert(fingerprint="2993e3e5da48cfe2"), alert(starts_at=None)):
        validator.validate(one)
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"labels": {"alertname": 5}})


@pytest.mark.parametrize(
    "ways, expected",
    [
        ([], []),
        (["bearer", "basic"], [{"bearer": []}, {"basic": []}]),
        (["bearer", "client certificate"], [{"bearer": []}, {}]),
        (["client certificate"], [{}]),
    ],
)
def test_the_ways_to_say_who_asks(ways, expected):
    found = openapi.description(ways)
    assert found["security"] == expected
    operation = found["paths"]["/metrics"]["get"]
    assert ("401" in operation["responses"]) == bool(ways)
    assert {name for way in expected for name in way} <= set(found["components"]["securitySchemes"])


@pytest.mark.parametrize(
    "given, fits",
    [
        ("1h30m", True),
        ("7d", True),
        ("2026-01-14T12:00:00Z", True),
        ("2026-01-14T12:00:00.123+05:30", True),
        ("1m1h", False),
        ("yesterday", False),
        ("2026-01-14", False),
    ],
)
def test_a_time_that_fits_is_taken(endpoint, given, fits):
    (parameter,) = [
        p
        for p in openapi.description([])["paths"]["/api/v1/alerts/active"]["get"]["parameters"]
        if p["name"] == "since"
    ]
    assert bool(re.search(parameter["schema"]["pattern"], given)) == fits
    url = "/api/v1/alerts/active?since=" + given.replace("+", "%2B")
    assert endpoint.get(url, Authorization=TOKEN).status == (200 if fits else 400)


def test_a_client_can_name_its_operations():
    operations = [o for path in openapi.description([])["paths"].values() for o in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) and "status" in names

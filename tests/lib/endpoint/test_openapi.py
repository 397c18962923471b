"""The endpoint's description is valid, and matches its routes, parameters and responses."""

from __future__ import annotations

import logging
import pathlib
import re

import jsonschema
import pytest
import yaml

import poundcake
from poundcake.config import load
from poundcake.endpoint import openapi
from poundcake.endpoint.app import Receiver
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.refused_webhooks import RefusalReason
from poundcake.stackstorm import STATUSES
from poundcake.trail import claims, database
from poundcake.trail.outcomes import Outcome
from poundcake.trail.schema import executions
from tests.lib.endpoints import InThreads
from tests.lib.samples import NOON, alert, later, webhook
from tests.waiting import wait_for

OPENAPI = pathlib.Path(__file__).with_name("openapi-3.0.schema.yaml")
TOKEN = "Bearer the-token-in-use"
PATHS = sorted(openapi.description([], False)["paths"])


def resolve(document, part):
    """Return the target of a part of the document if it is a reference, and otherwise the part."""
    if "$ref" not in part:
        return part
    for name in part["$ref"].split("/")[1:]:
        document = document[name]
    return document


def references(part):
    """Yield every reference in a part of the document."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def translate(schema, document):
    """Return an OpenAPI 3.0 schema as JSON Schema that allows only the named properties."""
    if isinstance(schema, list):
        return [translate(part, document) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = resolve(document, schema)
    translated = {key: translate(value, document) for key, value in schema.items()}
    if "properties" in schema:
        translated.setdefault("additionalProperties", False)
    if schema.get("nullable"):
        translated["type"] = [schema["type"], "null"]
    return translated


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    running = InThreads(tmp_path_factory.mktemp("openapi"), auth_tokens=["the-token-in-use"])
    yield running.start().ready()
    running.stop()


@pytest.fixture(scope="module")
def described(endpoint):
    return endpoint.get("/api/v1/openapi.json", Authorization=TOKEN).json


@pytest.fixture(scope="module")
def worked_on(endpoint):
    """Return the id of a request that has every field."""
    request_id = endpoint.accept(
        webhook(alert("Worked"), {"labels": 5}, alert("Ran")), Authorization=TOKEN
    )
    status = "/api/v1/status/" + request_id
    wait_for(lambda: endpoint.get(status, Authorization=TOKEN).json["alerts"])
    status_view = endpoint.get(status, Authorization=TOKEN).json
    config = load(endpoint.config)
    engine = database.open_engine(config.tracking_url)
    for row, more in zip(
        (status_view["alerts"][0], status_view["alerts"][2]), ({}, {"end": later(9)})
    ):
        claims.link(engine, request_id, row["episode"], "p.work", "e-" + row["alert_name"])
        with engine.begin() as connection:
            connection.execute(
                executions.update()
                .where(executions.c.id == "e-" + row["alert_name"])
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
    """Assert that the description contains this response for this path."""
    responses = described["paths"][path][method]["responses"]
    response = resolve(described, responses[str(answer.status)])
    media_type = answer.headers["content-type"].split(";")[0]
    schema = response["content"][media_type]["schema"]
    if media_type.endswith("json"):
        jsonschema.Draft7Validator(translate(schema, described)).validate(answer.json)


class TestDocument:
    @pytest.mark.parametrize("methods", [[], ["bearer"], ["bearer", "basic", "client certificate"]])
    def test_it_is_openapi_3_0(self, methods):
        document = openapi.description(methods, False)
        schema = yaml.safe_load(OPENAPI.read_text())
        jsonschema.Draft7Validator.check_schema(schema)
        jsonschema.Draft7Validator(schema).validate(document)
        assert document["info"]["version"] == poundcake.__version__

    def test_every_reference_resolves_and_every_component_is_used(self):
        document = openapi.description([], False)
        used = set()
        for reference in references(document):
            resolve(document, {"$ref": reference})
            used.add(reference)
        defined = {
            f"#/components/{kind}/{name}"
            for kind in ("schemas", "parameters", "responses")
            for name in document["components"][kind]
        }
        # It is for endpoints with credentials.
        assert defined - used == {"#/components/responses/Unauthenticated"}

    def test_the_placeholders_of_a_path_are_its_path_parameters(self):
        document = openapi.description([], False)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                parameters = [resolve(document, p) for p in operation.get("parameters", [])]
                named = [p["name"] for p in parameters if p["in"] == "path"]
                assert re.findall(r"{(\w+)}", path) == named

    def test_every_operation_has_a_unique_id(self):
        paths = openapi.description([], False)["paths"].values()
        names = [operation["operationId"] for path in paths for operation in path.values()]
        assert len(set(names)) == len(names) and "status" in names

    @pytest.mark.parametrize(
        "methods, expected",
        [
            ([], []),
            (["bearer", "basic"], [{"bearer": []}, {"basic": []}]),
            (["bearer", "client certificate"], [{"bearer": []}, {}]),
            (["client certificate"], [{}]),
        ],
    )
    def test_the_security_matches_the_configuration(self, methods, expected):
        description = openapi.description(methods, False)
        assert description["security"] == expected
        responses = description["paths"]["/metrics"]["get"]["responses"]
        assert ("401" in responses) == bool(methods)
        assert ("403" in responses) == (not methods)

    def test_scopes_add_403_and_signatures_apply_to_webhooks(self):
        description = openapi.description(["bearer", "hmac"], True)
        operations = [op for path in description["paths"].values() for op in path.values()]
        assert all(
            {"401", "403"} <= set(operation["responses"])
            for operation in operations
            if operation["operationId"] != "health_live"
        )
        assert description["security"] == [{"bearer": []}]
        hook = description["paths"]["/api/v1/webhook"]["post"]
        assert hook["security"] == [{"bearer": []}, {"hmac": []}]

    def test_the_enums_match_the_code(self, described):
        components = described["components"]
        schemas, parameters = components["schemas"], components["parameters"]
        outcomes = [str(outcome) for outcome in Outcome]
        assert sorted(schemas["Outcome"]["enum"]) == sorted(outcomes)
        assert sorted(parameters["outcome"]["schema"]["enum"]) == sorted(["", *outcomes])
        assert parameters["execution_status"]["schema"]["enum"] == ["", *STATUSES]
        last = schemas["RefusedWebhooks"]["properties"]["last"]
        assert last["properties"]["reason"]["enum"] == [reason.value for reason in RefusalReason]

    def test_the_limit_of_alerts_matches_the_code(self, described, endpoint):
        maximum = described["components"]["schemas"]["Webhook"]["properties"]["alerts"]["maxItems"]
        answer = endpoint.post({"alerts": [0] * (maximum + 1)}, Authorization=TOKEN)
        assert (answer.status, answer.json["field"]) == (400, "alerts")
        assert str(maximum) in answer.json["detail"].replace(str(maximum + 1), "")

    def test_a_webhook_of_alertmanager_is_valid(self, described):
        schema = described["components"]["schemas"]["Alert"]
        validator = jsonschema.Draft7Validator(translate(schema, described))
        for sent in (alert(), alert(fingerprint="2993e3e5da48cfe2"), alert(starts_at=None)):
            validator.validate(sent)
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({"labels": 5})


class TestRoutes:
    def test_the_routes_are_those_of_the_application(self, described):
        class Service:
            metrics = Metrics(dict, tuple)

        served = Receiver(load({}), Service(), logging.getLogger("openapi")).routes
        assert sorted((route.method.lower(), route.template) for route in served) == sorted(
            (verb, path) for path, operations in described["paths"].items() for verb in operations
        )

    @pytest.mark.parametrize("path", PATHS)
    def test_the_parameters_are_those_of_the_application(self, described, endpoint, path):
        operation = described["paths"][path].get("get")
        if operation is None or "400" not in operation["responses"]:
            return
        url = path.replace("{request_id}", "x")
        answer = endpoint.get(url + "?nonsense=1", Authorization=TOKEN)
        check(described, path, answer)
        known = answer.json["detail"].partition("known: ")[2].split(", ")
        parameters = [resolve(described, parameter) for parameter in operation["parameters"]]
        named = [parameter["name"] for parameter in parameters if parameter["in"] == "query"]
        assert sorted(known) == sorted(named or ["none"])
        for parameter in parameters:
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
    def test_a_time_that_matches_the_pattern_is_accepted(self, described, endpoint, given, fits):
        pattern = described["components"]["parameters"]["since"]["schema"]["pattern"]
        assert bool(re.search(pattern, given)) == fits
        url = "/api/v1/alerts/active?since=" + given.replace("+", "%2B")
        assert endpoint.get(url, Authorization=TOKEN).status == (200 if fits else 400)


class TestAnswers:
    @pytest.mark.parametrize(
        "path, query",
        [(path, "") for path in PATHS if "webhook" not in path]
        + [
            ("/api/v1/executions/recent", "?limit=1"),
            ("/api/v1/alerts/active", "?limit=1"),
            ("/api/v1/st2/executions", "?limit=1"),
            ("/api/v1/alerts/active", "?outcome=admitted&alert_name=Ran"),
        ],
    )
    def test_responses_match_the_description(self, described, endpoint, worked_on, path, query):
        url = path.replace("{request_id}", worked_on) + query
        answer = endpoint.get(url, Authorization=TOKEN)
        assert answer.status == 200
        check(described, path, answer)
        if path.startswith(("/api/v1/executions", "/api/v1/alerts", "/api/v1/st2")):
            (rows,) = [value for value in answer.json.values() if isinstance(value, list)]
            assert rows

    @pytest.mark.parametrize("path", PATHS)
    def test_credentials_are_required_as_described(self, described, endpoint, path):
        ((method, operation),) = described["paths"][path].items()
        assert described["security"] == [{"bearer": []}]
        answer = endpoint.request(method.upper(), path, b"{}" if method == "post" else None)
        assert answer.status == (200 if operation.get("security") == [] else 401)
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
    def test_responses_to_a_webhook(self, described, endpoint, body, headers, status):
        answer = endpoint.request("POST", "/api/v1/webhook", body, Authorization=TOKEN, **headers)
        assert answer.status == status
        check(described, "/api/v1/webhook", answer, "post")
        health = endpoint.get("/api/v1/health", Authorization=TOKEN)
        check(described, "/api/v1/health", health)

    def test_an_unknown_request(self, described, endpoint):
        answer = endpoint.get("/api/v1/status/x", Authorization=TOKEN)
        assert answer.status == 404
        check(described, "/api/v1/status/{request_id}", answer)

    def test_an_endpoint_without_credentials(self, make):
        endpoint = make()
        described = endpoint.get("/api/v1/openapi.json").json
        for path in PATHS:
            ((method, operation),) = described["paths"][path].items()
            body = b"{}" if method == "post" else None
            answer = endpoint.request(method.upper(), path, body, Origin="http://evil.example")
            assert answer.status == (200 if operation.get("security") == [] else 403)
            check(described, path, answer, method)

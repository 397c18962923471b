"""The endpoint's OpenAPI document is valid, and matches its routes, parameters and responses."""

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
from poundcake.endpoint.routes import is_board_path
from poundcake.execution_status import STATUSES
from poundcake.trail import claims, database
from poundcake.trail.outcomes import Outcome
from poundcake.trail.schema import executions
from tests.lib.endpoints import InThreads
from tests.lib.samples import NOON, alert, later, webhook
from tests.waiting import wait_for

OPENAPI_SCHEMA = pathlib.Path(__file__).with_name("openapi-3.0.schema.yaml")
TOKEN = "Bearer the-token-in-use"
PATHS = sorted(openapi.build_description([], False)["paths"])


def resolve(document, part):
    """Return a part of the document, or the target of the part if it is a reference."""
    if "$ref" not in part:
        return part
    for name in part["$ref"].split("/")[1:]:
        document = document[name]
    return document


def iterate_references(part):
    """Yield every reference in a part of the document."""
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from iterate_references(value)
    elif isinstance(part, list):
        for value in part:
            yield from iterate_references(value)


def translate(schema, document):
    """Return an OpenAPI 3.0 schema as JSON Schema that allows only the listed properties."""
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
    new_endpoint = InThreads(tmp_path_factory.mktemp("openapi"), auth_tokens=["the-token-in-use"])
    yield new_endpoint.start().ready()
    new_endpoint.stop()


@pytest.fixture(scope="module")
def document(endpoint):
    return endpoint.get("/api/v1/openapi.json", Authorization=TOKEN).json


@pytest.fixture(scope="module")
def complete_request_id(endpoint):
    """Return the id of a request whose views contain every field of the document."""
    request_id = endpoint.accept(
        webhook(alert("Worked"), {"labels": 5}, alert("Ran")), Authorization=TOKEN
    )
    status = "/api/v1/status/" + request_id
    wait_for(lambda: endpoint.get(status, Authorization=TOKEN).json["alerts"])
    status_view = endpoint.get(status, Authorization=TOKEN).json
    config = load(endpoint.config)
    engine = database.open_engine(config.tracking_url)
    for row, ended_at in zip(
        (status_view["alerts"][0], status_view["alerts"][2]), (None, later(9))
    ):
        claims.link(engine, request_id, row["episode"], "p.work", "e-" + row["alert_name"])
        with engine.begin() as connection:
            connection.execute(
                executions.update()
                .where(executions.c.id == "e-" + row["alert_name"])
                .values(
                    status="succeeded" if ended_at else "running",
                    start_timestamp=NOON,
                    end_timestamp=ended_at,
                    dry_run=True if ended_at else None,
                )
            )
    engine.dispose()
    return request_id


def check_response(document, path, response, method="get"):
    """Assert that the document describes this response for this path."""
    responses = document["paths"][path][method]["responses"]
    described_response = resolve(document, responses[str(response.status)])
    media_type = response.headers["content-type"].split(";")[0]
    schema = described_response["content"][media_type]["schema"]
    if media_type.endswith("json"):
        jsonschema.Draft7Validator(translate(schema, document)).validate(response.json)


class TestDocument:
    @pytest.mark.parametrize("methods", [[], ["bearer"], ["bearer", "basic", "client certificate"]])
    def test_the_document_is_valid_openapi_3_0(self, methods):
        document = openapi.build_description(methods, False)
        schema = yaml.safe_load(OPENAPI_SCHEMA.read_text())
        jsonschema.Draft7Validator.check_schema(schema)
        jsonschema.Draft7Validator(schema).validate(document)
        assert document["info"]["version"] == poundcake.__version__

    def test_every_reference_resolves_and_every_component_is_used(self):
        document = openapi.build_description([], False)
        used_references = set()
        for reference in iterate_references(document):
            resolve(document, {"$ref": reference})
            used_references.add(reference)
        defined_components = {
            f"#/components/{section}/{name}"
            for section in ("schemas", "parameters", "responses")
            for name in document["components"][section]
        }
        # Only endpoints with credentials use this response.
        assert defined_components - used_references == {"#/components/responses/Unauthenticated"}

    def test_the_placeholders_of_a_path_are_its_path_parameters(self):
        document = openapi.build_description([], False)
        for path, operations in document["paths"].items():
            for operation in operations.values():
                parameters = [resolve(document, p) for p in operation.get("parameters", [])]
                parameter_names = [p["name"] for p in parameters if p["in"] == "path"]
                assert re.findall(r"{(\w+)}", path) == parameter_names

    def test_every_operation_has_a_unique_id(self):
        paths = openapi.build_description([], False)["paths"].values()
        ids = [operation["operationId"] for path in paths for operation in path.values()]
        assert len(set(ids)) == len(ids) and "status" in ids

    @pytest.mark.parametrize(
        "methods, expected",
        [
            ([], []),
            (["bearer", "basic"], [{"bearer": []}, {"basic": []}]),
            (["bearer", "client certificate"], [{"bearer": []}, {}]),
            (["client certificate"], [{}]),
        ],
    )
    def test_the_security_requirements_match_the_configuration(self, methods, expected):
        description = openapi.build_description(methods, False)
        assert description["security"] == expected
        responses = description["paths"]["/metrics"]["get"]["responses"]
        assert ("401" in responses) == bool(methods)
        assert ("403" in responses) == (not methods)

    def test_scopes_add_403_and_signatures_apply_to_webhooks(self):
        description = openapi.build_description(["bearer", "hmac"], True)
        operations = [op for path in description["paths"].values() for op in path.values()]
        assert all(
            {"401", "403"} <= set(operation["responses"])
            for operation in operations
            if operation["operationId"] != "health_live"
        )
        assert description["security"] == [{"bearer": []}]
        operation = description["paths"]["/api/v1/webhook"]["post"]
        assert operation["security"] == [{"bearer": []}, {"hmac": []}]

    def test_the_enums_match_the_code(self, document):
        components = document["components"]
        schemas, parameters = components["schemas"], components["parameters"]
        outcomes = [str(outcome) for outcome in Outcome]
        assert sorted(schemas["Outcome"]["enum"]) == sorted(outcomes)
        assert sorted(parameters["outcome"]["schema"]["enum"]) == sorted(["", *outcomes])
        assert parameters["execution_status"]["schema"]["enum"] == ["", *STATUSES]
        last_refusal = schemas["RefusedWebhooks"]["properties"]["last"]
        assert last_refusal["properties"]["reason"]["enum"] == [
            reason.value for reason in RefusalReason
        ]

    def test_the_maximum_number_of_alerts_matches_the_code(self, document, endpoint):
        maximum = document["components"]["schemas"]["Webhook"]["properties"]["alerts"]["maxItems"]
        response = endpoint.post({"alerts": [0] * (maximum + 1)}, Authorization=TOKEN)
        assert (response.status, response.json["field"]) == (400, "alerts")
        assert str(maximum) in response.json["detail"].replace(str(maximum + 1), "")

    def test_an_alert_from_alertmanager_is_valid(self, document):
        schema = document["components"]["schemas"]["Alert"]
        validator = jsonschema.Draft7Validator(translate(schema, document))
        for valid_alert in (alert(), alert(fingerprint="2993e3e5da48cfe2"), alert(starts_at=None)):
            validator.validate(valid_alert)
        with pytest.raises(jsonschema.ValidationError):
            validator.validate({"labels": 5})


class TestRoutes:
    def test_the_routes_match_the_application(self, document):
        """The document describes the API. The board is for people, so its routes are left out."""

        class FakeService:
            metrics = Metrics(dict, tuple)

        receiver = Receiver(load({}), FakeService(), logging.getLogger("openapi"))
        api_routes = [route for route in receiver.routes if not is_board_path(route.template)]
        assert len(api_routes) < len(receiver.routes)
        assert sorted((route.method.lower(), route.template) for route in api_routes) == sorted(
            (method, path)
            for path, operations in document["paths"].items()
            for method in operations
        )

    @pytest.mark.parametrize("path", PATHS)
    def test_the_parameters_match_the_application(self, document, endpoint, path):
        operation = document["paths"][path].get("get")
        if operation is None or "400" not in operation["responses"]:
            return
        url = path.replace("{request_id}", "x")
        response = endpoint.get(url + "?nonsense=1", Authorization=TOKEN)
        check_response(document, path, response)
        known_names = response.json["detail"].partition("known: ")[2].split(", ")
        parameters = [resolve(document, parameter) for parameter in operation["parameters"]]
        parameter_names = [
            parameter["name"] for parameter in parameters if parameter["in"] == "query"
        ]
        assert sorted(known_names) == sorted(parameter_names or ["none"])
        for parameter in parameters:
            schema, name = parameter["schema"], parameter["name"]
            needed = "&alert_name=A" if path == "/api/v1/why" else ""
            for bound, step in (("minimum", -1), ("maximum", 1)):
                if bound in schema:
                    for value, status in ((schema[bound], 200), (schema[bound] + step, 400)):
                        url = f"{path}?{name}={value}{needed}"
                        assert endpoint.get(url, Authorization=TOKEN).status == status, url
            for value in schema.get("enum", []):
                url = f"{path}?{name}={value}{needed}"
                assert endpoint.get(url, Authorization=TOKEN).status == 200, url
            if "enum" in schema:
                url = f"{path}?{name}=other{needed}"
                check_response(document, path, endpoint.get(url, Authorization=TOKEN))

    @pytest.mark.parametrize(
        "time, is_valid",
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
    def test_the_pattern_matches_exactly_the_accepted_times(
        self, document, endpoint, time, is_valid
    ):
        pattern = document["components"]["parameters"]["since"]["schema"]["pattern"]
        assert bool(re.search(pattern, time)) == is_valid
        url = "/api/v1/alerts/active?since=" + time.replace("+", "%2B")
        assert endpoint.get(url, Authorization=TOKEN).status == (200 if is_valid else 400)


class TestResponses:
    @pytest.mark.parametrize(
        "path, query",
        [(path, "") for path in PATHS if "webhook" not in path and path != "/api/v1/why"]
        + [
            ("/api/v1/why", "?alert_name=Ran"),
            ("/api/v1/why", "?labels=alertname%3DWorked"),
            ("/api/v1/why", "?alert_name=ran"),
            ("/api/v1/stats", "?alert_name=ran&since=100y"),
            ("/api/v1/executions/recent", "?limit=1"),
            ("/api/v1/alerts/active", "?limit=1"),
            ("/api/v1/st2/executions", "?limit=1"),
            ("/api/v1/alerts/active", "?outcome=admitted&alert_name=Ran"),
        ],
    )
    def test_responses_match_the_description(
        self, document, endpoint, complete_request_id, path, query
    ):
        url = path.replace("{request_id}", complete_request_id) + query
        response = endpoint.get(url, Authorization=TOKEN)
        assert response.status == 200
        check_response(document, path, response)
        if "=ran" in query:
            assert response.json["near_misses"]
        elif path.startswith(
            ("/api/v1/executions", "/api/v1/alerts", "/api/v1/st2", "/api/v1/why")
        ):
            (rows,) = [value for value in response.json.values() if isinstance(value, list)]
            assert rows

    @pytest.mark.parametrize("path", PATHS)
    def test_credentials_are_required_as_described(self, document, endpoint, path):
        ((method, operation),) = document["paths"][path].items()
        assert document["security"] == [{"bearer": []}]
        response = endpoint.request(method.upper(), path, b"{}" if method == "post" else None)
        assert response.status == (200 if operation.get("security") == [] else 401)
        check_response(document, path, response, method)

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
    def test_responses_to_a_webhook_match_the_description(
        self, document, endpoint, body, headers, status
    ):
        response = endpoint.request("POST", "/api/v1/webhook", body, Authorization=TOKEN, **headers)
        assert response.status == status
        check_response(document, "/api/v1/webhook", response, "post")
        health = endpoint.get("/api/v1/health", Authorization=TOKEN)
        check_response(document, "/api/v1/health", health)

    def test_a_404_matches_the_description(self, document, endpoint):
        response = endpoint.get("/api/v1/status/x", Authorization=TOKEN)
        assert response.status == 404
        check_response(document, "/api/v1/status/{request_id}", response)

    def test_refusals_of_browser_requests_match_the_description(self, start_endpoint):
        endpoint = start_endpoint()
        document = endpoint.get("/api/v1/openapi.json").json
        for path in PATHS:
            ((method, operation),) = document["paths"][path].items()
            body = b"{}" if method == "post" else None
            response = endpoint.request(method.upper(), path, body, Origin="http://evil.example")
            assert response.status == (200 if operation.get("security") == [] else 403)
            check_response(document, path, response, method)

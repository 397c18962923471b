"""nginx signs people in to the board with the configuration that docs/BOARD.md shows."""

from __future__ import annotations

import base64
import re

import pytest

from tests import documents
from tests.conftest import start
from tests.lib.endpoint.proxies import Nginx
from tests.lib.endpoints import InThreads

pytestmark = pytest.mark.services

PAGE = documents.ROOT / "docs" / "BOARD.md"


class SigningIn(Nginx):
    """An nginx with passwords, as the page shows it."""

    configuration = Nginx.configuration

    def prepare(self):
        blocks = re.findall("```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        (location,) = [block for block in blocks if "auth_basic_user_file" in block]
        with open(self.path("passwords"), "w") as file:
            file.write("anna:{PLAIN}a-password\n")
        location = location.replace("/etc/nginx/poundcake.htpasswd", self.path("passwords"))
        location = location.replace("127.0.0.1:8000", "endpoint")
        location = location.replace("{", "{{").replace("}", "}}")
        start_of_api = self.configuration.index("        location / {{")
        self.configuration = (
            self.configuration[:start_of_api] + location + self.configuration[start_of_api:]
        )
        super().prepare()


@pytest.fixture
def endpoint(tmp_path):
    proxy = {"header": "X-Forwarded-User", "addresses": ["127.0.0.1"]}
    new_endpoint = InThreads(tmp_path, auth_tokens=["the-token-in-use"], board_proxy=proxy)
    yield new_endpoint.start().ready()
    new_endpoint.stop()


@pytest.fixture
def nginx(endpoint):
    server = start(SigningIn, endpoint.port, False)
    yield server
    server.close()


def test_a_person_signs_in_at_the_proxy(endpoint, nginx):
    client = InThreads(endpoint.folder, port=nginx.port)
    password = "Basic " + base64.b64encode(b"anna:a-password").decode()
    assert client.get("/board", Authorization=password).status == 200
    for headers in ({}, {"X_Forwarded_User": "anna"}):
        response = client.get("/board", **headers)
        assert response.status == 401 and b"nginx" in response.body
    # The proxy replaces the header, and the API needs a token.
    assert client.get("/api/v1/health", X_Forwarded_User="anna").status == 401
    assert client.get("/api/v1/health", Authorization="Bearer the-token-in-use").status == 200

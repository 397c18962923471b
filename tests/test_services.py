"""The tests' servers start, are isolated from the machine, and report a missing program.

The fault suite verifies that they keep their data when they are killed.
"""

from __future__ import annotations

import http.server
import json
import os
import queue
import threading
import time

import pymysql
import pytest
import sqlalchemy

from tests import services


def test_a_database_url_refers_to_an_empty_database(database_url):
    engine = sqlalchemy.create_engine(database_url)
    assert sqlalchemy.inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE cake (name VARCHAR(20))"))
        connection.execute(sqlalchemy.text("INSERT INTO cake VALUES ('Gâteau 🍰')"))
        assert connection.execute(sqlalchemy.text("SELECT name FROM cake")).scalar() == "Gâteau 🍰"
    engine.dispose()


def test_the_mariadb_user_cannot_create_another_database(mariadb, mariadb_url):
    url = sqlalchemy.engine.make_url(mariadb_url)
    connection = pymysql.connect(
        host=url.host, port=url.port, user=url.username, password=url.password
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@bind_address")
        assert cursor.fetchone() == ("127.0.0.1",)
        with pytest.raises(pymysql.err.OperationalError):
            cursor.execute("CREATE DATABASE other")
    connection.close()


def test_alertmanager_posts_firing_and_resolved_alerts(alertmanager, webhook):
    server = alertmanager(webhook.url, http_config={"authorization": {"credentials": "sesame"}})
    starts_at = server.fire(alertname="HostDown", instance="web-1:9100", severity="critical")
    headers, body = webhook.next()
    assert headers["Authorization"] == "Bearer sesame"
    assert body["status"] == "firing"
    assert body["receiver"] == "poundcake"
    assert body["alerts"][0]["labels"]["instance"] == "web-1:9100"
    assert len(server.alerts()) == 1

    server.resolve(starts_at, alertname="HostDown", instance="web-1:9100", severity="critical")
    headers, body = webhook.next()
    assert [alert["status"] for alert in body["alerts"]] == ["resolved"]


@pytest.mark.parametrize(
    "server_class, arguments",
    [
        (services.MariaDB, ()),
        (services.RabbitMQ, ()),
        (services.Alertmanager, ("http://127.0.0.1:1/",)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_missing_program_is_named_and_nothing_remains(
    server_class, arguments, tmp_path, monkeypatch
):
    monkeypatch.setattr(services, "temporary_directory", lambda: str(tmp_path))
    monkeypatch.setattr(services.shutil, "which", lambda name, path: None)
    with pytest.raises(services.MissingProgram, match="not installed"):
        server_class(*arguments)
    assert os.listdir(str(tmp_path)) == []


def test_a_server_that_fails_to_start_shows_its_log(tmp_path):
    server = FailingServer()
    try:
        with pytest.raises(services.Failed, match="no space left"):
            server.start()
    finally:
        server.close()
    assert not os.path.exists(server.directory)


class FailingServer(services.Server):
    name = "failing server"

    def command(self):
        return ["sh", "-c", "echo no space left; exit 3"]

    def is_ready(self):
        time.sleep(0.2)
        return False


class Webhook:
    """Receives notifications and returns them one by one."""

    def __init__(self):
        self.received = received = queue.Queue()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received.put((self.headers, json.loads(body)))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.HTTPServer((services.LOOPBACK, 0), Handler)
        self.url = "http://{}:{}/".format(*self.server.server_address)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def next(self):
        return self.received.get(timeout=20)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def webhook():
    receiver = Webhook()
    yield receiver
    receiver.close()

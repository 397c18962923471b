"""The servers of the tests start privately, survive a kill, and name what is not installed."""

from __future__ import annotations

import http.server
import json
import os
import queue
import threading
import time

import kombu
import pymysql
import pytest
import sqlalchemy

from tests import services


def test_each_test_gets_an_empty_database(database_url):
    engine = sqlalchemy.create_engine(database_url)
    assert sqlalchemy.inspect(engine).get_table_names() == []
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE cake (name VARCHAR(20))"))
        connection.execute(sqlalchemy.text("INSERT INTO cake VALUES ('Gâteau 🍰')"))
        assert connection.execute(sqlalchemy.text("SELECT name FROM cake")).scalar() == "Gâteau 🍰"
    engine.dispose()


def test_mariadb_keeps_committed_rows_when_it_is_killed(mariadb, mariadb_url):
    engine = sqlalchemy.create_engine(mariadb_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE cake (name VARCHAR(20)) ENGINE=InnoDB"))
        connection.execute(sqlalchemy.text("INSERT INTO cake VALUES ('lemon')"))
    mariadb.kill()
    with pytest.raises(sqlalchemy.exc.OperationalError), engine.connect() as connection:
        connection.execute(sqlalchemy.text("SELECT 1"))
    mariadb.start()
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SELECT name FROM cake")).scalar() == "lemon"
    engine.dispose()


def test_the_packs_user_owns_its_database_and_nothing_else(mariadb, mariadb_url):
    url = sqlalchemy.engine.make_url(mariadb_url)
    connection = pymysql.connect(
        host=url.host, port=url.port, user=url.username, password=url.password
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT @@bind_address")
        assert cursor.fetchone() == ("127.0.0.1",)
        with pytest.raises(pymysql.err.OperationalError):
            cursor.execute("CREATE DATABASE elsewhere")
    connection.close()


def test_rabbitmq_keeps_a_confirmed_message_when_it_is_killed(rabbitmq):
    options = {"confirm_publish": True}
    with kombu.Connection(rabbitmq.url, transport_options=options) as connection:
        connection.SimpleQueue("cake").put("lemon")
    rabbitmq.kill()
    assert not services.accepts_connections(rabbitmq.port)
    rabbitmq.start()
    with kombu.Connection(rabbitmq.url) as connection:
        message = connection.SimpleQueue("cake").get(timeout=5)
        message.ack()
        assert message.payload == "lemon"


def test_alertmanager_posts_firing_and_resolved_alerts(alertmanager, webhook):
    server = alertmanager(webhook.url, http_config={"authorization": {"credentials": "sesame"}})
    started = server.fire(alertname="HostDown", instance="web-1:9100", severity="critical")
    headers, body = webhook.next()
    assert headers["Authorization"] == "Bearer sesame"
    assert body["status"] == "firing"
    assert body["receiver"] == "poundcake"
    assert body["alerts"][0]["labels"]["instance"] == "web-1:9100"
    assert len(server.alerts()) == 1

    server.resolve(started, alertname="HostDown", instance="web-1:9100", severity="critical")
    headers, body = webhook.next()
    assert [alert["status"] for alert in body["alerts"]] == ["resolved"]


@pytest.mark.parametrize(
    "kind, arguments",
    [
        (services.MariaDB, ()),
        (services.RabbitMQ, ()),
        (services.Alertmanager, ("http://127.0.0.1:1/",)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_missing_program_is_named_and_leaves_no_files(kind, arguments, tmp_path, monkeypatch):
    monkeypatch.setattr(services, "temporary_directory", lambda: str(tmp_path))
    monkeypatch.setattr(services.shutil, "which", lambda name, path: None)
    with pytest.raises(services.Missing, match="not installed"):
        kind(*arguments)
    assert os.listdir(str(tmp_path)) == []


def test_a_server_that_exits_at_its_start_shows_its_log(tmp_path):
    server = Doomed()
    try:
        with pytest.raises(services.Failed, match="no flour left"):
            server.start()
    finally:
        server.close()
    assert not os.path.exists(server.directory)


class Doomed(services.Server):
    name = "doomed"

    def command(self):
        return ["sh", "-c", "echo no flour left; exit 3"]

    def is_ready(self):
        time.sleep(0.2)
        return False


class Webhook:
    """Receives notifications, and returns them one by one."""

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
        host, port = self.server.server_address
        self.url = f"http://{host}:{port}/"
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

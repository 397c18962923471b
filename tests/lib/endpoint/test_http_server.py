"""The server copes with consecutive requests, slow clients, too many clients and a shutdown."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import suppress
from functools import partial

import pytest

from tests import services
from tests.lib.endpoint.framing_corpus import BODY, LIVE, WEBHOOK
from tests.lib.endpoint.wire import exchange, statuses
from tests.lib.endpoints import Client, Patched, Unpatched, message
from tests.lib.samples import webhook
from tests.waiting import wait_for

SHORT_TIMEOUTS = {
    "endpoint.http_connection.HEADER_TIMEOUT": 0.8,
    "endpoint.http_connection.BODY_TIMEOUT": 1.2,
    "endpoint.http_connection.ANSWER_TIMEOUT": 1.2,
    "endpoint.http_connection.IDLE_TIMEOUT": 2.5,
}
LONG_LINGER = {"endpoint.http_connection.LINGER_TIMEOUT": 60}


def was_closed(client):
    """Return True if the endpoint has closed a connection without sending anything."""
    client.socket.setblocking(False)
    try:
        return client.socket.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def connect_with_small_buffers(port):
    """Return a connection with small buffers, so that the endpoint's responses soon block."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.connect(("127.0.0.1", port))
    return client


def send_until_blocked(client, request):
    """Send a request repeatedly until the endpoint stops reading or closes the connection."""
    client.settimeout(1)
    with suppress(socket.timeout, ConnectionError):
        while True:
            client.sendall(request * 100)


class TestConnections:
    def test_a_connection_serves_many_requests(self, endpoint):
        with endpoint.client() as client:
            for _ in range(20):
                client.send(message("POST", WEBHOOK, BODY))
                assert client.read().status == 202
                client.send(message("GET", LIVE))
                assert client.read().status == 200

    def test_pipelined_requests_are_answered_in_order(self, endpoint):
        with endpoint.client() as client:
            client.send(
                b"".join(
                    message("POST", WEBHOOK, b'{"alerts": [], "n": %d}' % n) + message("GET", LIVE)
                    for n in range(10)
                )
            )
            responses = [client.read() for _ in range(20)]
        assert [response.status for response in responses] == [202, 200] * 10
        assert len({response.json["request_id"] for response in responses[::2]}) == 10

    def test_a_request_sent_byte_by_byte_is_accepted(self, endpoint):
        with endpoint.client() as client:
            for byte in message("POST", WEBHOOK, BODY):
                client.send(bytes([byte]))
            assert client.read().status == 202

    def test_the_last_response_announces_the_close(self, endpoint):
        with endpoint.client() as client:
            client.send(message("GET", LIVE, Connection="close"))
            response = client.read()
            assert (response.status, response.headers["connection"]) == (200, "close")
            assert client.closed()

    def test_every_response_has_a_date(self, endpoint):
        assert endpoint.get(LIVE).headers["date"].endswith(" GMT")

    def test_the_connection_stays_usable_after_a_refusal(self, endpoint):
        with endpoint.client() as client:
            client.send(message("POST", WEBHOOK, b"no json"))
            assert client.read().status == 400
            client.send(message("GET", "/nothing"))
            assert client.read().status == 404
            client.send(message("POST", WEBHOOK, BODY))
            assert client.read().status == 202

    def test_many_concurrent_connections_are_served(self, endpoint):
        responses, start = [], threading.Barrier(40)

        def work():
            start.wait()
            for _ in range(3):
                responses.append(endpoint.post(webhook()).status)

        threads = [threading.Thread(target=work) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert responses == [202] * 120

    def test_a_disconnected_client_does_not_affect_others(self, endpoint):
        for length in (5, 60, len(message("POST", WEBHOOK, BODY)) - 3):
            with endpoint.client() as client:
                client.send(message("POST", WEBHOOK, BODY)[:length])
        for _ in range(3):
            with endpoint.client() as client:
                client.send(message("POST", WEBHOOK, BODY))
        assert endpoint.get(LIVE).status == 200

    def test_an_incomplete_body_is_neither_stored_nor_refused(self, endpoint):
        """Alertmanager retries if it gets no response, but not after a 4xx."""
        incomplete_body = b'{"alerts": [], "receiver": "half"}'
        data = message(
            "POST", WEBHOOK, incomplete_body, Content_Length=str(len(incomplete_body) + 1)
        )
        assert exchange(endpoint, data) == b""
        assert incomplete_body not in [entry.body for entry in endpoint.entries()]

    def test_the_response_arrives_while_a_large_body_is_being_sent(self, endpoint):
        """The body is discarded, because closing immediately would lose the response."""
        with endpoint.client(60) as client:
            client.send(message("POST", WEBHOOK, b"x" * (9 << 20)))
            assert client.read().status == 413


class TestExpectHeader:
    def test_100_continue_requests_the_body(self, endpoint):
        with endpoint.client() as client:
            head = message(
                "POST", WEBHOOK, b"", Content_Length=str(len(BODY)), Expect="100-continue"
            )
            client.send(head)
            assert client.read().status == 100
            client.send(BODY)
            assert client.read().status == 202
            client.send(message("GET", LIVE))
            assert client.read().status == 200

    @pytest.mark.parametrize(
        "headers, status",
        [
            ({"Content_Length": "999999999"}, 413),
            ({"Content_Type": "text/plain"}, 415),
        ],
    )
    def test_a_refused_body_is_not_requested(self, endpoint, headers, status):
        request_headers = {"Content_Length": "14", "Expect": "100-continue", **headers}
        with endpoint.client() as client:
            client.send(message("POST", WEBHOOK, b"", **request_headers))
            assert client.read().status == status


class TestSlowClients:
    @pytest.fixture
    def impatient_endpoint(self, start_endpoint):
        return start_endpoint(SHORT_TIMEOUTS)

    def trickle(self, client, data):
        """Send a byte every 0.1 s. Return True if the endpoint closes the connection meanwhile."""
        try:
            for byte in data:
                client.send(bytes([byte]))
                time.sleep(0.1)
        except ConnectionError:
            return True
        return False

    def test_slow_clients_are_disconnected(self, impatient_endpoint):
        """The clients send a slow header, a slow body, nothing, or a single request."""
        results = {}

        def send_slow_header():
            with impatient_endpoint.client(60) as client:
                results["header"] = self.trickle(client, b"GET / HTTP/1.1\r\nX: " + b"x" * 400)

        def send_slow_body():
            with impatient_endpoint.client(60) as client:
                client.send(message("POST", WEBHOOK, b"", Content_Length="800"))
                results["body"] = self.trickle(client, b"x" * 400)

        def send_nothing():
            with impatient_endpoint.client(60) as client:
                results["nothing"] = client.closed()

        def stay_idle():
            with impatient_endpoint.client(60) as client:
                started_at = time.monotonic()
                client.send(message("GET", LIVE))
                assert client.read().status == 200
                assert client.closed()
                results["idle"] = time.monotonic() - started_at

        threads = [
            threading.Thread(target=f)
            for f in (send_slow_header, send_slow_body, send_nothing, stay_idle)
        ]
        for thread in threads:
            thread.start()
        assert impatient_endpoint.post(webhook()).status == 202
        assert "idle" not in results, "the webhook waited for the slow clients"
        for thread in threads:
            thread.join(90)
        assert results["header"] and results["body"] and results["nothing"]
        assert results["idle"] >= SHORT_TIMEOUTS["endpoint.http_connection.IDLE_TIMEOUT"]

    def test_a_client_that_does_not_read_its_responses_is_disconnected(self, impatient_endpoint):
        with impatient_endpoint.client() as client:
            client.socket.setblocking(False)
            request = message("GET", "/api/v1/nothing") * 100
            deadline = time.monotonic() + 60
            with pytest.raises(ConnectionError):
                while time.monotonic() < deadline:
                    try:
                        client.socket.send(request)
                    except BlockingIOError:
                        time.sleep(0.05)
        assert impatient_endpoint.get(LIVE).status == 200

    def test_a_client_that_reads_its_responses_slowly_is_disconnected(self, impatient_endpoint):
        """A partial read must not restart the time limit."""
        with impatient_endpoint.client() as client:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.socket.setblocking(False)
            request = message("GET", "/api/v1/openapi.json") * 20
            deadline = time.monotonic() + 60
            with pytest.raises(ConnectionError):
                while time.monotonic() < deadline:
                    for step in (lambda: client.socket.send(request), lambda: self.read(client)):
                        with suppress(BlockingIOError):
                            step()
                    time.sleep(0.2)

    def read(self, client):
        if not client.socket.recv(2000):
            raise ConnectionError("the endpoint closed the connection")


class TestConnectionLimit:
    def test_the_longest_idle_client_is_evicted(self, start_endpoint):
        endpoint = start_endpoint(max_connections=5)
        idle_clients = []
        with endpoint.client() as metrics_client:

            def has_open_connections(count):
                metrics_client.send(message("GET", "/metrics"))
                lines = metrics_client.read().body.decode().splitlines()
                return f"poundcake_connections {count}.0" in lines

            try:
                for count in range(2, 6):
                    idle_clients.append(endpoint.client())
                    wait_for(partial(has_open_connections, count))
                assert endpoint.post(webhook()).status == 202
                assert idle_clients[0].closed()
                for client in idle_clients[1:]:
                    client.send(message("GET", LIVE))
                    assert client.read().status == 200
            finally:
                for client in idle_clients:
                    client.socket.close()

    def test_a_request_in_flight_is_not_evicted(self, start_endpoint):
        endpoint = start_endpoint(max_connections=3)
        with endpoint.client() as busy_client:
            length = str(len(BODY))
            busy_client.send(
                message("POST", WEBHOOK, b"", Content_Length=length, Expect="100-continue")
            )
            assert busy_client.read().status == 100  # the endpoint has read the header
            idle_clients = [endpoint.client() for _ in range(6)]
            wait_for(lambda: sum(was_closed(idle_client) for idle_client in idle_clients) >= 4)
            busy_client.send(BODY)
            assert busy_client.read().status == 202
            for idle_client in idle_clients:
                idle_client.socket.close()

    def test_clients_without_credentials_do_not_block_others(self, start_endpoint):
        """The connections of refused clients linger, and used to count as requests in flight."""
        endpoint = start_endpoint(LONG_LINGER, max_connections=4, auth_tokens=["the-token-in-use"])
        clients = []
        try:
            for _ in range(4):
                client = endpoint.client()
                clients.append(client)
                client.send(message("POST", WEBHOOK, b"", Content_Length="1000"))
                # If the connection of ready() is still open, a later client may evict this one.
                with suppress(ConnectionError):
                    assert client.read().status == 401
            for _ in range(6):
                assert (
                    endpoint.post(webhook(), Authorization="Bearer the-token-in-use").status == 202
                )
        finally:
            for client in clients:
                client.socket.close()

    def test_clients_that_do_not_read_their_responses_do_not_block_others(self, start_endpoint):
        endpoint = start_endpoint(max_connections=4, auth_tokens=["the-token-in-use"])
        clients = [connect_with_small_buffers(endpoint.port) for _ in range(4)]
        try:
            for client in clients:
                send_until_blocked(client, message("GET", "/metrics"))
            response = endpoint.post(webhook(), Authorization="Bearer the-token-in-use")
            assert response.status == 202
        finally:
            for client in clients:
                client.close()

    def test_the_connection_limit_holds_during_a_burst(self, start_endpoint):
        endpoint = start_endpoint(max_connections=10)
        clients = []
        try:
            for _ in range(120):
                clients.append(Client(endpoint.port))
            wait_for(lambda: sum(was_closed(client) for client in clients) >= 110)
            assert endpoint.post(webhook()).status == 202
        finally:
            for client in clients:
                client.socket.close()


class TestStopping:
    def test_the_endpoint_stops_promptly_despite_requests_in_flight(self, start_endpoint):
        endpoint = start_endpoint()
        idle_client = endpoint.client()
        slow_client = endpoint.client()
        slow_client.send(message("POST", WEBHOOK, b"", Content_Length="500") + b"x")
        responses, stop_posting = [], threading.Event()

        def post_webhooks():
            while not stop_posting.is_set():
                try:
                    responses.append(endpoint.post(webhook()))
                except (OSError, AssertionError):
                    return

        threads = [threading.Thread(target=post_webhooks) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(responses) > 20)
        started_at = time.monotonic()
        endpoint.stop()
        duration = time.monotonic() - started_at
        stop_posting.set()
        for thread in threads:
            thread.join(20)
        assert duration < 15
        assert not endpoint.is_alive
        assert {response.status for response in responses if response} <= {202, 503}
        stored_ids = {entry.request_id for entry in endpoint.entries()}
        accepted_ids = {
            response.json["request_id"]
            for response in responses
            if response and response.status == 202
        }
        assert accepted_ids and accepted_ids <= stored_ids
        with pytest.raises(OSError):
            endpoint.client()
        idle_client.socket.close()
        slow_client.socket.close()

    def test_a_request_in_flight_is_completed_before_the_endpoint_stops(self, start_endpoint):
        endpoint = start_endpoint()
        with endpoint.client() as client:
            length = str(len(BODY))
            client.send(message("POST", WEBHOOK, b"", Content_Length=length, Expect="100-continue"))
            assert client.read().status == 100
            client.send(BODY[:5])
            stop_thread = threading.Thread(target=endpoint.stop)
            stop_thread.start()
            wait_for(lambda: not services.accepts_connections(endpoint.port))
            client.send(BODY[5:])
            response = client.read()
            assert (response.status, response.headers["connection"]) == (202, "close")
            stop_thread.join(10)
        assert endpoint.entries()[-1].request_id == response.json["request_id"]


@pytest.mark.parametrize("endpoint_class", [Patched, Unpatched])
class TestSignals:
    """The container stops the sensor with SIGTERM, and with SIGKILL five seconds later."""

    def test_sigterm_stops_the_endpoint(self, endpoint_class, tmp_path):
        endpoint = endpoint_class(tmp_path).start()
        try:
            endpoint.ready()
            request_id = endpoint.accept(webhook())
            idle_client = endpoint.client()
            started_at = time.monotonic()
            endpoint.process.send_signal(signal.SIGTERM)
            endpoint.process.wait(60)
            # The endpoint has 5 seconds. A busy machine may take longer to end the process.
            assert time.monotonic() - started_at < 15
            idle_client.socket.close()
            assert request_id in [entry.request_id for entry in endpoint.entries()]
        finally:
            endpoint.stop()

    def test_a_kill_right_after_the_response_loses_nothing(self, endpoint_class, tmp_path):
        endpoint = endpoint_class(tmp_path).start()
        try:
            endpoint.ready()
            endpoint.set_broker(up=False)
            request_id = endpoint.accept(webhook())
            endpoint.process.kill()
            endpoint.process.wait()
            endpoint.set_broker(up=True)
            endpoint.start().ready()
            status = "/api/v1/status/" + request_id
            wait_for(lambda: endpoint.get(status).json["status"] == "completed")
        finally:
            endpoint.stop()


def test_requests_are_answered_after_the_client_stops_sending(endpoint):
    assert statuses(exchange(endpoint, message("GET", LIVE) * 3)) == (200, 200, 200)

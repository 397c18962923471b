"""HTTP on the wire: what is framed wrongly, what comes slowly, and how it all ends."""

import random
import re
import signal
import socket
import threading
import time

import pytest

from tests import services
from tests.lib.endpoints import KINDS, WAYS, Client, Patched, Unpatched, message
from tests.lib.samples import webhook
from tests.waiting import wait_for

LIVE = "/api/v1/health/live"
HOOK = "/api/v1/webhook"
BODY = b'{"alerts": []}'
QUICK = {
    "endpoint.http_server.HEADER_TIME": 0.8,
    "endpoint.http_server.BODY_TIME": 1.2,
    "endpoint.http_server.IDLE_TIME": 2.5,
}


@pytest.fixture(scope="module", params=WAYS)
def endpoint(request, tmp_path_factory):
    found = KINDS[request.param](tmp_path_factory.mktemp(request.param)).start().ready()
    yield found
    found.stop()


@pytest.fixture(params=WAYS)
def make(request, tmp_path):
    made = []

    def factory(settings=None, **config):
        found = KINDS[request.param](tmp_path, settings, **config).start()
        made.append(found)
        return found.ready()

    yield factory
    for found in made:
        found.stop()


def raw(endpoint, data):
    """All that comes back for these bytes, once the client has nothing more to say."""
    with endpoint.client() as client:
        try:
            client.send(data)
            client.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has heard enough
        chunks = []
        try:
            while True:
                chunk = client.socket.recv(65536)
                if not chunk:
                    break
                chunks.append(chunk)
        except OSError:
            pass
        return b"".join(chunks)


def ended(client):
    """Whether the other side has ended a connection on which it had nothing to say."""
    client.socket.setblocking(False)
    try:
        return client.socket.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def statuses(answer):
    return [int(s) for s in re.findall(rb"HTTP/1\.1 (\d\d\d) ", answer)]


class TestConnections:
    def test_many_requests_on_one(self, endpoint):
        with endpoint.client() as client:
            for _ in range(20):
                client.send(message("POST", HOOK, BODY))
                assert client.read().status == 202
                client.send(message("GET", LIVE))
                assert client.read().status == 200

    def test_pipelined(self, endpoint):
        with endpoint.client() as client:
            client.send(
                b"".join(
                    message("POST", HOOK, b'{"alerts": [], "n": %d}' % n) + message("GET", LIVE)
                    for n in range(10)
                )
            )
            found = [client.read() for _ in range(20)]
        assert [a.status for a in found] == [202, 200] * 10
        assert len({a.json["request_id"] for a in found[::2]}) == 10

    def test_a_byte_at_a_time(self, endpoint):
        with endpoint.client() as client:
            for byte in message("POST", HOOK, BODY):
                client.send(bytes([byte]))
            assert client.read().status == 202

    def test_close_is_heeded(self, endpoint):
        with endpoint.client() as client:
            client.send(message("GET", LIVE, Connection="close"))
            answer = client.read()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert client.closed()

    def test_an_older_version_is_closed(self, endpoint):
        with endpoint.client() as client:
            client.send(message("POST", HOOK, BODY, version="1.0"))
            assert client.read().status == 202
            assert client.closed()

    def test_after_a_refusal_the_connection_goes_on(self, endpoint):
        with endpoint.client() as client:
            client.send(message("POST", HOOK, b"no json"))
            assert client.read().status == 400
            client.send(message("GET", "/nothing"))
            assert client.read().status == 404
            client.send(message("POST", HOOK, BODY))
            assert client.read().status == 202

    def test_many_at_once(self, endpoint):
        found, start = [], threading.Barrier(40)

        def work():
            start.wait()
            for _ in range(3):
                found.append(endpoint.post(webhook()).status)

        threads = [threading.Thread(target=work) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert found == [202] * 120

    def test_a_client_that_goes_away_costs_nobody_else(self, endpoint):
        for cut in (5, 60, len(message("POST", HOOK, BODY)) - 3):
            with endpoint.client() as client:
                client.send(message("POST", HOOK, BODY)[:cut])
        for _ in range(3):
            with endpoint.client() as client:
                client.send(message("POST", HOOK, BODY))
        assert endpoint.get(LIVE).status == 200

    def test_half_a_body_is_not_stored(self, endpoint):
        half = b'{"alerts": [], "receiver": "half"}'
        answer = raw(endpoint, message("POST", HOOK, half, Content_Length=str(len(half) + 1)))
        assert statuses(answer) in ([], [400])
        assert half not in [body for _, body, *_ in endpoint.entries()]


class TestExpect:
    def test_the_body_is_asked_for(self, endpoint):
        with endpoint.client() as client:
            head = message("POST", HOOK, b"", Content_Length=str(len(BODY)), Expect="100-continue")
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
    def test_a_body_that_is_not_wanted_is_not_asked_for(self, endpoint, headers, status):
        given = {"Content_Length": "14", "Expect": "100-continue"}
        given.update(headers)
        with endpoint.client() as client:
            client.send(message("POST", HOOK, b"", **given))
            assert client.read().status == status

    def test_an_older_client_gets_no_answer_before_the_answer(self, endpoint):
        with endpoint.client() as client:
            client.send(message("POST", HOOK, BODY, version="1.0", Expect="100-continue"))
            assert client.read().status == 202


class TestFraming:
    """What cannot be framed for sure is refused, and nothing after it is read as a request."""

    SMUGGLED = message("GET", "/smuggled")

    @pytest.mark.parametrize(
        "headers",
        [
            b"Content-Length: 14\r\nContent-Length: 15\r\n",
            b"Content-Length: 14, 15\r\n",
            b"Content-Length: +14\r\n",
            b"Content-Length: -1\r\n",
            b"Content-Length: 0x0e\r\n",
            b"Content-Length: 1 4\r\n",
            b"Content-Length: 14.0\r\n",
            b"Content-Length: \xb2\r\n",
            b"Content-Length: 14\r\nTransfer-Encoding: chunked\r\n",
            b"Transfer-Encoding: chunked\r\nContent-Length: 14\r\n",
            b"Content-Length : 14\r\n",
            b"Transfer-Encoding : chunked\r\nContent-Length: 14\r\n",
            b"no colon\r\nContent-Length: 14\r\n",
            b"\x00: x\r\nContent-Length: 14\r\n",
            b"Content-Length: 14\r\n Transfer-Encoding: chunked\r\n",
            b": x\r\nContent-Length: 14\r\n",
            b"X: y\rContent-Length: 14\r\n",
        ],
    )
    def test_what_is_ambiguous_is_refused_and_the_connection_ends(self, endpoint, headers):
        before = len(endpoint.entries())
        head = b"POST /api/v1/webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        answer = raw(endpoint, head + headers + b"\r\n" + BODY + self.SMUGGLED)
        assert len(statuses(answer)) == 1
        assert statuses(answer)[0] in (400, 411)
        assert len(endpoint.entries()) == before

    @pytest.mark.parametrize(
        "headers", [b"Content-Length: 14\r\nContent-Length: 14\r\n", b"Content-Length: 00014\r\n"]
    )
    def test_what_is_odd_but_plain_is_taken_or_refused(self, endpoint, headers):
        head = b"POST /api/v1/webhook HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        answer = raw(endpoint, head + headers + b"\r\n" + BODY)
        assert statuses(answer) in ([202], [400])

    @pytest.mark.parametrize("coding", ["chunked", "gzip, chunked", "identity", "x", "Chunked"])
    def test_no_coding_is_taken(self, endpoint, coding):
        chunked = b"e\r\n" + BODY + b"\r\n0\r\n\r\n"
        head = message("POST", HOOK, Transfer_Encoding=coding)
        answer = raw(endpoint, head + chunked + self.SMUGGLED)
        assert statuses(answer) == [411]

    @pytest.mark.parametrize("coded", [False, True])
    def test_what_is_left_of_a_refused_body_is_not_the_next_request(self, make, coded):
        endpoint = make(
            settings={"endpoint.http_server._LINGER_BYTES": 10}, auth_tokens=["the-token"]
        )
        inner = message("POST", HOOK, BODY, Authorization="Bearer the-token")
        if coded:
            data = message("POST", HOOK, Transfer_Encoding="chunked") + b"0123456789" + inner
        else:
            data = message("POST", HOOK, b"0123456789" + inner)
        assert statuses(raw(endpoint, data)) == [401]
        time.sleep(0.2)
        assert endpoint.entries() == []

    def test_a_body_on_a_get_is_not_the_next_request(self, endpoint):
        answer = raw(endpoint, message("GET", LIVE, self.SMUGGLED))
        assert statuses(answer) == [200]


GARBAGE = [
    b"\x00\x01\x02\x03\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,  # TLS
    b"hello\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1 x\r\n\r\n",
    b"GET / HTTP/x.y\r\n\r\n",
    b"GET / HTTP/1.1.1\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/-1.1\r\n\r\n",
    b"GET / HTTP/99999999999.1\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / XTTP/1.1\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.0\r\n",
    b"GET " + b"x" * 70000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"x" * 70000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"x" * 200000,
    b"\r\n" * 1000,
    b"\n",
    b"GET / HTTP/1.1\n\n",
    b"GET /\r\n\r\n",
]


class TestGarbage:
    @pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
    def test_is_refused_and_is_nobody_elses_trouble(self, endpoint, data):
        for status in statuses(raw(endpoint, data)):
            assert 400 <= status < 500
        assert endpoint.get(LIVE).status == 200

    @pytest.mark.parametrize(
        "data, status",
        [
            (GARBAGE[2], 400),
            (b"GET / HTTP/x.y\r\n\r\n", 400),
            (b"GET " + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", 414),
            (b"GET / HTTP/1.1\r\nX: " + b"x" * 70000 + b"\r\n\r\n", 431),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
            (b"GET " + b"x" * 900000 + b" HTTP/1.1\r\n\r\n", 414),
        ],
    )
    def test_is_answered_by_a_problem_document(self, endpoint, data, status):
        with endpoint.client() as client:
            try:
                client.send(data)
            except ConnectionError:
                pass
            answer = client.read()
        assert answer.status == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["status"] == status
        assert answer.json["request_id"] and answer.json["detail"]

    def test_at_random(self, endpoint):
        chance = random.Random(7)
        good = message("POST", HOOK, BODY)
        for _ in range(60):
            data = bytearray(good)
            for _ in range(chance.randrange(1, 6)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            for status in statuses(raw(endpoint, bytes(data))):
                assert status < 500
        assert endpoint.get(LIVE).status == 200


class TestSlow:
    @pytest.fixture
    def quick(self, make):
        return make(QUICK)

    def trickle(self, client, data, seconds):
        """Sends a byte now and then; how long until the other side had enough."""
        began = time.monotonic()
        try:
            for byte in data:
                client.send(bytes([byte]))
                time.sleep(0.1)
                if time.monotonic() - began > seconds:
                    return None
        except ConnectionError:
            pass
        return time.monotonic() - began

    def test_all_of_them_are_cut_off(self, quick):
        """A header, a body and nothing at all, each slow in its own way and all at once."""
        found = {}

        def header():
            with quick.client(60) as client:
                found["header"] = self.trickle(client, b"GET / HTTP/1.1\r\nX: " + b"x" * 500, 40)

        def body():
            with quick.client(60) as client:
                client.send(message("POST", HOOK, b"", Content_Length="800"))
                found["body"] = self.trickle(client, b"x" * 500, 40)
                client.socket.settimeout(20)
                try:
                    found["answer"] = client.read()
                except (ConnectionError, AssertionError):
                    found["answer"] = None

        def nothing():
            with quick.client(60) as client:
                began = time.monotonic()
                assert client.closed()
                found["nothing"] = time.monotonic() - began

        def idle():
            with quick.client(60) as client:
                began = time.monotonic()
                client.send(message("GET", LIVE))
                assert client.read().status == 200
                assert client.closed()
                found["idle"] = time.monotonic() - began

        threads = [threading.Thread(target=f) for f in (header, body, nothing, idle)]
        for thread in threads:
            thread.start()
        assert quick.post(webhook()).status == 202
        assert "idle" not in found, "it waited for the slow ones"
        for thread in threads:
            thread.join(90)
        assert found["header"] is not None
        assert found["body"] is not None
        assert "nothing" in found
        assert found["idle"] >= QUICK["endpoint.http_server.IDLE_TIME"]
        # Alertmanager never retries a 4xx: it would take the notification for delivered.
        assert found["answer"] is None or found["answer"].status >= 500

    def test_a_client_that_does_not_read_its_answers(self, quick):
        with quick.client() as client:
            client.socket.setblocking(False)
            request = message("GET", "/api/v1/nothing") * 100
            deadline = time.monotonic() + 40
            try:
                while time.monotonic() < deadline:
                    try:
                        client.socket.send(request)
                    except BlockingIOError:
                        time.sleep(0.05)
                else:
                    pytest.fail("it was never cut off")
            except ConnectionError:
                pass
        assert quick.get(LIVE).status == 200


class TestFull:
    def test_the_oldest_without_a_whole_header_goes(self, make):
        endpoint = make(max_connections=5)
        waiting = []
        with endpoint.client() as asks:

            def connections():
                asks.send(message("GET", "/metrics"))
                lines = asks.read().body.decode().splitlines()
                return next(n.split()[1] for n in lines if n.startswith("poundcake_connections "))

            try:
                for count in range(2, 6):
                    waiting.append(endpoint.client())
                    # Each has a thread of its own, and those of two at once may overtake.
                    wait_for(lambda: float(connections()) == count)
                assert endpoint.post(webhook()).status == 202
                assert waiting[0].closed()
                for client in waiting[1:]:
                    client.send(message("GET", LIVE))
                    assert client.read().status == 200
            finally:
                for client in waiting:
                    client.socket.close()

    def test_a_request_under_way_stays(self, make):
        endpoint = make(max_connections=3)
        with endpoint.client() as busy:
            length = str(len(BODY))
            busy.send(message("POST", HOOK, b"", Content_Length=length, Expect="100-continue"))
            assert busy.read().status == 100  # it has the header
            others = [endpoint.client() for _ in range(6)]
            wait_for(lambda: sum(ended(other) for other in others) >= 4)
            busy.send(BODY)
            assert busy.read().status == 202
            for other in others:
                other.socket.close()

    def test_the_bound_holds_however_fast_they_come(self, make):
        endpoint = make(max_connections=10)
        clients = []
        try:
            for _ in range(120):
                clients.append(Client(endpoint.port))
            wait_for(lambda: sum(ended(client) for client in clients) >= 110)
            assert endpoint.post(webhook()).status == 202
        finally:
            for client in clients:
                client.socket.close()


class TestStopping:
    def test_takes_less_than_5_seconds_with_requests_in_flight(self, make):
        endpoint = make()
        idle = endpoint.client()
        slow = endpoint.client()
        slow.send(message("POST", HOOK, b"", Content_Length="500") + b"x")
        answers, ending = [], threading.Event()

        def work():
            while not ending.is_set():
                try:
                    answer = endpoint.post(webhook())
                    answers.append(answer)
                except OSError:
                    return
                except AssertionError:
                    return

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answers) > 20)
        began = time.monotonic()
        endpoint.stop()
        took = time.monotonic() - began
        ending.set()
        for thread in threads:
            thread.join(20)
        assert took < 15
        assert not endpoint.alive
        assert {a.status for a in answers if a} <= {202, 503}
        stored = {e[0] for e in endpoint.entries()}
        accepted = {a.json["request_id"] for a in answers if a and a.status == 202}
        assert accepted and accepted <= stored
        with pytest.raises(OSError):
            endpoint.client()
        idle.socket.close()
        slow.socket.close()

    def test_a_request_that_is_almost_there_gets_its_answer(self, make):
        endpoint = make()
        with endpoint.client() as client:
            length = str(len(BODY))
            client.send(message("POST", HOOK, b"", Content_Length=length, Expect="100-continue"))
            assert client.read().status == 100
            client.send(BODY[:5])
            stopping = threading.Thread(target=endpoint.stop)
            stopping.start()
            wait_for(lambda: not services.accepts_connections(endpoint.port))
            client.send(BODY[5:])
            answer = client.read()
            assert (answer.status, answer.headers["connection"]) == (202, "close")
            stopping.join(10)
        assert endpoint.entries()[-1][0] == answer.json["request_id"]


@pytest.mark.parametrize("kind", [Patched, Unpatched])
class TestSignals:
    """The sensor as its container ends it: SIGTERM, and SIGKILL five seconds later."""

    def test_terminated(self, kind, tmp_path):
        endpoint = kind(tmp_path).start()
        try:
            endpoint.ready()
            request_id = endpoint.accept(webhook())
            idle = endpoint.client()
            began = time.monotonic()
            endpoint.process.send_signal(signal.SIGTERM)
            endpoint.process.wait(60)
            # 5 seconds for itself; the rest is what a busy machine takes to end a process.
            assert time.monotonic() - began < 15
            idle.socket.close()
            assert request_id in [e[0] for e in endpoint.entries()]
        finally:
            endpoint.stop()

    def test_killed_right_after_the_answer_and_started_again(self, kind, tmp_path):
        endpoint = kind(tmp_path).start()
        try:
            endpoint.ready()
            endpoint.set_broker(up=False)
            request_id = endpoint.accept(webhook())
            endpoint.process.kill()
            endpoint.process.wait()
            endpoint.set_broker(up=True)
            endpoint.start().ready()
            deadline = time.monotonic() + 60
            while endpoint.get("/api/v1/status/" + request_id).json["status"] != "completed":
                assert time.monotonic() < deadline
                time.sleep(0.05)
        finally:
            endpoint.stop()

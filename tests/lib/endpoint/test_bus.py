"""On a real RabbitMQ, the bus reports an unconfirmed message as an error, and recovers."""

from __future__ import annotations

import pickle
import socket
import subprocess
import threading
import time

import kombu
import pytest

from poundcake.endpoint.bus import Bus, BusError
from tests import services
from tests.faults.proxy import Proxy

EXCHANGE = kombu.Exchange("st2.trigger_instances_dispatch", type="topic", durable=True)


def connect_to(url):
    """Return a function that opens a connection, as Bus expects."""
    options = {"confirm_publish": True}
    return lambda: kombu.Connection(url, transport_options=options, connect_timeout=3)


@pytest.fixture
def queue(rabbitmq):
    """Return the rules engine's queue, empty and bound to StackStorm's exchange."""
    with kombu.Connection(rabbitmq.url) as connection:
        # Delete the queue that a StackStorm stand-in declared on the same server.
        stand_in_queue = EXCHANGE.name + ".rules_engine"
        kombu.Queue(stand_in_queue, channel=connection.channel()).delete()
        bound_queue = kombu.Queue("rules_engine", EXCHANGE, "#", durable=True)(connection)
        bound_queue.declare()
        bound_queue.purge()
    yield "rules_engine"
    rabbitmq.start()
    with kombu.Connection(rabbitmq.url) as connection:
        kombu.Queue("rules_engine", channel=connection.channel()).delete()


@pytest.fixture
def bus(rabbitmq, queue):
    bus = Bus(connect_to(rabbitmq.url))
    yield bus
    bus.close()


@pytest.fixture
def proxy(rabbitmq):
    """Return a proxy for the broker's port, which can cut connections."""
    proxy = Proxy(rabbitmq.port)
    yield proxy
    proxy.close()


@pytest.fixture
def proxied_bus(proxy, queue):
    bus = Bus(connect_to(f"amqp://guest:guest@127.0.0.1:{proxy.port}//"))
    yield bus
    bus.close()


def read_messages(url):
    """Return the messages that the rules engine would read."""
    messages = []
    with kombu.Connection(url) as connection:
        queue = kombu.Queue("rules_engine", channel=connection.channel())
        while True:
            message = queue.get(no_ack=True, accept=["pickle"])
            if message is None:
                return messages
            messages.append(message)


def test_another_node_of_a_cluster_is_used_if_one_is_down(rabbitmq, queue):
    """As with `cluster_urls` in st2.conf: StackStorm passes all of them to kombu."""
    down = f"amqp://guest:guest@127.0.0.1:{services.free_port()}//"
    bus = Bus(connect_to([down, rabbitmq.url]))
    try:
        bus.publish("poundcake.alert", {}, "the-request")
    finally:
        bus.close()
    assert len(read_messages(rabbitmq.url)) == 1


def test_a_trigger_has_the_format_that_stackstorm_reads(bus, rabbitmq):
    bus.publish("poundcake.alert", {"labels": {"a": "é 🍰"}}, "the-request")
    (message,) = read_messages(rabbitmq.url)
    assert message.payload == {
        "trigger": "poundcake.alert",
        "payload": {"labels": {"a": "é 🍰"}},
        "trace_context": {"trace_tag": "the-request"},
    }
    assert pickle.loads(message.body) == message.payload
    assert message.delivery_info["routing_key"] == "trigger_instance"
    # The message is persistent: it survives a restart of the broker.
    assert message.properties["delivery_mode"] == 2


def test_triggers_arrive_in_order_on_one_connection(bus, rabbitmq):
    for number in range(50):
        bus.publish("poundcake.alert", {"n": number}, "t")
    assert [m.payload["payload"]["n"] for m in read_messages(rabbitmq.url)] == list(range(50))


def test_threads_can_publish_concurrently(bus, rabbitmq):
    threads = [
        threading.Thread(target=bus.publish, args=("poundcake.alert", {"n": n}, "t"))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    numbers = [m.payload["payload"]["n"] for m in read_messages(rabbitmq.url)]
    assert sorted(numbers) == list(range(20))


def test_publishing_fails_while_the_queue_is_missing(bus, rabbitmq, queue):
    with kombu.Connection(rabbitmq.url) as connection:
        kombu.Queue(queue, channel=connection.channel()).delete()
    for _ in range(2):
        started_at = time.monotonic()
        with pytest.raises(BusError):
            bus.publish("poundcake.alert", {}, "t")
        assert time.monotonic() - started_at < 30
    with kombu.Connection(rabbitmq.url) as connection:
        kombu.Queue(queue, EXCHANGE, "#", durable=True)(connection).declare()
    bus.publish("poundcake.alert", {"n": 1}, "t")
    assert len(read_messages(rabbitmq.url)) == 1


def test_publishing_fails_while_the_broker_is_down(bus, rabbitmq):
    bus.publish("poundcake.alert", {"n": 0}, "t")
    rabbitmq.kill()
    for _ in range(2):
        started_at = time.monotonic()
        with pytest.raises(BusError) as caught:
            bus.publish("poundcake.alert", {"n": 1}, "t")
        assert time.monotonic() - started_at < 30
        assert "guest" not in str(caught.value)
    rabbitmq.start()
    bus.publish("poundcake.alert", {"n": 2}, "t")
    assert [m.payload["payload"]["n"] for m in read_messages(rabbitmq.url)] == [0, 2]


def test_a_connection_lost_between_messages_is_replaced(proxied_bus, proxy, rabbitmq):
    proxied_bus.publish("poundcake.alert", {"n": 0}, "t")
    proxy.cut()
    proxied_bus.publish("poundcake.alert", {"n": 1}, "t")
    assert [m.payload["payload"]["n"] for m in read_messages(rabbitmq.url)] == [0, 1]


def test_publishing_to_a_silent_broker_fails_after_the_timeout():
    """The broker listens but never answers, like a broker that is out of memory."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(5)
        url = f"amqp://guest:guest@127.0.0.1:{listener.getsockname()[1]}//"
        bus = Bus(connect_to(url))
        started_at = time.monotonic()
        with pytest.raises(BusError):
            bus.publish("poundcake.alert", {}, "t")
        assert time.monotonic() - started_at < 30


def test_publishing_to_a_broker_that_is_out_of_memory_fails_after_the_timeout(bus, rabbitmq):
    """During a memory alarm, RabbitMQ accepts the bytes and confirms nothing."""

    def run_rabbitmqctl(*args):
        # /usr/sbin/rabbitmqctl is a wrapper that switches to another user.
        try:
            program = services.program("/usr/lib/rabbitmq/bin/rabbitmqctl", "rabbitmqctl")
            subprocess.run(
                [program, "--node", rabbitmq.node, *args],
                env=rabbitmq.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=True,
            )
        except (services.MissingProgram, subprocess.CalledProcessError) as error:
            pytest.skip(f"rabbitmqctl: {getattr(error, 'output', error)}")

    run_rabbitmqctl("set_vm_memory_high_watermark", "0.000001")
    try:
        deadline = time.monotonic() + 60
        with pytest.raises(BusError):
            while True:  # the alarm takes a moment to reach the connections
                started_at = time.monotonic()
                bus.publish("poundcake.alert", {"n": 1}, "t")
                assert started_at < deadline, "messages are still confirmed"
        assert time.monotonic() - started_at < 30
    finally:
        run_rabbitmqctl("set_vm_memory_high_watermark", "0.4")
    deadline = time.monotonic() + 60
    while True:
        try:
            bus.publish("poundcake.alert", {"n": 2}, "t")
            break
        except BusError:
            assert time.monotonic() < deadline
    assert read_messages(rabbitmq.url)[-1].payload["payload"] == {"n": 2}


def test_the_error_about_a_wrong_password_does_not_show_the_password(rabbitmq):
    bus = Bus(connect_to(f"amqp://nobody:hidden-word@127.0.0.1:{rabbitmq.port}//"))
    for connect in (bus.check, lambda: bus.publish("poundcake.alert", {}, "t")):
        with pytest.raises(BusError) as caught:
            connect()
        assert "hidden-word" not in str(caught.value)


def test_closing_does_not_wait_for_a_lost_connection(proxied_bus, proxy):
    """The broker no longer answers, but nothing has reset the connection."""

    def close_twice():
        proxied_bus.close()
        proxied_bus.close()

    proxied_bus.publish("poundcake.alert", {}, "t")
    proxy.is_stalled = True
    thread = threading.Thread(target=close_twice, daemon=True)
    thread.start()
    thread.join(20)
    is_waiting = thread.is_alive()
    proxy.close()
    assert not is_waiting


def test_an_unreachable_server_raises_an_error():
    bus = Bus(connect_to(f"amqp://guest:guest@127.0.0.1:{services.free_port()}//"))
    started_at = time.monotonic()
    with pytest.raises(BusError):
        bus.check()
    with pytest.raises(BusError):
        bus.publish("poundcake.alert", {}, "t")
    assert time.monotonic() - started_at < 30


def test_a_check_publishes_nothing_and_keeps_the_connection(bus, rabbitmq):
    bus.check()
    assert read_messages(rabbitmq.url) == []
    bus.publish("poundcake.alert", {"n": 1}, "t")
    assert len(read_messages(rabbitmq.url)) == 1


def test_an_unserializable_message_raises_an_error_and_the_next_one_is_sent(bus, rabbitmq):
    with pytest.raises(BusError):
        bus.publish("poundcake.alert", {"n": threading.Lock()}, "t")
    bus.publish("poundcake.alert", {"n": 2}, "t")
    assert [m.payload["payload"]["n"] for m in read_messages(rabbitmq.url)] == [2]

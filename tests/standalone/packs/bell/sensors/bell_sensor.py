import http.server
import json
import os
import pickle
import threading

from kombu import Connection
from st2common.transport import reactor, utils
from st2reactor.sensor.base import Sensor


class BellSensor(Sensor):
    def setup(self):
        self.logger = self.sensor_service.get_logger("BellSensor")
        self._lock = threading.Lock()
        self._connection = self._channel = None
        sensor = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    answer = sensor.ring(body)
                    self.send_response(202)
                except Exception as error:
                    answer = repr(error)
                    self.send_response(503)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *arguments):
                pass

        address = (self.config["host"], self.config["port"])
        self.server = http.server.ThreadingHTTPServer(address, Handler)

    def ring(self, body):
        if body.get("ask"):
            client = self.sensor_service.datastore_service.get_api_client()
            return [action.ref for action in client.actions.query(pack="bell")]
        if body.get("how") == "fail":
            self.broken = True
            threading.Thread(target=self.server.shutdown).start()
        elif body.get("how") == "dispatch":
            self.sensor_service.dispatch("bell.rung", body["payload"], trace_tag=body["tag"])
        else:
            self.publish(body)
        return os.environ["ST2_API_URL"]

    def publish(self, body):
        message = {"trigger": "bell.rung", "payload": body["payload"]}
        message["trace_context"] = {"trace_tag": body["tag"]}
        with self._lock:
            try:
                if self._channel is None:
                    options = {"transport_options": {"confirm_publish": True}}
                    options["connect_timeout"] = 3
                    self._connection = utils.get_connection(connection_kwargs=options)
                    assert isinstance(self._connection, Connection)
                    self._channel = self._connection.channel()
                prepared = self._channel.prepare_message(
                    pickle.dumps(message),
                    content_type="application/x-python-serialize",
                    content_encoding="binary",
                    properties={"delivery_mode": 2},
                )
                self._channel.basic_publish(
                    prepared,
                    exchange=reactor.TRIGGER_INSTANCE_XCHG.name,
                    routing_key="trigger_instance",
                    mandatory=True,
                    timeout=5,
                    confirm_timeout=5,
                )
            except Exception:
                if self._connection is not None:
                    self._connection.collect()
                self._connection = self._channel = None
                raise

    def run(self):
        self.server.serve_forever(poll_interval=0.05)
        if getattr(self, "broken", False):
            raise RuntimeError("broken as told")

    def cleanup(self):
        self.server.shutdown()
        with open(os.path.join(self.config["state_dir"], "cleaned-up"), "w"):
            pass

    def add_trigger(self, trigger):
        pass

    def update_trigger(self, trigger):
        pass

    def remove_trigger(self, trigger):
        pass
